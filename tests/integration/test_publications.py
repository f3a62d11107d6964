"""What `wal install` makes in the monolith: no write fails on the way, and `uninstall` puts all of it back."""

from contextlib import closing
from dataclasses import replace

import pandas as pd
import psycopg2
import pytest

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.run.capture import subject_of
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources import publication
from sync_pipeline.sources.ddl import apply_steps, printed
from sync_pipeline.sources.table import Literal, Table
from sync_pipeline.sources.wal import Wal
from tests.installed import catalogue
from tests.world import opened, wait_for

MONOLITH = """
    CREATE TABLE note (id bigint PRIMARY KEY, title text);
    CREATE TABLE mark (id bigint NOT NULL, note bigint NOT NULL, word text) PARTITION BY RANGE (id);
    CREATE TABLE mark_keyed PARTITION OF mark (PRIMARY KEY (id)) FOR VALUES FROM (0) TO (10);
    CREATE TABLE mark_bare PARTITION OF mark FOR VALUES FROM (10) TO (20);
    CREATE TABLE mark_indexed PARTITION OF mark FOR VALUES FROM (20) TO (30);
    CREATE UNIQUE INDEX "Mark of id" ON mark_indexed (id);
    ALTER TABLE mark_indexed REPLICA IDENTITY USING INDEX "Mark of id";
    CREATE TABLE mark_silent PARTITION OF mark FOR VALUES FROM (30) TO (40);
    ALTER TABLE mark_silent REPLICA IDENTITY NOTHING;
    CREATE TABLE mark_deep PARTITION OF mark FOR VALUES FROM (40) TO (60) PARTITION BY RANGE (id);
    CREATE TABLE "Mark Leaf" PARTITION OF mark_deep FOR VALUES FROM (40) TO (50);
    CREATE TABLE base (id bigint PRIMARY KEY, note bigint NOT NULL);
    CREATE TABLE heir (extra text) INHERITS (base);
    CREATE TABLE grand_heir (PRIMARY KEY (id)) INHERITS (heir);
    GRANT SELECT ON ALL TABLES IN SCHEMA public TO sync_reader;
"""
LEAVES = {"note": 1, "mark_keyed": 1, "mark_bare": 11, "mark_indexed": 21, "mark_silent": 31, '"Mark Leaf"': 41}
NOTE, MARK, BASE = Table("note", key=("id",)), Table("mark", key=("note",)), Table("base", key=("note",))
ENTITY = Entity(
    name="note",
    owner="team:tests",
    origin=LegacyQuery("SELECT id, title FROM note", key=("id",)),
    tables=(NOTE,),
    capture=Wal(),
    adapt=lambda legacy: pd.DataFrame({name: legacy[name] for name in ("id", "title")}),
    sinks=(RelationalTable("catalog.note", key=("id",), columns={"id": "bigint", "title": "text"}),),
    partitions=KeyRanges(1),
)
IDENTITIES = (
    "SELECT relname, relreplident::text FROM pg_class WHERE relname ~* '^(note|mark|base|heir|grand)' ORDER BY 1"
)


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "publications", SYNC_SWEEP_SECONDS="1e9") as world:
        world.legacy(MONOLITH)
        yield world


@pytest.fixture(autouse=True)
def untouched(world):
    """Whatever a test installs, it is gone afterwards."""
    world.legacy("ALTER ROLE sync_reader NOREPLICATION")  # roles belong to the server, which other modules share
    before = [*catalogue(world), world.legacy(IDENTITIES)]
    yield
    world.legacy("ALTER ROLE sync_reader NOREPLICATION")
    world.legacy("SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots")
    for (name,) in world.legacy("SELECT quote_ident(pubname) FROM pg_publication"):
        world.legacy(f"DROP PUBLICATION {name}")
    for table in (*LEAVES, "mark", "base", "heir", "grand_heir"):
        if table not in {"mark_indexed", "mark_silent"}:
            world.legacy(f"ALTER TABLE {table} REPLICA IDENTITY DEFAULT")
    world.legacy('ALTER TABLE mark_indexed REPLICA IDENTITY USING INDEX "Mark of id"')
    world.legacy("ALTER TABLE mark_silent REPLICA IDENTITY NOTHING")
    assert [*catalogue(world), world.legacy(IDENTITIES)] == before


def subject(world, *tables, name="note"):
    sinks = (replace(ENTITY.table, name=f"catalog.{name}"),)
    return subject_of(EntityContext.open(replace(ENTITY, name=name, tables=tables, sinks=sinks), world.stores))


def write(world, *tables):
    """Rows inserted, changed and deleted again in each table, as an editor does."""
    for table in tables:
        key = LEAVES.get(table, 1)
        world.legacy(
            f"INSERT INTO {table} (id) VALUES ({key})" if table == "note" else f"INSERT INTO {table} VALUES ({key}, 1)"
        )
        world.legacy(f"UPDATE {table} SET id = id WHERE id = {key}")
        world.legacy(f"DELETE FROM {table} WHERE id = {key}")


def carry_out(world, steps, *tables):
    """Apply steps one by one; after each of them every table can be written."""
    for step in steps:
        apply_steps(world.monolith.admin_url, [step], lambda _: None)
        write(world, *tables)


def install(world, *tables, name="note", written=()):
    found = subject(world, *tables, name=name)
    carry_out(world, publication.install(found), *written)
    return found


def faults(world, found):
    with world.stores.legacy() as cursor:
        return [what for what, _ in publication.faults(cursor, found)]


def restricted(world):
    return world.legacy(
        "SELECT p.pubname, r.prrelid::regclass::text FROM pg_publication_rel r"
        " JOIN pg_publication p ON p.oid = r.prpubid"
        " WHERE r.prattrs IS NOT NULL OR r.prqual IS NOT NULL"
    )


WHOLE = Table("note", key=("title",))  # an old row must tell more than its key: the table has to log whole rows


@pytest.mark.hazard(53)
@pytest.mark.parametrize("order", [(NOTE, WHOLE), (WHOLE, NOTE)], ids=["key first", "whole row first"])
def test_two_entities_over_one_table_leave_it_writable(world, order):
    for name, table in zip(("first", "second"), order, strict=True):
        found = install(world, table, name=name, written=("note",))
        assert faults(world, found) == []
    assert restricted(world) == []


@pytest.mark.hazard(53)
def test_an_identity_that_anybody_changes_later_makes_no_write_fail(world):
    found = install(world, NOTE)
    world.legacy("ALTER TABLE note REPLICA IDENTITY FULL")
    write(world, "note")
    assert faults(world, found) == []


@pytest.mark.hazard(53)
def test_a_column_list_of_an_earlier_version_is_named_and_taken_away(world):
    world.legacy("CREATE PUBLICATION sync_note FOR TABLE note (id) WITH (publish_via_partition_root = true)")
    world.legacy(
        """COMMENT ON PUBLICATION sync_note IS 'made by: sync-pipeline wal install {"roles": [], "full": []}'"""
    )
    found = subject(world, NOTE)
    assert [what for what in faults(world, found) if "column list" in what]
    carry_out(world, publication.install(found), "note")
    assert restricted(world) == []
    assert faults(world, found) == []
    world.legacy("ALTER TABLE note REPLICA IDENTITY FULL")
    write(world, "note")


@pytest.mark.hazard(53)
def test_a_column_list_of_another_entity_of_ours_goes_before_the_identity_changes(world):
    world.legacy("CREATE PUBLICATION sync_old FOR TABLE note (id) WITH (publish_via_partition_root = true)")
    world.legacy(
        """COMMENT ON PUBLICATION sync_old IS 'made by: sync-pipeline wal install {"roles": [], "full": []}'"""
    )
    install(world, WHOLE, written=("note",))
    assert restricted(world) == []


@pytest.mark.hazard(54)
def test_every_leaf_gets_an_identity_and_loses_it_again(world):
    before = world.legacy(IDENTITIES)
    found = install(world, NOTE, MARK, written=LEAVES)
    assert dict(world.legacy(IDENTITIES)) == dict(before) | dict.fromkeys(
        ("mark", "mark_keyed", "mark_bare", "mark_indexed", "mark_silent", "Mark Leaf"), "f"
    )
    assert faults(world, found) == []
    assert publication.install(found) == []
    carry_out(world, publication.uninstall(found), *LEAVES)
    assert world.legacy(IDENTITIES) == before


@pytest.mark.hazard(54)
def test_heirs_are_published_with_identities_of_their_own(world):
    before = world.legacy(IDENTITIES)
    found = install(world, NOTE, BASE, written=("base", "heir", "grand_heir"))
    assert faults(world, found) == []
    assert dict(world.legacy(IDENTITIES)) == dict(before) | dict.fromkeys(("base", "heir", "grand_heir"), "f")
    world.legacy("CREATE TABLE late_heir () INHERITS (base); GRANT SELECT ON late_heir TO sync_reader")
    assert "public.late_heir is not in publication sync_note: its changes would be lost" in faults(world, found)
    carry_out(world, publication.install(found), "base", "late_heir")
    assert faults(world, found) == []
    world.legacy("DROP TABLE late_heir")
    carry_out(world, publication.uninstall(found), "base", "heir", "grand_heir")
    assert world.legacy(IDENTITIES) == before


@pytest.mark.hazard(54)
def test_an_install_that_was_cut_off_anywhere_goes_on_and_is_undone_whole(world):
    """The comment is written before anything is changed, so each identity is put back whatever was done."""
    before = world.legacy(IDENTITIES)
    found = subject(world, NOTE, MARK, BASE)
    for done in range(1, len(publication.install(found))):
        carry_out(world, publication.install(found)[:done], "note")
        assert faults(world, found) != []
        carry_out(world, publication.uninstall(found), *LEAVES)
        assert world.legacy(IDENTITIES) == before
    carry_out(world, publication.install(found)[:3], "note")
    carry_out(world, publication.install(found), "note")
    assert faults(world, found) == []
    carry_out(world, publication.uninstall(found)[:4], "note")
    carry_out(world, publication.uninstall(found), *LEAVES)
    assert world.legacy(IDENTITIES) == before


@pytest.mark.hazard(54)
def test_what_another_entity_needs_is_left_to_it_and_put_back_by_the_last(world):
    before = world.legacy(IDENTITIES)
    first = install(world, NOTE, MARK, name="first", written=LEAVES)
    second = install(world, NOTE, MARK, name="second", written=LEAVES)
    carry_out(world, publication.uninstall(first), *LEAVES)
    assert faults(world, second) == []
    carry_out(world, publication.uninstall(second), *LEAVES)
    assert world.legacy(IDENTITIES) == before


def test_an_entity_that_names_fewer_tables_gives_back_what_it_no_longer_needs(world):
    before = world.legacy(IDENTITIES)
    install(world, NOTE, MARK)
    found = subject(world, NOTE)
    assert any("tables that the entity does not name" in what for what in faults(world, found))
    carry_out(world, publication.install(found), *LEAVES)
    assert world.legacy(IDENTITIES) == before
    assert faults(world, found) == publication.install(found) == []


@pytest.mark.hazard(142)
@pytest.mark.parametrize("names", ["*", 'FIRST 1 (standby_a, "*")'])
def test_commits_that_would_wait_for_our_reader_are_refused_by_name(world, names):
    found = install(world, NOTE)
    configure(world, f"SET synchronous_standby_names = '{names}'")
    try:
        wait_for(lambda: [fault for fault in faults(world, found) if "would wait for our reader of its log" in fault])
        assert [n for n in preflight(world.stores, [ENTITY]) if names in n.what and n.level == "error"]
        for act in (Wal().open(found, None).begin, lambda: publication.install(found)):
            with pytest.raises(
                (SettingError, DeclarationError), match="name the standbys in synchronous_standby_names"
            ):
                act()
    finally:
        configure(world, "RESET synchronous_standby_names")
        wait_for(lambda: faults(world, found) == [])


def configure(world, what):
    """The setting of a server's file: no commit waits for it to be written or read."""
    with closing(psycopg2.connect(world.monolith.admin_url)) as connection:
        connection.autocommit = True
        with connection.cursor() as cursor:
            cursor.execute(f"ALTER SYSTEM {what}")
            cursor.execute("SELECT pg_reload_conf()")


def test_the_printed_script_gives_way_to_writers_table_by_table(world):
    lines = printed(publication.install(subject(world, NOTE, MARK)))
    altered = [line for line in lines if line.startswith("ALTER TABLE")]
    assert len(altered) == 6
    for line in altered:  # each in a transaction of its own
        at = lines.index(line)
        assert lines[at - 3 : at] == ["BEGIN;", "SET LOCAL lock_timeout = '300ms';", "SET LOCAL statement_timeout = 0;"]
        end = lines.index("COMMIT;", at)
        assert not any(other.startswith("ALTER TABLE") for other in lines[at + 1 : end])
    world.legacy("\n".join(lines))
    assert publication.install(subject(world, NOTE, MARK)) == []


# what somebody else has made, what takes it away, the entity's table, words of the refusal
REFUSED = {
    "a column list of others over a table that must log whole rows": (
        "CREATE PUBLICATION theirs FOR TABLE note (id, title)",
        "DROP PUBLICATION theirs",
        WHOLE,
        ["public.note", "column list of publication theirs", "ALTER PUBLICATION"],
    ),
    "a column list of others over the root of partitions": (
        "CREATE PUBLICATION theirs FOR TABLE mark (id)"
        " WITH (publish_via_partition_root = true, publish = 'insert, update')",
        "DROP PUBLICATION theirs",
        MARK,
        ["public.mark_bare", "column list of publication theirs"],
    ),
    "a virtual generated column in a table that must log whole rows": (
        "ALTER TABLE mark ADD upper text GENERATED ALWAYS AS (upper(word)) VIRTUAL",
        "ALTER TABLE mark DROP upper",
        MARK,
        ["public.mark_keyed", "virtual generated columns"],
    ),
    "a stored generated column that others do not publish": (
        "ALTER TABLE note ADD size int GENERATED ALWAYS AS (length(title)) STORED;"
        " CREATE PUBLICATION theirs FOR TABLE note",
        "DROP PUBLICATION theirs; ALTER TABLE note DROP size",
        WHOLE,
        ["publish_generated_columns", "theirs"],
    ),
    "a leaf that is not logged": (
        "CREATE UNLOGGED TABLE mark_light PARTITION OF mark FOR VALUES FROM (70) TO (80)",
        "DROP TABLE mark_light",
        MARK,
        ["public.mark_light is no ordinary table"],
    ),
    "a view": (
        "CREATE VIEW note_view AS SELECT id FROM note",
        "DROP VIEW note_view",
        Table("note_view", key=("id",)),
        ["public.note_view is no ordinary table"],
    ),
    "a publication of others under our name": (
        "CREATE PUBLICATION sync_note FOR TABLE note; COMMENT ON PUBLICATION sync_note IS 'of the warehouse'",
        "DROP PUBLICATION sync_note",
        NOTE,
        ["sync_note has a comment that is not ours"],
    ),
}


@pytest.mark.hazard(53)
@pytest.mark.parametrize("what", REFUSED)
def test_what_would_make_a_write_fail_is_refused_by_name(world, what):
    plant, undo, table, words = REFUSED[what]
    world.legacy(plant)
    try:
        found = subject(world, table)
        with pytest.raises(DeclarationError) as refused:
            publication.install(found)
        for word in words:
            assert word in str(refused.value)
        assert set(str(refused.value).splitlines()) <= {f"entity note: {fault}" for fault in faults(world, found)}
    finally:
        world.legacy(undo)


# publications of others that change nothing for us
HARMLESS = {
    "all tables": "CREATE PUBLICATION theirs FOR ALL TABLES",
    "the schema": "CREATE PUBLICATION theirs FOR TABLES IN SCHEMA public",
    "a row filter over the key": "CREATE PUBLICATION theirs FOR TABLE note WHERE (id > 3)",
    "a column list of inserts": "CREATE PUBLICATION theirs FOR TABLE note (id) WITH (publish = 'insert')",
}


@pytest.mark.hazard(53)
@pytest.mark.parametrize("theirs", HARMLESS)
def test_publications_of_others_that_do_no_harm_are_no_hindrance(world, theirs):
    world.legacy("ALTER TABLE mark_bare REPLICA IDENTITY FULL")  # they could not write to it before
    world.legacy('ALTER TABLE mark_silent REPLICA IDENTITY FULL; ALTER TABLE "Mark Leaf" REPLICA IDENTITY FULL')
    world.legacy("ALTER TABLE heir REPLICA IDENTITY FULL")
    world.legacy(HARMLESS[theirs])
    before = world.legacy(IDENTITIES)
    found = install(world, WHOLE, MARK, written=LEAVES)
    assert faults(world, found) == []
    carry_out(world, publication.uninstall(found), *LEAVES)
    assert world.legacy(IDENTITIES) == before


def test_an_identity_that_others_have_come_to_need_stays(world):
    found = install(world, MARK, written=LEAVES)
    world.legacy("CREATE PUBLICATION theirs FOR TABLE mark_bare")
    lines = printed(publication.uninstall(found))
    carry_out(world, publication.uninstall(found), *LEAVES)
    assert any("public.mark_bare keeps REPLICA IDENTITY FULL" in line for line in lines)
    assert ("mark_bare", "f") in world.legacy(IDENTITIES)


@pytest.mark.hazard(53)
def test_stored_generated_columns_are_published_where_whole_rows_are_logged(world):
    world.legacy("ALTER TABLE note ADD size int GENERATED ALWAYS AS (length(title)) STORED")
    try:
        found = install(world, NOTE, name="first", written=("note",))
        second = install(world, WHOLE, name="second", written=("note",))
        assert faults(world, found) == faults(world, second) == []
    finally:
        world.legacy("DROP PUBLICATION sync_first, sync_second; ALTER TABLE note DROP size")


# what somebody does to an installed publication, and words of what `check` says then
PLANTED = {
    "the publication dropped": ("DROP PUBLICATION sync_note", "there is no publication sync_note"),
    "a table taken out": ("ALTER PUBLICATION sync_note DROP TABLE mark", "public.mark is not in publication"),
    "a column list": ("ALTER PUBLICATION sync_note SET TABLE note (id), mark", "has a column list"),
    "a row filter": ("ALTER PUBLICATION sync_note SET TABLE note WHERE (id > 3), mark", "or a row filter"),
    "deletes left out": ("ALTER PUBLICATION sync_note SET (publish = 'insert, update')", "leaves changes out"),
    "leaves by themselves": (
        "ALTER PUBLICATION sync_note SET (publish_via_partition_root = false)",
        "leaves changes out",
    ),
    "a table too many": ("ALTER PUBLICATION sync_note ADD TABLE base", "tables that the entity does not name"),
    "the comment taken away": ("COMMENT ON PUBLICATION sync_note IS NULL", "bears no comment of ours"),
    "a leaf with a key alone": ("ALTER TABLE mark_keyed REPLICA IDENTITY DEFAULT", "row of public.mark_keyed does not"),
    "a leaf without identity": (
        "ALTER TABLE mark_bare REPLICA IDENTITY DEFAULT",
        "UPDATE and DELETE of public.mark_bare fail: publication sync_note",
    ),
    "the root's identity": ("ALTER TABLE mark REPLICA IDENTITY DEFAULT", "row of public.mark does not"),
    "a leaf attached": (
        "CREATE TABLE mark_new (LIKE mark); ALTER TABLE mark ATTACH PARTITION mark_new FOR VALUES FROM (80) TO (90)",
        "UPDATE and DELETE of public.mark_new fail",
    ),
    "a column list of others": (
        "CREATE PUBLICATION theirs FOR TABLE mark_bare (id)",
        "the column list of publication theirs does not cover",
    ),
}


@pytest.mark.hazard(53)
@pytest.mark.hazard(54)
@pytest.mark.parametrize("what", PLANTED)
def test_check_names_what_has_become_of_an_install_and_install_mends_it(world, what):
    statement, word = PLANTED[what]
    found = install(world, NOTE, MARK)
    world.legacy(statement)
    try:
        assert [fault for fault in faults(world, found) if word in fault], faults(world, found)
        if "theirs" not in statement:
            carry_out(world, publication.install(found), *LEAVES)
            assert faults(world, found) == []
    finally:
        world.legacy("DROP TABLE IF EXISTS mark_new")


@pytest.mark.hazard(53)
def test_the_catalogue_says_of_each_write_what_the_server_says(world):
    """No refusal is missed and none is made up, over publications and identities of every kind."""
    publications = (
        *HARMLESS.values(),
        "CREATE PUBLICATION theirs FOR TABLE note (id), mark_bare (id, note)",
        "CREATE PUBLICATION theirs FOR TABLE note WHERE (title > 'a'), mark_keyed WHERE (note > 3)",
        "CREATE PUBLICATION theirs FOR TABLE mark (id, note) WITH (publish_via_partition_root = true)",
        "CREATE PUBLICATION theirs FOR TABLE mark WHERE (id > 3) WITH (publish_via_partition_root = true)",
        "CREATE PUBLICATION theirs FOR TABLE mark_keyed (id), base WITH (publish_via_partition_root = false)",
        "CREATE PUBLICATION theirs FOR TABLE ONLY base, heir (id, note)",
    )
    for statement in publications:
        world.legacy(statement)
        for identity in ("DEFAULT", "FULL", "NOTHING"):
            for table in ("note", "mark_keyed", "mark_bare", "heir", "grand_heir"):
                world.legacy(f"ALTER TABLE {table} REPLICA IDENTITY {identity}")
            found = {m.name for m in refused(world)}
            assert found == {table for table in TABLES if fails(world, table)}, (statement, identity)
        world.legacy("DROP PUBLICATION theirs")


TABLES = (
    *("public.note", "public.mark_keyed", "public.mark_bare", "public.mark_indexed", "public.mark_silent"),
    *('public."Mark Leaf"', "public.base", "public.heir", "public.grand_heir"),
)


def refused(world):
    with world.stores.legacy() as cursor:
        read = publication.Catalogue.read(cursor, subject(world, NOTE, MARK, BASE))
    return [m for m, *_ in publication.refused_writes(read.members, read.publishers, read.version)]


def fails(world, table):
    """Whether the server refuses to plan a write."""
    try:
        world.legacy(f"EXPLAIN UPDATE ONLY {table} SET id = DEFAULT")
        world.legacy(f"EXPLAIN DELETE FROM ONLY {table}")
    except psycopg2.errors.ObjectNotInPrerequisiteState:
        return True
    except psycopg2.errors.InvalidColumnReference:
        return True
    return False


def test_a_partition_beside_its_root_is_refused(world):
    both = subject(world, MARK, Table("mark_keyed", key=("note",)))
    with pytest.raises(DeclarationError, match="mark_keyed is a partition of mark: name one of the two"):
        publication.install(both)


def test_a_table_whose_rows_share_a_key_needs_an_identity_all_the_same(world):
    """Nothing of the row leads to the root, and yet PostgreSQL refuses a published table without identity."""
    found = install(world, Table("mark_bare", key=(Literal(1),)), written=("mark_bare",))
    assert faults(world, found) == []


@pytest.mark.hazard(60)
def test_a_publication_of_another_ledger_is_refused_and_can_be_taken_over(world):
    found = install(world, NOTE)
    ours = world.stores.ledger_id()
    world.legacy(f"COMMENT ON PUBLICATION sync_note IS '{comment(world).replace(ours, 'deadbeef')}'")
    for act in (publication.install, publication.uninstall):
        with pytest.raises(SettingError, match=f"belong to ledger deadbeef, and this is ledger {ours}"):
            act(found)
    with pytest.raises(SettingError, match="deadbeef"):
        Wal().open(found, None).begin()
    carry_out(world, publication.install(found, take_over=True), "note")
    assert ours in comment(world)
    assert publication.install(found) == []


def comment(world):
    ((found,),) = world.legacy("SELECT obj_description(oid, 'pg_publication') FROM pg_publication")
    return found
