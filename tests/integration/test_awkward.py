"""The awkward monolith, point by point: each is changed under the live delta, without a sweep, and comes out right."""

import datetime as dt
import json

import pytest

from sync_pipeline.db.columns import read_copy
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import copy_text
from sync_pipeline.entities.origin import Origin
from sync_pipeline.errors import LegacySchemaError
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.garbage import collect
from sync_pipeline.stores.stores import Stores
from tests.awkward.ground import awkward_world, differences, followed, installed
from tests.awkward.load import BIG, GIANT, NOWHERE
from tests.awkward.texts import CODES, NO_DOCUMENT, body
from tests.world import wait_for

A, B, C = (f"00000000-0000-4000-8000-00000000000{n}" for n in (1, 2, 3))
FILM = '"Old Vault"."Film"'


@pytest.fixture(scope="module")
def world(fleet):
    with awkward_world(fleet, "awkward", "outbox", rows=60, SYNC_SWEEP_SECONDS="1e9") as world, installed(world):
        world.backfill()
        assert len(waiting(world)) == world.legacy("SELECT count(*) FROM scene")[0][0]  # filled before their works
        with followed(world):
            settle(world)
            assert differences(world) == []
            yield world


@pytest.fixture
def films(world):
    """Two published films and a draft, made anew for each test."""
    world.legacy(f'DELETE FROM {FILM} WHERE "Id" IN (%s, %s, %s)', [A, B, C])
    world.legacy("DELETE FROM clip WHERE id IN (%s, %s, %s)", [A, B, C])
    world.legacy("DELETE FROM tag WHERE title IN (%s, %s, %s)", [A, B, C])
    world.legacy("DELETE FROM place WHERE title IN (%s, %s, %s)", [A, B, C])
    for key, state in ((A, "P"), (B, "P"), (C, "D")):
        world.legacy(
            f'INSERT INTO {FILM} ("Id", "Title", "State", "Label") VALUES (%s, %s, %s, %s)', [key, key, state, GIANT]
        )
    settle(world)


def settle(world):
    """All events are acknowledged, and nothing but parked rows is owed."""
    wait_for(lambda: not world.legacy("SELECT 1 FROM outbox WHERE processed_at IS NULL"))
    wait_for(lambda: not world.target("SELECT 1 FROM sync.due WHERE reason <> 'rejected'"))


def title(world, key, columns):
    found = world.target(f"SELECT {columns} FROM awkward.title WHERE id = %s", [key])
    return found[0] if found else None


def document(world, alias, key):
    """A document's fields; None when there is none."""
    found = world.document("POST", f"{alias}/_mget", {"ids": [key]})["docs"][0]
    return found["_source"] if found.get("found") else None


def label(world, code, columns):
    found = world.target(f"SELECT {columns} FROM awkward.label WHERE code = %s", [code])
    return found[0] if found else None


def parked(world, entity):
    due = world.target("SELECT key, step, message FROM sync.due WHERE entity = %s AND reason = 'rejected'", [entity])
    return {key: (step, message) for key, step, message in due}


def waiting(world):
    """Scenes that wait for their work."""
    return world.target("SELECT key FROM sync.due WHERE entity = 'aw_scene' AND waits_for = 'aw_work'")


def put(world, path, content):
    world.client.put_object(Bucket=world.legacy_bucket, Key=path, Body=content)


def content(world, key):
    return world.client.get_object(Bucket=world.target_bucket, Key=key)["Body"].read()


def asset(world, number, path):
    """An asset of our own; gone and there again, so that nothing refers to an old one."""
    world.legacy("DELETE FROM asset WHERE id = %s", [number])
    world.legacy("INSERT INTO asset (id, path) VALUES (%s, %s)", [number, path])


def test_two_tables_become_one_entity_and_rows_go_from_one_to_the_other(world, films):
    world.legacy(
        f'WITH f AS (DELETE FROM {FILM} WHERE "Id" = %s RETURNING *)'
        ' INSERT INTO clip SELECT "Id", "Title", "Body", "Label", "State", "Extra" FROM f',
        [A],
    )
    settle(world)
    assert title(world, A, "kind, name") == ("clip", A)
    assert document(world, "aw_title", A)["kind"] == "clip"


def test_a_rename_two_tables_away_reaches_the_titles(world, films):
    code = world.legacy("SELECT country FROM label WHERE code = %s", [GIANT])[0][0]
    world.legacy("UPDATE country SET name = 'renamed' WHERE code = %s", [code])
    settle(world)
    assert title(world, A, "country") == ("renamed",)
    assert label(world, GIANT, "country") == ("renamed",)


def test_a_country_whose_code_is_padded_reaches_its_labels(world):
    world.legacy("UPDATE label SET country = 'N ' WHERE code = '7'")
    world.legacy("UPDATE country SET name = 'padded' WHERE code = 'N '")
    settle(world)
    assert label(world, "7", "country") == ("padded",)


def test_a_parents_new_name_reaches_all_its_titles(world, films):
    world.legacy("UPDATE label SET name = 'renamed' WHERE code = %s", [GIANT])
    settle(world)
    ((count,),) = world.target("SELECT count(*) FROM awkward.title WHERE label = 'renamed'")
    of_both = f"""SELECT "Label" FROM {FILM} WHERE "State" <> 'X' UNION ALL SELECT label FROM clip WHERE state <> 'X'"""
    assert world.legacy(f"SELECT count(*) FROM ({of_both}) t (label) WHERE label = %s", [GIANT]) == [(count,)]


def editions(world, key):
    """Rows and documents of a film's editions, by language."""
    rows = world.target("SELECT lang, name FROM awkward.edition WHERE film = %s", [key])
    query = {"query": {"term": {"film": key}}}
    world.document("POST", "aw_edition/_refresh")
    hits = world.document("POST", "aw_edition/_search", query)["hits"]["hits"]
    return dict(rows), {hit["_source"]["lang"]: hit["_source"]["name"] for hit in hits}


@pytest.mark.parametrize("states", ["PP", "PD", "PX"])
def test_one_row_becomes_none_one_or_several_which_come_and_go(world, films, states):
    several = {"de": "eins", "en": "one", "ja": "一"}

    def listed(names):
        extra = json.dumps({"editions": [{"lang": lang, "name": name} for lang, name in names.items()]})
        world.legacy(f'UPDATE {FILM} SET "Extra" = %s WHERE "Id" = %s', [extra, A])
        settle(world)
        return editions(world, A)

    assert listed(several) == (several, several)
    assert listed({"en": "first"}) == ({"en": "first"}, {"en": "first"})
    assert listed({}) == ({}, {})
    assert listed(several) == (several, several)
    world.legacy(f'UPDATE {FILM} SET "State" = %s WHERE "Id" = %s', [states[1], A])
    settle(world)
    there = {} if states[1] == "X" else several
    assert editions(world, A) == (there, there if states[1] == "P" else {})


def test_tags_are_sorted_and_the_first_address_is_taken(world, films):
    world.legacy("INSERT INTO tag VALUES (%(a)s, 'b'), (%(a)s, 'a'), (%(a)s, 'b'), (%(a)s, NULL)", {"a": A})
    world.legacy("INSERT INTO place (title, rank, city) VALUES (%(a)s, NULL, 'none'), (%(a)s, 2, 'two')", {"a": A})
    settle(world)
    assert title(world, A, "tags, city") == (["a", "b", "b", None], "two")
    world.legacy("DELETE FROM place WHERE title = %s AND rank = 2", [A])
    world.legacy("DELETE FROM tag WHERE title = %s AND tag = 'b'", [A])
    settle(world)
    assert title(world, A, "tags, city") == (["a", None], "none")


def test_a_child_that_moves_changes_both_roots(world, films):
    world.legacy("INSERT INTO tag VALUES (%s, 'moved')", [A])
    world.legacy("INSERT INTO place (title, city) VALUES (%s, 'moved')", [A])
    settle(world)
    world.legacy("UPDATE tag SET title = %s WHERE title = %s", [B, A])
    world.legacy("UPDATE place SET title = %s WHERE title = %s", [B, A])
    settle(world)
    assert title(world, A, "tags, city") == ([], None)
    assert title(world, B, "tags, city") == (["moved"], "moved")


@pytest.mark.hazard(13)
def test_a_row_under_another_key_takes_the_old_one_with_it(world, films):
    world.legacy(f'UPDATE {FILM} SET "Id" = %s WHERE "Id" = %s', [A[:-1] + "9", A])
    settle(world)
    assert title(world, A, "1") is document(world, "aw_title", A) is None
    assert title(world, A[:-1] + "9", "name") == (A,)
    world.legacy(f'UPDATE {FILM} SET "Id" = %s WHERE "Id" = %s', [A, A[:-1] + "9"])


def test_ids_in_json_lead_to_files_or_nowhere(world, films):
    for n in (701, 702):
        put(world, f"json/{n}.jpg", f"file {n}")
        asset(world, n, f"json/{n}.jpg")
    extra = {"poster": "701", "stills": [702, NOWHERE, "701", 702]}
    world.legacy(f'UPDATE {FILM} SET "Extra" = %s WHERE "Id" = %s', [json.dumps(extra), A])
    settle(world)
    poster, stills = title(world, A, "poster, stills")
    assert [content(world, key) for key in (poster, *stills)] == [b"file 701", b"file 702", b"file 701", b"file 702"]
    assert document(world, "aw_title", A)["stills"] == stills
    for odd in ('"no object"', '{"stills": 7, "poster": null}', "null", None):
        world.legacy(f'UPDATE {FILM} SET "Extra" = %s WHERE "Id" = %s', [odd, A])
        settle(world)
        assert title(world, A, "poster, stills") == (None, [])


def test_a_shared_file_that_is_overwritten_changes_all_rows_that_name_it(world, films):
    put(world, "shared.jpg", "before")
    asset(world, 703, "shared.jpg")
    world.legacy(f"""UPDATE {FILM} SET "Extra" = '{{"poster": 703}}' WHERE "Id" IN (%s, %s)""", [A, B])
    settle(world)
    old = title(world, A, "poster")
    assert title(world, B, "poster") == old
    put(world, "shared.jpg", "after!")
    world.legacy("UPDATE asset SET revised = DEFAULT WHERE id = 703")
    settle(world)
    assert title(world, A, "poster") == title(world, B, "poster") != old
    assert content(world, title(world, A, "poster")[0]) == b"after!"


def test_garbage_leaves_a_shared_file_until_its_last_row_is_gone(world, films):
    put(world, "last.jpg", "shared by two")
    asset(world, 704, "last.jpg")
    world.legacy(f"""UPDATE {FILM} SET "Extra" = '{{"poster": 704}}' WHERE "Id" IN (%s, %s)""", [A, B])
    settle(world)
    ((poster,),) = world.target("SELECT poster FROM awkward.title WHERE id = %s", [A])
    for key, left in ((A, True), (B, False)):
        world.legacy(f'DELETE FROM {FILM} WHERE "Id" = %s', [key])
        settle(world)
        tidy(world)
        there = world.client.list_objects_v2(Bucket=world.target_bucket, Prefix=poster)["KeyCount"]
        assert bool(there) is left


def tidy(world):
    """Garbage at once."""
    stores = Stores(world.stores.settings.__class__(**{**vars(world.stores.settings), "garbage_grace_seconds": 0.0}))
    collect(stores)
    collect(stores)
    stores.close()


def test_a_file_that_is_missing_parks_its_rows_until_it_comes(world, films):
    asset(world, 705, "late.jpg")
    world.legacy(f"""UPDATE {FILM} SET "Extra" = '{{"stills": [705]}}', "Title" = 'new' WHERE "Id" = %s""", [A])
    settle(world)
    assert parked(world, "aw_title")[A] == ("media", "the legacy bucket holds no file 'late.jpg'")
    assert title(world, A, "name") == (A,)
    put(world, "late.jpg", "here it is")
    wait_for(lambda: A not in parked(world, "aw_title"))
    settle(world)
    name, (still,) = title(world, A, "name, stills")
    assert (name, content(world, still)) == ("new", b"here it is")


def test_a_file_that_is_dropped_is_let_go_by_rows_that_still_name_it(world, films):
    put(world, "dropped.jpg", "soon gone")
    asset(world, 706, "dropped.jpg")
    world.legacy(f"""UPDATE {FILM} SET "Extra" = '{{"poster": 706}}' WHERE "Id" = %s""", [A])
    world.legacy("UPDATE airing SET poster = 706 WHERE channel = (SELECT min(channel) FROM airing)")
    settle(world)
    assert title(world, A, "poster") != (None,)
    world.legacy("DELETE FROM asset WHERE id = 706")
    settle(world)
    assert title(world, A, "poster") == (None,)
    assert differences(world) == []


def test_a_parent_under_another_key_is_let_go_by_rows_that_name_the_old_one(world, films):
    put(world, "renumbered.jpg", "the same")
    asset(world, 707, "renumbered.jpg")
    world.legacy(f"""UPDATE {FILM} SET "Extra" = '{{"poster": 707}}' WHERE "Id" = %s""", [A])
    settle(world)
    world.legacy("UPDATE asset SET id = 7070 WHERE id = 707")
    settle(world)
    assert title(world, A, "poster") == (None,)


@pytest.mark.hazard(33)
def test_texts_that_look_alike_are_keys_of_their_own(world):
    found = {code for (code,) in world.target("SELECT code FROM awkward.label")}
    assert found == {code for (code,) in world.legacy("SELECT code FROM label")} >= {*CODES, *NO_DOCUMENT}
    for n, code in enumerate(CODES):
        world.legacy("UPDATE label SET name = %s, state = 'P' WHERE code = %s", [f"this is {n}", code])
    settle(world)
    for n, code in enumerate(CODES):
        assert label(world, code, "name") == (f"this is {n}",)
        assert document(world, "aw_label", code)["code"] == code
        assert document(world, "aw_label", code)["name"] == f"this is {n}"


def test_a_key_that_reads_like_an_emptied_table_is_a_key(world):
    world.legacy("UPDATE label SET name = 'a star' WHERE code = '*'")
    settle(world)
    assert label(world, "*", "name") == ("a star",)
    assert world.target("SELECT gap_at FROM sync.cursor WHERE entity = 'aw_label'") == [(None,)]


def test_an_id_no_document_can_bear_is_parked_alone(world):
    world.legacy("UPDATE label SET state = 'P' WHERE code = ANY(%s)", [["7", *NO_DOCUMENT]])
    settle(world)
    assert {*NO_DOCUMENT} <= {key for key, (step, _) in parked(world, "aw_label").items() if step == "document"}
    assert document(world, "aw_label", "7")
    assert all(label(world, code, "code") == (code,) for code in NO_DOCUMENT)
    world.legacy("UPDATE label SET name = name WHERE code = ANY(%s)", [[*NO_DOCUMENT]])
    settle(world)
    assert {*NO_DOCUMENT} <= parked(world, "aw_label").keys()
    world.legacy("UPDATE label SET state = 'D' WHERE code = ANY(%s)", [[*NO_DOCUMENT]])
    settle(world)
    assert not {*NO_DOCUMENT} & parked(world, "aw_label").keys()


def test_a_key_of_three_columns_changes_column_by_column(world):
    slot = dt.datetime(2031, 1, 1, 12, 30, 0, 1, tzinfo=dt.UTC)
    key = ['a,"b"\\\t', slot, True]
    world.legacy("INSERT INTO airing (channel, slot, hd, poster) VALUES (%s, %s, %s, 1)", key)
    changes = {
        "channel = 'x' || channel": ("x" + key[0], slot, True),
        "slot = slot + interval '1 us'": ("x" + key[0], slot + dt.timedelta(microseconds=1), True),
        "hd = false": ("x" + key[0], slot + dt.timedelta(microseconds=1), False),
    }
    for change, now in changes.items():
        world.legacy(f"UPDATE airing SET {change} WHERE slot > '2030-01-01'")
        settle(world)
        there = "SELECT channel, slot, hd FROM awkward.airing WHERE slot > '2030-01-01'"
        assert world.target(there) == [now]
    assert differences(world) == []
    world.legacy("DELETE FROM airing WHERE slot > '2030-01-01'")
    settle(world)
    assert world.target("SELECT 1 FROM awkward.airing WHERE slot > '2030-01-01'") == []
    assert world.target("SELECT 1 FROM sync.media_ref WHERE key LIKE '%%2031-01-01%%'") == []


def test_a_writer_with_settings_of_its_own_is_understood(world):
    ((channel, slot, hd),) = world.legacy("SELECT channel, slot, hd FROM airing ORDER BY 2 LIMIT 1")
    world.legacy(
        "BEGIN; SET LOCAL datestyle = 'German'; SET LOCAL timezone = 'Asia/Kathmandu';"
        "UPDATE airing SET note = 'from afar' WHERE (channel, slot, hd) = (%s, %s, %s); COMMIT",
        [channel, slot, hd],
    )
    settle(world)
    where = "WHERE (channel, slot, hd) = (%s, %s, %s)"
    assert world.target(f"SELECT note FROM awkward.airing {where}", [channel, slot, hd]) == [("from afar",)]


def test_an_event_of_the_monoliths_own_code_may_write_a_uuid_as_it_likes(world, films):
    event = "INSERT INTO outbox (aggregate_type, aggregate_id, event_type) VALUES ('aw_title', %s, 'by hand')"
    key = "abcdefab-cdef-4abc-8def-abcdefabcdef"
    world.legacy(f"""INSERT INTO {FILM} ("Id", "Title", "State") VALUES (%s, 'letters', 'P')""", [key])
    settle(world)
    world.legacy(f"ALTER TABLE {FILM} DISABLE TRIGGER USER")
    world.legacy(f"""UPDATE {FILM} SET "Title" = 'in capitals' WHERE "Id" = %s""", [key])
    world.legacy(f"ALTER TABLE {FILM} ENABLE TRIGGER USER")
    world.legacy(event, [key.upper()])
    settle(world)
    assert title(world, key, "name") == ("in capitals",)
    world.legacy(event, ["no uuid"])
    world.legacy(f"""UPDATE {FILM} SET "Title" = 'beside it' WHERE "Id" = %s""", [key])
    wait_for(lambda: title(world, key, "name") == ("beside it",))
    said = "SELECT last_error FROM outbox WHERE aggregate_id = 'no uuid'"
    wait_for(lambda: world.legacy(said) != [(None,)])
    assert "not a key of type uuid" in world.legacy(said)[0][0]
    world.legacy("DELETE FROM outbox WHERE aggregate_id = 'no uuid'")


def test_one_number_of_two_tables_is_two_works(world):
    world.legacy("INSERT INTO book (no, name) VALUES (-1, 'a book')")
    world.legacy("""INSERT INTO "Old Vault"."Disc" VALUES (-1, 'a disc')""")
    settle(world)
    of_one = "SELECT kind, name FROM awkward.work WHERE number = -1 ORDER BY 1"
    assert world.target(of_one) == [("book", "a book"), ("disc", "a disc")]
    world.legacy("DELETE FROM book WHERE no = -1")
    settle(world)
    assert world.target(of_one) == [("disc", "a disc")]
    assert document(world, "aw_work", '["book","-1"]') is None


def test_scenes_go_where_their_works_go(world):
    world.target("ALTER TABLE awkward.scene ADD FOREIGN KEY (work_kind, work_number) REFERENCES awkward.work")
    world.legacy("INSERT INTO book (no) VALUES (-7)")
    world.legacy("INSERT INTO scene (book) SELECT -7 FROM generate_series(1, 20)")
    settle(world)
    of_one = "SELECT count(*) FROM awkward.scene WHERE work_number = %s"
    assert world.target(of_one, [-7]) == [(20,)]
    world.legacy("UPDATE book SET no = -8 WHERE no = -7")
    settle(world)
    assert (world.target(of_one, [-7]), world.target(of_one, [-8])) == ([(0,)], [(20,)])
    world.legacy("DELETE FROM book WHERE no = -8")
    settle(world)
    assert world.target("SELECT 1 FROM awkward.work WHERE number < -1") == []
    assert world.target(of_one, [-8]) == [(0,)]


def test_a_stamp_that_goes_back_is_no_news_to_an_outbox(world):
    world.legacy("UPDATE airing SET note = 'played back', touched = '2001-01-01' WHERE hd")
    settle(world)
    assert world.target("SELECT 1 FROM awkward.airing WHERE hd AND note <> 'played back'") == []


def test_drafts_are_in_the_table_and_not_in_search(world, films):
    assert title(world, C, "is_public") == (False,)
    assert document(world, "aw_title", C) is None
    for state in "PDPXPD":
        world.legacy(f'UPDATE {FILM} SET "State" = %s WHERE "Id" IN (%s, %s)', [state, A, C])
        settle(world)
        assert (document(world, "aw_title", A) is not None) is (state == "P")
        assert (title(world, C, "1") is not None) is (state != "X")


def test_a_draft_whose_file_is_missing_is_not_left_in_search(world, films):
    asset(world, 708, "never.jpg")
    world.legacy(f"""UPDATE {FILM} SET "State" = 'D', "Extra" = '{{"poster": 708}}' WHERE "Id" = %s""", [A])
    settle(world)
    assert A in parked(world, "aw_title")
    assert document(world, "aw_title", A) is None
    assert reconcile(world.context("aw_title")).status == "clean"
    world.legacy(f"""UPDATE {FILM} SET "State" = 'P', "Extra" = NULL WHERE "Id" = %s""", [A])
    settle(world)
    assert document(world, "aw_title", A) is not None  # as it was before
    world.legacy(f"""UPDATE {FILM} SET "Extra" = '{{"poster": 708}}' WHERE "Id" = %s""", [A])
    settle(world)
    put(world, "never.jpg", "after all")
    world.legacy(f"""UPDATE {FILM} SET "State" = 'P' WHERE "Id" = %s""", [A])
    settle(world)
    assert document(world, "aw_title", A)["poster"] == title(world, A, "poster")[0]


def test_long_bodies_with_control_characters_arrive_whole(world):
    text = body(90_000, "all of it")
    world.legacy("UPDATE label SET story = %s, state = 'P'", [text])
    settle(world)
    assert world.target("SELECT code FROM awkward.label WHERE story <> %s", [text]) == []
    assert all(document(world, "aw_label", code)["story"] == text for code in CODES)


@pytest.mark.hazard(43)
def test_numbers_keep_all_their_digits(world, films):
    budget = "12345678901234567890.123456789012345678901234567890"
    world.legacy(
        f'UPDATE {FILM} SET "Budget" = %s, "Score" = %s, "Gross" = %s WHERE "Id" = %s',
        [budget, "99999999999999.0000000001", BIG, A],
    )
    settle(world)
    assert title(world, A, "budget::text, score::text, gross") == (budget, "99999999999999.0000000001", BIG)
    assert title(world, B, "gross") == (None,)
    found = world.document("POST", "aw_title/_mget", {"ids": [A]})["docs"][0]["_source"]
    assert (found["budget"], found["gross"]) == (budget, BIG)


@pytest.mark.hazard(34)
def test_what_is_written_again_with_the_same_values_writes_nothing(world, films):
    world.legacy(f'UPDATE {FILM} SET "Budget" = 1.0 WHERE "Id" = %s', [A])
    settle(world)
    before = counters(world)
    world.legacy(f'UPDATE {FILM} SET "Title" = "Title"')
    for table, column in (("label", "name"), ("country", "name"), ("clip", "caption"), ("tag", "tag")):
        world.legacy(f"UPDATE {table} SET {column} = {column}")
    world.legacy("UPDATE airing SET note = note, touched = localtimestamp")
    world.legacy("WITH t AS (DELETE FROM tag RETURNING *) INSERT INTO tag SELECT * FROM t ORDER BY random()")
    settle(world)
    assert counters(world) == before
    found = reconcile(world.context("aw_title")).findings
    assert [finding for finding in found if A in finding.key] == []


@pytest.mark.hazard(121)
def test_a_number_that_is_written_with_another_scale_arrives(world, films):
    for scale in ("1.0", "1.00"):
        world.legacy(f'UPDATE {FILM} SET "Budget" = {scale} WHERE "Id" = %s', [A])
        settle(world)
        assert title(world, A, "budget::text") == (scale,)


def counters(world):
    """Row versions, the cluster's own counts of writes, and the bucket's times."""
    rows = [
        world.target(f"SELECT {key}, xmin::text, ctid::text FROM awkward.{table} ORDER BY 1")
        for table, key in (("title", "id"), ("label", "code"), ("airing", "row(channel, slot, hd)::text"))
    ]
    stats = world.document("GET", "aw_title,aw_label,aw_airing/_stats/indexing")["_all"]["primaries"]["indexing"]
    listing = world.client.list_objects_v2(Bucket=world.target_bucket)["Contents"]
    files = sorted((item["Key"], item["LastModified"]) for item in listing)
    return rows, stats["index_total"], stats["delete_total"], files


def test_a_key_reads_the_same_in_sql_and_here(world):
    """Parked rows, files and documents are found by that text."""
    values = {
        "text": ["a,b", 'quo"te', "\x01\t\n", "cafe\u0301"],
        "uuid": [A],
        "bigint": [BIG],
        "boolean": [True, False],
        "date": [dt.date(2024, 2, 29)],
        "timestamp with time zone": ["2024-01-01 12:00:00+02", "2024-01-01 00:00:00.000001Z"],
        "timestamp without time zone": ["2024-01-01 12:00:00", "2024-01-01 12:00:00.1"],
        "numeric(20,2)": ["1.00", "-0.5"],
    }
    with world.stores.legacy() as cursor:
        for kind, examples in values.items():
            for example in examples:
                key = Key(("a", "b"), (kind, "text"))
                cursor.execute("SELECT %s::text", [example])
                row = cursor.mogrify(f"(SELECT %s::{kind} AS a, 'x'::text AS b) q", [example]).decode()
                table = read_copy(copy_text(cursor, f"SELECT * FROM {row}"), key.schema)
                cursor.execute(f"SELECT {key.text_expression('q')} FROM {row}")
                assert key.texts(table).to_pylist() == [cursor.fetchone()[0]]
                assert key.parse(key.texts(table).to_pylist()) == table


def test_a_padded_key_is_refused_by_name(world):
    entity = world.context("aw_label").entity
    origin = type(entity.origin)("SELECT code FROM country", key=("code",))
    with pytest.raises(LegacySchemaError, match="'code' is filled up with spaces"):
        Origin.open(type(entity)(**{**vars(entity), "origin": origin}), world.stores)


def test_the_oracle_finds_what_is_planted_and_nothing_else(world, films):
    """The last one: it leaves the new side as it planted it."""
    put(world, "planted.jpg", "a file")
    asset(world, 709, "planted.jpg")
    world.legacy(f"""UPDATE {FILM} SET "Extra" = '{{"poster": 709}}' WHERE "Id" = %s""", [A])
    world.legacy("UPDATE label SET state = 'P' WHERE code IN ('007', '1.0', 'café')")
    world.legacy("UPDATE asset SET path = '0/no extension' WHERE id <> 709")  # so that no other row is parked
    settle(world)
    unfit = {("due", "label", code, "owed") for code in parked(world, "aw_label")}
    assert {found[:4] for found in differences(world)} <= unfit
    world.target("DELETE FROM awkward.label WHERE code = '7'")
    world.target("UPDATE awkward.label SET founded = coalesce(founded, 0) + 1 WHERE code = '0x7'")
    world.target("UPDATE awkward.title SET body = 'by hand', score = 1.5 WHERE id = %s", [C])
    world.target("INSERT INTO awkward.airing VALUES ('planted', '2000-01-01', true)")
    world.target(
        "INSERT INTO sync.due (entity, reason, key, revision, priority, not_before)"
        " VALUES ('aw_title', 'sweep', %s, 0, 7, 'infinity')",
        [B],
    )
    world.document("DELETE", "aw_label/_doc/007")
    world.document("PUT", "aw_label/_doc/1.0", {"code": "1.0"})
    world.document("PUT", f"aw_title/_doc/{C}", {"name": "a draft"})
    world.client.put_object(Bucket=world.target_bucket, Key=title(world, A, "poster")[0], Body=b"a Tile")
    fields = ("name", "story", "founded", "country", "logo")
    planted = {
        ("row", "label", "7", "missing"),
        ("row", "label", "0x7", "founded"),
        ("row", "title", C, "body"),
        ("row", "title", C, "score"),
        ("row", "airing", '["planted","2000-01-01 00:00:00.000000Z","true"]', "extra"),
        ("due", "title", B, "owed"),
        ("document", "label", "007", "missing"),
        ("document", "title", C, "extra"),
        ("file", "title", A, "bytes"),
        *(("document", "label", "1.0", name) for name in fields),
    }
    found = {found[:4] for found in differences(world)} - unfit
    assert found == planted
