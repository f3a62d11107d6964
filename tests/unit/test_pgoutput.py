"""Rows of the log's messages: the columns that are asked for, and no others."""

import struct

import pytest

from sync_pipeline.sources.pgoutput import Change, parse

NULL, UNCHANGED = "null", "unchanged"
OID = 16_384


def row(tag, *values):
    """A row as the log sends it: texts, NULL, or UNCHANGED for a long value that the new row leaves out."""
    sent = tag.encode() + struct.pack("!H", len(values))
    for value in values:
        if value in {NULL, UNCHANGED}:
            sent += b"n" if value == NULL else b"u"
        else:
            sent += b"t" + struct.pack("!I", len(value)) + value.encode()
    return sent


def change(kind, *rows):
    message = kind.encode() + struct.pack("!I", OID) + b"".join(rows)
    found = parse(message)
    assert isinstance(found, Change)
    assert found.oid == OID
    return found


def read(found, *places):
    return [dict(values) for values in found.rows(frozenset(places))]


@pytest.mark.parametrize("places", [(0,), (2,), (0, 2), (0, 1, 2, 3), ()])
def test_an_inserted_row_is_read_at_the_places_asked_for(places):
    values = [b"7", None, b"", b"t"]  # a text may be empty, and may look like the mark of another column
    assert read(change("I", row("N", "7", NULL, "", "t")), *places) == [{place: values[place] for place in places}]


def test_an_update_with_the_old_row_is_read_as_both():
    found = change("U", row("O", "7", "u" * 300, "c"), row("N", "8", UNCHANGED, "d"))
    assert read(found, 0, 1) == [{0: b"7", 1: b"u" * 300}, {0: b"8", 1: b"u" * 300}]
    assert read(found, 2) == [{2: b"c"}, {2: b"d"}]


def test_an_update_of_the_key_is_read_as_the_former_key_and_the_new_row():
    found = change("U", row("K", "7", NULL), row("N", "8", "text"))
    assert read(found, 0) == [{0: b"7"}, {0: b"8"}]


def test_a_long_value_that_was_not_sent_is_none_where_the_old_row_was_not_either():
    assert read(change("U", row("N", "7", UNCHANGED)), 0, 1) == [{0: b"7", 1: None}]


@pytest.mark.parametrize("tag", ["K", "O"])
def test_a_deleted_row_is_read_from_what_the_log_tells_of_it(tag):
    assert read(change("D", row(tag, "7", NULL, "z")), 0, 1) == [{0: b"7", 1: None}]
