"""Bulk bodies: every operation once, in order, in bodies of a bounded size."""

import json

import pyarrow as pa

from sync_pipeline.sinks.search import SearchIndex, bulk

IDS = pa.array(["1", 'кл"юч', "3", "4", "5"])
VERSIONS = pa.array([7, 8, 9, 9, 9], pa.int64())
DOCUMENTS = pa.array(['{"t":"א"}', None, '{"t":"🎬"}', "{}", '{"t":"' + "x" * 300 + '"}'])


def lines(bodies):
    return [json.loads(line) for body, _ in bodies for line in body.decode().splitlines()]


def test_small_bodies_hold_what_one_body_holds(monkeypatch):
    (whole,) = bulk._bodies(IDS, VERSIONS, DOCUMENTS)
    monkeypatch.setattr(bulk, "_BULK_BYTES", 150)
    parts = list(bulk._bodies(IDS, VERSIONS, DOCUMENTS))
    assert [count for _, count in parts] == [2, 2, 1]
    assert b"".join(body for body, _ in parts) == whole[0]
    assert lines(parts)[:3] == [
        {"index": {"_id": "1", "version_type": "external_gte", "version": 7}},
        {"t": "א"},
        {"delete": {"_id": 'кл"юч', "version_type": "external_gte", "version": 8}},
    ]


def test_a_slice_is_its_own_rows_only():
    (part,) = bulk._bodies(IDS[2:4], VERSIONS[2:4], DOCUMENTS[2:4])
    assert part[1] == 2
    assert [line for line in lines([part]) if "index" not in line] == [{"t": "🎬"}, {}]


def test_json_of_several_lines_is_one_line():
    """As PostgreSQL's json keeps it: a line break between two operations would have the cluster refuse all of them."""
    index = SearchIndex("films", fields={"attrs": {}, "text": {}}, json_fields=frozenset({"attrs"}))
    attrs = ['{\n  "a": [1,\n 2]\n}', None, '{"b": "x\\ny"}']
    documents = index.documents(pa.table({"attrs": attrs, "text": ["of two\nlines", "", None]}))
    (part,) = bulk._bodies(IDS[:3], VERSIONS[:3], documents)
    assert [line for line in lines([part]) if "index" not in line] == [
        {"attrs": {"a": [1, 2]}, "text": "of two\nlines"},
        {"attrs": None, "text": ""},
        {"attrs": {"b": "x\ny"}, "text": None},
    ]


def test_nothing_is_no_body():
    assert list(bulk._bodies(IDS[:0], VERSIONS[:0], DOCUMENTS[:0])) == []
