"""A table rebuilt beside the live one, step by step: what reaches it, what goes over to it, and what keeps it back."""

import itertools
import threading
from contextlib import closing
from dataclasses import replace

import psycopg2
import pytest

from sync_pipeline.batch import write
from sync_pipeline.batch.order import Order
from sync_pipeline.cli import tables
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import DeclarationError, SettingError, UnreachableError
from sync_pipeline.operate.repair import repair
from sync_pipeline.operate.status import status_of
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys, sync_roots
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.rebuild import table as story
from sync_pipeline.rebuild.rebuild import abandon, clear, rebuild_index, rebuild_table
from sync_pipeline.rebuild.report import COMPARED
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.live import work
from sync_pipeline.sinks.table import Reference, RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from tests import kin, parted
from tests.rebuilt import Once
from tests.stalled import stalled
from tests.world import opened, wait_for

MONOLITH = """
    CREATE TABLE note (id bigint PRIMARY KEY, title text, size numeric, tag text);
    GRANT SELECT ON note TO sync_reader;
"""
ROWS = "TRUNCATE note; INSERT INTO note SELECT n, 'note ' || n, n + 0.125, 'tag ' || n FROM generate_series(1, 60) n"
COLUMNS = {"id": "bigint", "title": "text", "size": "numeric(10,2)", "tag": "text"}
OWN = "SET ROLE sync_writer; "
_names = (f"note{n}" for n in itertools.count())


def note(name, columns, version=1, adapt=None):
    return Entity(
        name=name,
        owner="team:tests",
        origin=LegacyQuery("SELECT id, title, size, tag, tag AS label FROM note", key=("id",)),
        tables=(Table("note", key=("id",)),),
        capture=SweepOnly(),
        adapt=adapt or (lambda legacy: {column: legacy[column] for column in columns}),
        sinks=(RelationalTable(f"catalog.{name}", key=("id",), columns=columns),),
        partitions=KeyRanges(1),
        version=version,
    )


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "rebuild_table", SYNC_CHUNK_ROWS="20", SYNC_RECHECK_SECONDS="0") as world:
        world.legacy(MONOLITH + kin.MONOLITH + parted.MONOLITH)
        yield world


@pytest.fixture
def context(world):
    """An entity of its own, whose rows are in."""
    world.legacy(ROWS)
    context = EntityContext.open(note(next(_names), COLUMNS), world.stores)
    open_cursor(context)
    sync(context, *range(1, 61))
    return context


def sync(context, *keys, **order):
    return sync_keys(context, context.origin.key.parse(map(str, keys)), Order(**order))


def table_of(context):
    return context.entity.table.name


def successor(world, context, columns="id bigint PRIMARY KEY, title text, size numeric(10,2), tag text", more=""):
    """Made by a migration, beside the live one."""
    world.target(f"{OWN}CREATE TABLE {table_of(context)}_next ({columns}) {more}")


def rows(world, table, columns="id, title"):
    return dict((row[0], row[1:]) for row in world.target(f"SELECT {columns} FROM {table}"))


def agreed(context):
    return reconcile(context).findings == []


def test_a_new_form_is_served_after_a_rebuild(world, context):
    """A type changed, a column renamed, another dropped, the table partitioned: readers know it by the same name."""
    name = table_of(context)
    world.target(
        f"CREATE ROLE {context.entity.name}_reader; GRANT USAGE ON SCHEMA catalog TO PUBLIC;"
        f"{OWN}GRANT SELECT ON {name} TO {context.entity.name}_reader WITH GRANT OPTION; GRANT SELECT (id) ON {name} TO"
        f" PUBLIC; COMMENT ON TABLE {name} IS 'notes'; COMMENT ON COLUMN {name}.title IS 'as it was';"
        f" CREATE VIEW {name}_titles WITH (security_barrier) AS SELECT id, title FROM {name} WHERE id > 0;"
        f" CREATE VIEW {name}_top AS SELECT id FROM {name}_titles; GRANT SELECT ON {name}_titles TO PUBLIC"
    )
    successor(
        world,
        context,
        "id bigint PRIMARY KEY, title text, size numeric, label text NOT NULL",
        "PARTITION BY RANGE (id)",
    )
    world.target(
        f"{OWN}CREATE TABLE {name}_low PARTITION OF {name}_next FOR VALUES FROM (MINVALUE) TO (30);"
        f"CREATE TABLE {name}_high PARTITION OF {name}_next FOR VALUES FROM (30) TO (MAXVALUE)"
    )
    columns = {"id": "bigint", "title": "text", "size": "numeric", "label": "text not null"}
    entity = note(context.entity.name, columns, version=2)
    with pytest.raises(DeclarationError, match="has no column 'label'"):
        EntityContext.open(entity, world.stores)
    changed = EntityContext.open(entity, world.stores, shadow=True)

    def edit():
        world.legacy("UPDATE note SET title = 'edited' WHERE id IN (1, 59); DELETE FROM note WHERE id IN (2, 58)")
        sync(EntityContext.open(entity, world.stores), 1, 2, 58, 59, acknowledge=True)
        for table in (name, f"{name}_next"):
            assert rows(world, table)[1] == ("edited",)
            assert not {2, 58} & rows(world, table).keys()

    made = rebuild_table(changed, Once(edit))

    assert (made.name, made.former, made.findings) == (name, f"{name}_former", [])
    assert (made.rows, made.compared, made.carried_over) == (58 + 1, 58, 0)
    assert rows(world, name, "id, size, label")[7] == (pytest.approx(7.125), "tag 7")
    assert set(world.target(f"SELECT tableoid::regclass::text FROM {name}")) == {(f"{name}_low",), (f"{name}_high",)}
    short = name.partition(".")[2]
    indices = world.target("SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass", [name])
    assert indices == [(f"catalog.{short}_pkey",)]
    rights = "SELECT has_table_privilege(%s, %s, 'SELECT WITH GRANT OPTION'), obj_description(%s::regclass)"
    assert world.target(rights, [f"{context.entity.name}_reader", name, name]) == [(True, "notes")]
    assert world.target("SELECT col_description(%s::regclass, 2)", [name]) == [("as it was",)]
    assert world.target(f"SELECT title FROM {name}_titles WHERE id = 1") == [("edited",)]
    assert world.target(f"SELECT count(*) FROM {name}_top") == [(58,)]
    kept = "SELECT reloptions, relacl::text LIKE '%%=r/sync_writer%%' FROM pg_class WHERE oid = %s::regclass"
    assert world.target(kept, [f"{name}_titles"]) == [(["security_barrier=true"], True)]

    world.legacy("UPDATE note SET title = 'after the swap' WHERE id = 3")
    sync(changed, 3)
    assert rows(world, name)[3] == ("after the swap",)
    assert rows(world, f"{name}_former")[3] == ("note 3",)
    assert agreed(changed)
    assert clear(world.stores, entity) == [f"{name}_former"]
    assert world.target("SELECT to_regclass(%s)", [f"{name}_former"]) == [(None,)]


def test_unchanged_rows_go_to_the_new_table_alone(world, context):
    name = table_of(context)
    before = world.target(f"SELECT id, xmin::text, ctid::text FROM {name} ORDER BY id")
    made = rebuild_table(context, like=True)
    assert made.findings == []
    assert world.target(f"SELECT id, xmin::text, ctid::text FROM {name}_former ORDER BY id") == before
    assert rows(world, name, "*") == rows(world, f"{name}_former", "*")
    with pytest.raises(SettingError, match="rebuild clear"):
        rebuild_table(context, like=True)
    clear(world.stores, context.entity)
    assert rebuild_table(context, like=True).findings == []
    assert agreed(context)


def test_batches_on_their_way_and_first_loads_write_both(world, context):
    """One has read before it was begun; another's keys nobody knows; a third finds its row unchanged."""
    name = table_of(context)
    world.legacy("UPDATE note SET title = 'on the way' WHERE id = 1")

    def meanwhile():
        world.legacy("INSERT INTO note SELECT n, 'new', 1, 't' FROM generate_series(1001, 1600) n")
        sync(context, *range(1001, 1601))
        assert len(rows(world, f"{name}_next")) == len(rows(world, name)) - 40

    with stalled(context, 1, Order(acknowledge=True)):
        begun = story.NewTable(context, like=True).begin()
    assert rows(world, f"{name}_next") == {1: ("on the way",)}
    assert begun.state == "filling"
    with stalled(context, 30, Order(shadow=True)):
        sync(context, 30, acknowledge=True)
    assert 30 not in rows(world, f"{name}_next")
    made = rebuild_table(context, Once(meanwhile))
    assert made.findings == []
    assert agreed(context)


def test_begin_and_swap_wait_for_batches_on_their_way(world, context):
    """Whoever has looked which tables there are is gone before there are others."""
    coming = story.NewTable(context, like=True)
    done = []

    def during_a_batch(act):
        worker = threading.Thread(target=lambda: done.append(act()))

        def hold(*_):
            worker.start()
            wait_for(lambda: world.target("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"))

        sync(context, *range(1, 61), shadow=True, commit=hold)
        worker.join()

    during_a_batch(coming.begin)
    assert rows(world, f"{table_of(context)}_next") == {}
    sync(context, *range(1, 61), shadow=True)
    during_a_batch(lambda: coming.swap(done[0]))
    assert done[1:] == [[]]
    assert rebuild_table(context).findings == []
    assert agreed(context)


def test_a_batch_waits_for_the_beginning(world, context):
    """And sees then that a table is filled."""
    with world.stores.target() as cursor:
        story.still(cursor, context.entity.name)
        worker = threading.Thread(target=sync, args=(context, 5), kwargs={"force": True})
        worker.start()
        wait_for(lambda: world.target("SELECT 1 FROM pg_stat_activity WHERE wait_event = 'advisory'"))
        cursor.execute(f"CREATE TABLE {table_of(context)}_next (LIKE {table_of(context)} INCLUDING ALL)")
        rebuild = story.Rebuild(
            context.entity.name, "table", f"{table_of(context)}_next", table_of(context), {"like": True}
        )
        rebuild.begin(cursor)
        rebuild.open(cursor)
    worker.join()
    assert rows(world, f"{table_of(context)}_next") == {5: ("note 5",)}
    assert abandon(world.stores, context.entity) == f"{table_of(context)}_next"
    assert world.target("SELECT to_regclass(%s)", [f"{table_of(context)}_next"]) == [(None,)]


def test_rows_of_parked_and_unswept_rows_are_carried_over(world, context):
    name = table_of(context)

    def adapt(legacy):
        if legacy["title"].eq("bad").any():
            raise ValueError("a bad title")
        return {column: legacy[column] for column in COLUMNS}

    picky = EntityContext.open(note(context.entity.name, COLUMNS, adapt=adapt), world.stores)
    world.legacy("UPDATE note SET title = 'bad' WHERE id = 1; DELETE FROM note WHERE id = 2")
    sync(picky, 1, acknowledge=True)
    made = rebuild_table(picky, like=True)
    assert (made.carried_over, made.findings) == (2, [])
    assert rows(world, name, "*") == rows(world, f"{name}_former", "*")
    world.legacy("UPDATE note SET title = 'good again' WHERE id = 1")
    sync(picky, 1, 2)
    assert agreed(picky)


def test_a_row_that_cannot_be_carried_over_keeps_the_swap_back(world, context, capsys):
    name = table_of(context)
    successor(world, context, "id bigint PRIMARY KEY, title text, size numeric(10,2), tag text, label text NOT NULL")
    world.legacy("DELETE FROM note WHERE id = 2")
    entity = note(context.entity.name, {**COLUMNS, "label": "text not null"}, version=2)
    made = rebuild_table(EntityContext.open(entity, world.stores, shadow=True))
    assert [(f.key, f.kind) for f in made.findings] == [("2", "missing")]
    assert 'null value in column "label"' in made.findings[0].detail
    assert made.former == name
    tables.rebuilt([made])
    assert f"Readers of {entity.name} stay with {name}" in capsys.readouterr().out
    sync(EntityContext.open(entity, world.stores), 2)
    assert rebuild_table(EntityContext.open(entity, world.stores)).findings == []


def test_what_the_new_table_refuses_is_named_and_goes_into_the_live_one(world, context):
    name = table_of(context)
    successor(
        world, context, "id bigint PRIMARY KEY, title varchar(9), size numeric(10,2), tag text CHECK (tag <> 'no')"
    )

    def edit():
        world.legacy(
            "UPDATE note SET title = 'much too long' WHERE id IN (1, 60); UPDATE note SET tag = 'no' WHERE id = 3"
        )
        sync(context, 1, 2, 3, 60, acknowledge=True)

    made = rebuild_table(context, Once(edit))
    assert {f.key: f.kind for f in made.findings} == {"1": "missing", "3": "missing", "60": "missing"}
    assert all("varying(9)" in f.detail or "check constraint" in f.detail for f in made.findings)
    assert rows(world, name)[1] == ("much too long",)
    assert world.target("SELECT count(*) FROM sync.due WHERE entity = %s", [context.entity.name]) == [(0,)]
    shown = status_of(world.stores, context.entity)
    assert (shown["rebuild"]["kind"], shown["rebuild"]["at_work"]) == ("table", False)
    assert "sync-pipeline rebuild table goes on" in shown["alerts"][0]
    with pytest.raises(DeclarationError, match="its file has changed"):
        rebuild_table(EntityContext.open(note(context.entity.name, COLUMNS, version=2), world.stores))
    with pytest.raises(SettingError, match=r"the rebuild of .*_next comes first"):
        rebuild_index(context)
    assert abandon(world.stores, context.entity) == f"{name}_next"
    assert world.target(f"SELECT count(*) FROM {name}_next") == [(0,)]
    assert agreed(context)


def test_a_batch_meets_the_swap_between_two_tries(world, context, monkeypatch):
    """Its row was to go into the live table alone, which is the former one by then."""
    successor(world, context, "id bigint PRIMARY KEY, title varchar(9), size numeric(10,2), tag text")
    coming, without_faults, swapped = story.NewTable(context), write.without_faults, []
    rebuild = coming.begin()
    sync(context, *range(1, 61), shadow=True)

    def overtaken(*asked):
        found = without_faults(*asked)
        if not swapped:
            swapped.append(coming.swap(rebuild))
        return found

    monkeypatch.setattr(write, "without_faults", overtaken)
    world.legacy("UPDATE note SET title = 'much too long' WHERE id = 1")
    sync(context, 1, acknowledge=True)
    assert swapped == [[]]
    assert rows(world, table_of(context))[1] == ("note 1",)
    parked = "SELECT key, step FROM sync.due WHERE entity = %s AND reason = 'rejected'"
    assert world.target(parked, [context.entity.name]) == [("1", "row")]


def test_what_the_former_table_refused_the_new_one_takes(world, context):
    world.target(f"{OWN}ALTER TABLE {table_of(context)} ALTER title TYPE varchar(9)")
    world.legacy("UPDATE note SET title = 'much too long' WHERE id = 1")
    sync(context, 1, acknowledge=True)
    assert rows(world, table_of(context))[1] == ("note 1",)
    successor(world, context)
    assert rebuild_table(context).findings == []
    while work(context, lambda *_: None):
        pass
    assert rows(world, table_of(context))[1] == ("much too long",)


@pytest.mark.parametrize(
    ("planted", "kind"),
    [
        ("INSERT INTO {} (id) VALUES (99)", "extra"),
        ("UPDATE {} SET title = 'planted' WHERE id = 1", "corrupt"),
        ("UPDATE {} SET size = NULL WHERE id = 1", "corrupt"),
        ("UPDATE {} SET size = 77 WHERE id = 1", "corrupt"),
    ],
)
def test_a_planted_row_refuses_the_swap(world, context, planted, kind):
    name = table_of(context)
    successor(world, context, "id bigint PRIMARY KEY, title text, size text, tag text")
    made = rebuild_table(context, Once(lambda: world.target(planted.format(f"{name}_next"))))
    assert [(f.key, f.kind) for f in made.findings] == [("99" if kind == "extra" else "1", kind)]
    assert rebuild_table(context).findings == made.findings
    assert rows(world, name)[1] == ("note 1",)
    abandon(world.stores, context.entity)


def test_what_slips_in_after_the_comparison_is_found_in_the_swap(world, context, monkeypatch):
    name, swap = table_of(context), story.NewTable.swap

    def slipped(coming, rebuild):
        world.target(f"DELETE FROM {name}_next WHERE id = 1")
        return swap(coming, rebuild)

    with monkeypatch.context() as patch:
        patch.setattr(story.NewTable, "swap", slipped)
        assert [f.key for f in rebuild_table(context, like=True).findings] == ["1"]
    assert rebuild_table(context).findings == []
    assert agreed(context)


IN_THE_WAY = {
    "lacks trigger": "CREATE TRIGGER t BEFORE UPDATE ON {live} FOR EACH ROW EXECUTE FUNCTION"
    " suppress_redundant_updates_trigger()",
    "lacks policy": "CREATE POLICY p ON {live} USING (true)",
    "differs from .* in row security": "ALTER TABLE {live} ENABLE ROW LEVEL SECURITY",
    "differs from .* in replica identity": "ALTER TABLE {live} REPLICA IDENTITY FULL",
    "lacks a place in publication": "RESET ROLE; CREATE PUBLICATION {short} FOR TABLE {live}",
    "lacks foreign key .*ALTER TABLE {next} ADD CONSTRAINT": "CREATE TABLE {live}_kind (id bigint PRIMARY KEY);"
    "ALTER TABLE {live} ADD FOREIGN KEY (id) REFERENCES {live}_kind NOT VALID",
    "would stay with the former": "CREATE MATERIALIZED VIEW {live}_m AS SELECT id FROM {live}",
    "function {live}_f.* would stay": "CREATE FUNCTION {live}_f() RETURNS bigint BEGIN ATOMIC"
    " SELECT max(id) FROM {live}; END",
    "rule r on table .* would stay": "CREATE RULE r AS ON DELETE TO {live} DO ALSO NOTIFY deleted",
    "foreign key .* would stay": "ALTER TABLE {next} ADD FOREIGN KEY (id) REFERENCES {live}",
    "column default .* would stay": "CREATE SEQUENCE {live}_s OWNED BY {live}.id;"
    "ALTER TABLE {next} ALTER tag SET DEFAULT nextval('{live}_s')",
    "view .*v cannot go over .*data type": "CREATE VIEW {live}_v AS SELECT size FROM {live};"
    "ALTER TABLE {next} ALTER size TYPE text",
    "view .*v cannot go over": "CREATE VIEW {live}_v AS SELECT own FROM {live}",
    "own is not declared: its values": "ALTER TABLE {next} ADD own text",
    "own must be given a value": "UPDATE {live} SET own = ''; ALTER TABLE {live} ALTER own SET NOT NULL",
    "has no column tag, which is declared": "ALTER TABLE {next} DROP tag",
    "has no unique index on its key": "ALTER TABLE {next} DROP CONSTRAINT {short}_next_pkey",
    "holds rows": "INSERT INTO {next} (id) VALUES (1)",
    "is there from the rebuild before": "CREATE TABLE {live}_former ()",
    "belongs to .*: ALTER TABLE .* OWNER TO": "RESET ROLE; ALTER TABLE {next} OWNER TO CURRENT_USER",
    "is a part of another table": "CREATE TABLE {live}_child () INHERITS ({live})",
    "is not there: make it by": "DROP TABLE {next}",
}


@pytest.mark.parametrize("said", IN_THE_WAY)
def test_what_is_in_the_way_is_refused_by_name_before_anything_is_filled(world, context, said):
    name = table_of(context)
    world.target(f"{OWN}ALTER TABLE {name} ADD own text")
    successor(world, context)
    names = {"live": name, "next": f"{name}_next", "short": name.partition(".")[2]}
    world.target(OWN + IN_THE_WAY[said].format(**names))
    quoted = {"live": name, "next": f'"?catalog"?."?{names["short"]}_next"?'}
    with pytest.raises(SettingError, match=said.format(**quoted)):
        rebuild_table(context)
    assert world.target("SELECT count(*) FROM sync.rebuild WHERE entity = %s", [context.entity.name]) == [(0,)]
    assert rows(world, name, "id, title, size, tag")[1][0] == "note 1"


def test_a_declared_column_that_is_missing_passes_only_while_a_table_is_filled(world, context):
    columns = {**COLUMNS, "label": "text"}
    entity = note(context.entity.name, columns, version=2)
    successor(world, context, "id bigint PRIMARY KEY, title text, size numeric(10,2), tag text, label text")
    story.NewTable(EntityContext.open(entity, world.stores, shadow=True)).begin()
    open_one = EntityContext.open(entity, world.stores)
    sync(open_one, 1)
    assert agreed(open_one)
    assert rows(world, f"{table_of(context)}_next", "id, label") == {1: ("tag 1",)}
    abandon(world.stores, entity)
    for act in (lambda: sync(open_one, 2, force=True), lambda: EntityContext.open(entity, world.stores)):
        with pytest.raises(DeclarationError, match="has no column 'label'"):
            act()
    sync(context, *range(1, 61))
    assert agreed(context)


def test_rows_of_an_older_version_of_the_file_are_written_again(world, context):
    """A follower that was not deployed yet has written them."""
    successor(world, context, "id bigint PRIMARY KEY, title text, size numeric(10,2), tag text, label text")
    entity = note(context.entity.name, {**COLUMNS, "label": "text"}, version=2)
    changed = EntityContext.open(entity, world.stores, shadow=True)

    def edit():
        world.legacy("INSERT INTO note VALUES (61, 'by the old one', 1, 'tag 61')")
        sync(context, 61, acknowledge=True)
        assert rows(world, f"{table_of(context)}_next", "id, label")[61] == (None,)

    assert rebuild_table(changed, Once(edit, COMPARED)).findings == []
    assert rows(world, table_of(context), "id, title, label")[61] == ("by the old one", "tag 61")
    assert agreed(changed)


def test_who_reads_by_an_older_snapshot_is_waited_for(world, context, monkeypatch):
    """It would find the new table emptier than the former one; and a long reader of the table holds its lock."""
    name = table_of(context)
    monkeypatch.setattr(story, "_TRIES", 2)
    with closing(psycopg2.connect(world.target_url)) as reader, closing(psycopg2.connect(world.target_url)) as long:
        reader.set_session(isolation_level="REPEATABLE READ")
        reader.cursor().execute("SELECT 1")
        with pytest.raises(UnreachableError, match="a transaction older than the new table"):
            rebuild_table(context, like=True)
        reader.rollback()
        long.cursor().execute(f"SELECT count(*) FROM {name}")
        with pytest.raises(UnreachableError, match="long transactions"):
            rebuild_table(context)
    made = rebuild_table(context)
    assert (made.name, made.findings) == (name, [])


def test_tables_that_refer_to_it_go_over_and_parents_still_come_first(world):
    """With a foreign key in the database as well; rows that are parts of one; and their documents stay as they are."""
    series, episode = (EntityContext.open(entity, world.stores) for entity in (kin.SERIES, kin.EPISODE))
    world.target(
        f"{OWN}ALTER TABLE catalog.episode ADD CONSTRAINT whose FOREIGN KEY (series_id) REFERENCES catalog.series"
    )
    world.legacy("INSERT INTO series VALUES (1, 'a'), (2, 'b'); INSERT INTO episode VALUES (11, 'x', 1), (12, 'y', 2)")
    sync(series, 1, 2)
    sync(episode, 11, 12)
    refers_twice = RelationalTable(
        "catalog.episode",
        key=("id",),
        columns={"id": "bigint", "also": "bigint"},
        references=(Reference("also", "series"),),
    )
    with pytest.raises(DeclarationError, match="'also', which refers to other rows: add it first"):
        EntityContext.open(replace(episode.entity, sinks=(refers_twice,)), world.stores, shadow=True)
    for context in (series, episode):
        assert rebuild_table(context, like=True).findings == []
        refers = "SELECT conrelid::regclass::text, confrelid::regclass::text, convalidated FROM pg_constraint"
        found = world.target(f"{refers} WHERE conname = 'whose' AND conrelid = 'catalog.episode'::regclass")
        assert found == [("catalog.episode", "catalog.series", True)]
    clear(world.stores, episode.entity)
    clear(world.stores, series.entity)
    world.legacy("INSERT INTO episode VALUES (13, 'z', 3); DELETE FROM series WHERE id = 2")
    sync(episode, 13)
    sync(series, 2)
    waits = "SELECT entity, key, reason FROM sync.due WHERE entity IN ('series', 'episode') ORDER BY 1"
    assert world.target(waits) == [("episode", "13", "parent"), ("series", "2", "children")]
    world.legacy("INSERT INTO series VALUES (3, 'c'); DELETE FROM episode WHERE id = 12")
    sync(series, 3)
    sync(episode, 12)
    while work(series, lambda *_: None) or work(episode, lambda *_: None):
        pass
    assert (set(rows(world, "catalog.series")), set(rows(world, "catalog.episode"))) == ({1, 3}, {11, 13})
    assert agreed(series)
    assert agreed(episode)


def test_a_table_that_refers_to_itself_is_rebuilt(world):
    """Rows come in the order of keys, before those they refer to."""
    context = EntityContext.open(kin.FOLDER, world.stores)
    world.target(f"{OWN}ALTER TABLE catalog.folder ADD CONSTRAINT up FOREIGN KEY (parent_id) REFERENCES catalog.folder")
    world.legacy("INSERT INTO folder SELECT n, 'f', nullif(n + 1, 61) FROM generate_series(1, 60) n")
    sync(context, *range(1, 61))
    assert rebuild_table(context, like=True).findings == []
    refers = "SELECT conrelid::regclass::text, confrelid::regclass::text, convalidated FROM pg_constraint"
    assert world.target(f"{refers} WHERE conname = 'up' AND conrelid = 'catalog.folder'::regclass") == [
        ("catalog.folder", "catalog.folder", True)
    ]
    assert clear(world.stores, context.entity) == ["catalog.folder_former"]
    assert agreed(context)


@pytest.mark.parametrize("column", ["kind", "kept", "seen", "l", "key_0"])
def test_a_table_whose_key_bears_a_name_of_the_comparison_is_rebuilt(world, column):
    world.legacy(ROWS)
    name = next(_names)
    columns = {column: "bigint", "title": "text"}
    entity = replace(
        note(name, COLUMNS, adapt=lambda legacy: {column: legacy["id"], "title": legacy["title"]}),
        sinks=(RelationalTable(f"catalog.{name}", key=(column,), columns=columns),),
    )
    context = EntityContext.open(entity, world.stores)
    open_cursor(context)
    sync(context, *range(1, 61))
    assert rebuild_table(context, Once(lambda: world.legacy("DELETE FROM note WHERE id = 7")), like=True).findings == []
    sync(context, 7)
    assert len(rows(world, table_of(context), f'"{column}", title')) == 59
    assert agreed(context)


def test_parts_are_rebuilt(world):
    entity = replace(parted.TITLE, capture=SweepOnly())
    context = EntityContext.open(entity, world.stores)
    world.legacy(
        "INSERT INTO work VALUES (1, 'g'), (2, 'g'); INSERT INTO work_title (work_id, lang, title) VALUES"
        " (1, 'de', 'eins'), (1, 'en', 'one'), (2, 'en', 'two')"
    )
    sync_roots(context, context.origin.root.parse(["1", "2"]), Order())

    def edit():
        world.legacy(
            "DELETE FROM work_title WHERE (work_id, lang) = (1, 'de'); INSERT INTO work_title (work_id, lang,"
            " title) VALUES (2, 'fr', 'deux')"
        )
        sync_roots(context, context.origin.root.parse(["1", "2"]), Order(acknowledge=True))

    assert rebuild_table(context, Once(edit), like=True).findings == []
    assert set(world.target("SELECT id, lang FROM catalog.title")) == {(1, "en"), (2, "en"), (2, "fr")}
    assert agreed(context)


def test_values_are_not_cut_to_the_types_a_session_has_seen_before(world, context):
    """The table is altered under a process that goes on."""
    world.target(f"{OWN}ALTER TABLE {table_of(context)} ALTER size TYPE numeric(10,3)")
    world.legacy("UPDATE note SET size = 9.875 WHERE id = 1")
    sync(context, 1)
    assert str(rows(world, table_of(context), "id, size")[1][0]) == "9.875"


def test_what_is_left_of_rebuilds_goes_where_the_file_names_another_table(world, context):
    entity = replace(context.entity, sinks=(replace(context.entity.table, name="catalog.other"),))
    assert rebuild_table(context, like=True).findings == []
    assert clear(world.stores, entity) == [f"{table_of(context)}_former"]

    def give_up():
        raise SettingError("given up")

    with pytest.raises(SettingError, match="given up"):
        rebuild_table(context, Once(give_up), like=True)
    assert abandon(world.stores, entity) == f"{table_of(context)}_next"
    for name in ("former", "next"):
        assert world.target("SELECT to_regclass(%s)", (f"{table_of(context)}_{name}",)) == [(None,)]


def test_a_column_that_is_not_declared_keeps_its_default(world, context):
    world.target(f"{OWN}ALTER TABLE {table_of(context)} ADD since date NOT NULL DEFAULT '2020-01-01'")
    world.legacy("UPDATE note SET title = 'written' WHERE id = 1; INSERT INTO note VALUES (61, 'new', 1, 't')")
    sync(context, 1, 61)
    assert {row[0] for row in rows(world, table_of(context), "id, title").values()} >= {"written", "new"}
    assert agreed(context)
    assert not [
        n for n in preflight(world.stores, [context.entity]) if n.about == "target database" and n.level == "error"
    ]
    assert repair(context, []) == []
    assert backfill(context, context.entity.partitions.names()[0]).rows == 61
