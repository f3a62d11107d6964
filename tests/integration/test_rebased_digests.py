"""Rows of a former digest: read once with the former and the present one, compared where these may hide a difference.

The former digest is a real one, algorithm 2: it takes 1.0 and 1.00, and 0 and -0, for one value.
"""

import dataclasses
import importlib.resources
import multiprocessing
import os
import signal
import threading
from contextlib import closing

import psycopg2
import pytest

from sync_pipeline.batch.order import Order
from sync_pipeline.cli import tables
from sync_pipeline.db.digest import DigestExpression, digest_expression, former_expressions
from sync_pipeline.entities import origin
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.errors import StoppedError, UnreachableError
from sync_pipeline.explain.why import why
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.model.faults import REBASE_CRASH_POINTS
from sync_pipeline.operate.drain import drain
from sync_pipeline.operate.snapshot import rebuild, take
from sync_pipeline.operate.status import status_of
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run import rebase
from sync_pipeline.run import sweep as sweeping
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.heartbeat import free_leases
from sync_pipeline.run.live import work
from sync_pipeline.run.sweep import go_on, sweep
from sync_pipeline.settings import Settings
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from sync_pipeline.stores.stores import Stores
from tests import parted
from tests.halts import After
from tests.world import wait_for

MONOLITH = """
    DROP TABLE IF EXISTS offer;
    CREATE TABLE offer (id bigint PRIMARY KEY, title text, price numeric, rating double precision);
    GRANT SELECT ON offer TO sync_reader;
    INSERT INTO offer SELECT n, 'offer ' || n, CASE WHEN n > 20 THEN 1.0 END, CASE WHEN n > 30 THEN 0 END
        FROM generate_series(1, 60) n;
"""
COUNT = 60
PLAIN, VALUED = range(1, 21), range(21, 61)  # without a value in a column whose expression has changed, and with one
COLUMNS = {"id": "bigint", "title": "text", "price": "numeric", "rating": "double precision"}
FIELDS = {"id": {"type": "long"}, "title": {"type": "keyword"}, "rating": {"type": "double"}}
ENTITY = Entity(
    name="offer",
    owner="team:tests",
    origin=LegacyQuery("SELECT * FROM offer", key=("id",)),
    tables=(Table("offer", key=("id",)),),
    adapt=lambda legacy: legacy,
    sinks=(RelationalTable("catalog.offer", key=("id",), columns=COLUMNS), SearchIndex("offer", fields=FIELDS)),
    partitions=KeyRanges(1),
    capture=SweepOnly(),
)
BASES = "SELECT count(DISTINCT basis), count(*) FROM sync.ledger_offer WHERE digest IS NOT NULL"
QUEUED = "SELECT k::bigint FROM sync.due, unnest(keys) k WHERE entity = 'offer' AND reason = 'sweep' ORDER BY 1"
WRITTEN = "SELECT coalesce(sum(written), 0)::int FROM sync.batch WHERE entity = 'offer' AND revision > %s"


def algorithm_2(types):
    return next(found for version, found in former_expressions(types, 18).items() if version.startswith("2/"))


class Ground:
    """An entity whose ledger is of a former digest."""

    def __init__(self, world, monkeypatch, stores):
        self.world, self.stores = world, stores
        with monkeypatch.context() as patch:
            patch.setattr(origin, "digest_expression", algorithm_2)
            self.old = EntityContext.open(ENTITY, stores)
            open_cursor(self.old)
            sync_keys(self.old, self.keys(range(1, COUNT + 1)), Order(force=True))
            world.target("UPDATE sync.cursor SET filled_at = now()")
            sweep(self.old)
        ((self.revision,),) = world.target("SELECT max(revision) FROM sync.batch")

    def keys(self, numbers):
        return self.old.origin.key.parse(map(str, numbers))

    def open(self):
        """The entity as a later version of the engine opens it."""
        return EntityContext.open(ENTITY, self.stores)

    def forget(self, version):
        """Have the ledger bear a version alone, as one does that was made before the expression was kept."""
        self.world.target(
            "UPDATE sync.basis SET digest_version = %s, expression = NULL, parts = NULL WHERE id = %s",
            (version, self.old.ledger.basis),
        )

    def change(self):
        """Changes that the former digest does not see (21, 31) and such that it does (5, 50), all without an event."""
        self.world.legacy(
            "UPDATE offer SET price = 1.00 WHERE id = 21; UPDATE offer SET rating = '-0' WHERE id = 31;"
            "UPDATE offer SET title = 'new' WHERE id IN (5, 50)"
        )

    def settle(self, context):
        while work(context, lambda *_: None):
            pass

    def written(self):
        """How many rows were written since the ledger was made."""
        return self.world.target(WRITTEN, (self.revision,))[0][0]

    def documents(self):
        """Versions of all documents, by id."""
        self.world.document("POST", "offer/_refresh")
        hits = self.world.document("GET", f"offer/_search?size={COUNT}&version=true&_source=false")["hits"]["hits"]
        return {int(hit["_id"]): hit["_version"] for hit in hits}

    def expect_right(self, context):
        """Both sides hold the same, nothing is owed, and no row bears a former digest."""
        columns = "id, title, price::text, rating::text"
        rows = [f"SELECT {columns} FROM {table} ORDER BY id" for table in ("catalog.offer", "offer")]
        assert self.world.target(rows[0]) == self.world.legacy(rows[1])
        assert self.world.target("SELECT count(*) FROM sync.due") == [(0,)]
        assert self.world.target(BASES) == [(1, COUNT)]
        verdict = reconcile(context)
        assert (verdict.status, verdict.findings, verdict.former_digests) == ("clean", [], 0)
        assert status_of(self.stores, ENTITY)["former_digests"] == 0


@pytest.fixture
def ground(fresh_world, monkeypatch):
    fresh_world.legacy(MONOLITH)
    settings = dataclasses.replace(Settings.from_env(), recheck_seconds=0.0, chunk_rows=7)
    monkeypatch.setattr(rebase, "PAGE", 25)
    with closing(Stores(settings)) as stores:
        yield Ground(fresh_world, monkeypatch, stores)
    fresh_world.target("DROP TABLE sync.ledger_offer, catalog.offer")
    for table in ("basis", "cursor", "due", "sweep", "claim", "backfill"):
        fresh_world.target(f"DELETE FROM sync.{table} WHERE entity = 'offer'")
    for index in fresh_world.document("GET", "_alias/offer"):
        fresh_world.document("DELETE", index)


def known(_):
    """The ledger has the former expression."""


def recovered(ground):
    ground.forget(next(iter(former_expressions(ground.old.origin.kinds, ground.old.origin.server_major))))


@pytest.mark.hazard(146)
@pytest.mark.parametrize("keep", [known, recovered])
def test_rows_are_rebased_and_only_those_that_differ_are_written(ground, keep):
    """The new side's values that the former digest took for right are found, too."""
    keep(ground)
    ground.change()
    context, documents = ground.open(), ground.documents()
    assert context.ledger.basis != ground.old.ledger.basis
    assert status_of(ground.stores, ENTITY)["former_digests"] == reconcile(context).former_digests == COUNT
    swept = sweep(context)
    assert (swept.rebased, swept.changed, swept.outdated, swept.compared) == (COUNT, 4, 0, COUNT)
    assert ground.world.target(QUEUED) == [(5,), (21,), (31,), (50,)]
    ground.settle(context)
    assert ground.written() == 4
    assert {key for key, version in ground.documents().items() if version != documents[key]} == {5, 21, 31, 50}
    ground.expect_right(context)
    swept = sweep(context)
    assert (swept.rebased, swept.changed, swept.outdated) == (0, 0, 0)


@pytest.mark.hazard(146)
def test_without_comparing_wrong_values_are_taken_for_right(ground, monkeypatch):
    ground.change()
    context = ground.open()
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "146")
    assert sweep(context).changed == 2
    ground.settle(context)
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")
    assert {finding.key for finding in reconcile(context).findings} == {"21", "31"}
    assert sweep(context).changed == 0  # and no later sweep finds them


def test_only_rows_that_may_hide_a_difference_are_compared(ground, monkeypatch):
    """Not those without a value in an affected column, nor those that have changed for the former digest, too."""
    compared, compare = [], rebase._compare
    monkeypatch.setattr(
        rebase, "_compare", lambda context, rows, keys: compared.append(keys) or compare(context, rows, keys)
    )
    ground.change()
    sweep(ground.open())
    read = sorted(key for keys in compared for key in keys.column("id").to_pylist())
    assert read == [key for key in VALUED if key != 50]
    assert max(keys.num_rows for keys in compared) == 7


@pytest.mark.hazard(146)
def test_after_a_column_came_rows_are_compared(ground):
    """An adapter may make something of its NULL, so that no row is exempt."""
    ground.world.legacy("ALTER TABLE offer ADD COLUMN note text")

    def adapt(legacy):
        title = legacy["title"].where(legacy["note"].notna() | (legacy["id"] != 3), "without a note")
        return {"id": legacy["id"], "title": title, "price": legacy["price"], "rating": legacy["rating"]}

    context = EntityContext.open(dataclasses.replace(ENTITY, adapt=adapt), ground.stores)
    swept = sweep(context)
    assert (swept.rebased, swept.changed, swept.outdated) == (COUNT, 1, 0)
    ground.settle(context)
    assert ground.world.target("SELECT title FROM catalog.offer WHERE id = 3") == [("without a note",)]


@pytest.mark.hazard(146)
@pytest.mark.parametrize("version", ["0123456789abcdef/18", "2/17/0123456789ab"])
def test_where_the_former_digest_cannot_be_computed_each_row_is_compared(ground, version):
    """The former expression is not known, or the server has another major version."""
    ground.forget(version)
    ground.change()
    context = ground.open()
    swept = sweep(context)
    assert (swept.rebased, swept.changed, swept.outdated) == (COUNT, 4, 0)
    ground.settle(context)
    assert ground.written() == 4
    ground.expect_right(context)


@pytest.mark.hazard(146)
@pytest.mark.parametrize("alter", ["ALTER rating TYPE numeric", "ALTER price TYPE text"])
def test_after_a_column_got_another_type_rows_are_compared(ground, alter):
    """Of a rating that is numeric the former expression can still be made; a price that is text has no scale."""
    sweep(ground.open())
    ground.world.legacy(f"ALTER TABLE offer {alter}")
    ground.change()
    context = ground.open()
    swept = sweep(context)
    assert (swept.rebased, swept.outdated) == (COUNT, 0)
    ground.settle(context)
    ground.expect_right(context)


def test_rows_of_an_older_entity_version_are_left_to_a_backfill(ground):
    context = EntityContext.open(dataclasses.replace(ENTITY, version=2), ground.stores)
    swept = sweep(context)
    assert (swept.rebased, swept.outdated) == (0, COUNT)
    assert status_of(ground.stores, context.entity)["former_digests"] == 0


def test_a_sweep_that_is_cut_off_all_the_time_rebases_all_rows(ground):
    ground.change()
    context, left = ground.open(), [COUNT]
    while (swept := go_on(context, After(3))) is None:
        left.append(status_of(ground.stores, ENTITY)["former_digests"])
        assert left[-1] + status_of(ground.stores, ENTITY)["sweep"]["rebased"] == COUNT
        assert len(left) < 40
    assert swept.rebased == COUNT
    assert left == sorted(left, reverse=True)
    assert len(left) > 4
    ground.settle(context)
    ground.expect_right(context)


def _sweep_once(settings, point):
    os.environ |= {"SYNC_TEST_CRASH_AT": point}
    rebase.PAGE = 25
    with closing(Stores(settings)) as stores:
        stores.worker = "killed"
        sweep(EntityContext.open(ENTITY, stores))


@pytest.mark.hazard(146)
@pytest.mark.parametrize("point", [*REBASE_CRASH_POINTS, "sweep.page"])
def test_killed_in_the_midst_it_goes_on_elsewhere(ground, point):
    ground.change()
    process = multiprocessing.get_context("forkserver").Process(
        target=_sweep_once, args=(ground.stores.settings, f"{point}:2")
    )
    process.start()
    process.join(60)
    assert process.exitcode == -signal.SIGKILL
    free_leases(ground.stores, "killed")
    context = ground.open()
    assert 0 < status_of(ground.stores, ENTITY)["former_digests"] < COUNT
    sweep(context)
    ground.settle(context)
    assert ground.written() == 4
    ground.expect_right(context)


@pytest.fixture
def between(monkeypatch):
    """Have something happen once, after rows were compared, or after a page was read, and before the ledger is set."""

    def happens(owner, name, act):
        done, former = [], getattr(owner, name)

        def around(*arguments):
            found = former(*arguments)
            if not done:
                done.append(True)
                act()
            return found

        monkeypatch.setattr(owner, name, around)

    return happens


def entry(world, key):
    return world.target("SELECT digest, basis, seen, written FROM sync.ledger_offer WHERE id = %s", (key,))[0]


@pytest.mark.hazard(146)
@pytest.mark.parametrize(("owner", "name", "key"), [(origin.Origin, "digests", 3), (rebase, "_compare", 22)])
def test_a_batch_that_writes_a_row_meanwhile_wins(ground, between, owner, name, key):
    context, entries = ground.open(), []

    def edit():
        ground.world.legacy("UPDATE offer SET title = 'edited' WHERE id = %s", (key,))
        assert sync_keys(context, ground.keys([key]), Order(acknowledge=True)).written == 1
        entries.append(entry(ground.world, key))

    between(owner, name, edit)
    sweep(context)
    assert entry(ground.world, key) == entries[0]
    ground.settle(context)
    ground.expect_right(context)


@pytest.mark.hazard(146)
def test_a_row_that_a_process_of_the_former_version_writes_meanwhile_is_compared_again(ground, between):
    """Its basis is the former one still: that alone does not tell that it is another row."""
    context, entries = ground.open(), []

    def edit():
        ground.world.legacy("UPDATE offer SET title = 'edited' WHERE id = 22")
        assert sync_keys(ground.old, ground.keys([22]), Order(acknowledge=True)).written == 1
        entries.append(entry(ground.world, 22))

    between(rebase, "_compare", edit)
    swept = sweep(context)
    assert (swept.rebased, swept.outdated) == (COUNT - 1, 1)
    assert entry(ground.world, 22) == entries[0]
    assert status_of(ground.stores, ENTITY)["former_digests"] == 1
    assert sweep(context).rebased == 1
    ground.settle(context)
    ground.expect_right(context)


def test_a_row_that_a_batch_holds_is_not_waited_for(ground):
    context = ground.open()
    with closing(psycopg2.connect(ground.world.target_url)) as batch:
        batch.cursor().execute("SELECT FROM sync.ledger_offer WHERE id IN (7, 40) FOR UPDATE")
        swept = sweep(context)
    assert (swept.rebased, swept.outdated) == (COUNT - 2, 2)
    assert sweep(context).rebased == 2
    ground.expect_right(context)


def test_an_index_that_is_away_holds_up_no_sweep(ground, monkeypatch):
    context = ground.open()

    def away(*_):
        raise UnreachableError("SYNC_SEARCH_URL: away")

    with monkeypatch.context() as patch:
        patch.setattr(SearchIndex, "compare", away)
        swept = sweep(context)
    assert (swept.rebased, swept.outdated) == (len(PLAIN), len(VALUED))
    wait_for(lambda: not ground.stores.search_breaker.is_open)
    assert sweep(context).rebased == len(VALUED)
    ground.expect_right(context)


def test_a_discarded_row_stays_discarded_while_it_is_the_same(ground):
    name = "offer"
    digest = f"SELECT {ground.old.origin.digest.sql} FROM offer q WHERE id = %s"
    for key in (4, 24):
        ((found,),) = ground.world.legacy(digest, (key,))
        ground.world.target(
            "INSERT INTO sync.due (entity, reason, key, revision, priority, digest, basis)"
            " VALUES (%s, 'discarded', %s, 0, 9, %s, %s)",
            (name, str(key), found, ground.old.ledger.basis),
        )
    context = ground.open()
    sweep(context)
    ((present,),) = ground.world.legacy(f"SELECT {context.origin.digest.sql} FROM offer q WHERE id = 4")
    letters = dict(ground.world.target("SELECT key, digest FROM sync.due WHERE reason = 'discarded'"))
    assert letters["4"] == present
    assert letters["24"] == found  # whether it is the same the former digest does not tell
    ground.world.target("DELETE FROM sync.due")


def test_a_ledger_that_is_made_again_is_rebased_again(ground):
    """The log does not tell of digests that were set without a write."""
    take(ground.stores, "offer")
    context = ground.open()
    sweep(context)
    assert rebuild(context) == COUNT
    assert status_of(ground.stores, ENTITY)["former_digests"] == COUNT
    assert sweep(context).rebased == COUNT
    ground.expect_right(context)


def test_commands_say_that_rows_are_compared_by_themselves(ground, capsys):
    context = ground.open()
    tables.statuses({"offer": status_of(ground.stores, ENTITY)})
    tables.verdicts([reconcile(context)], "clean")
    said = " ".join(capsys.readouterr().out.split())
    assert said.count("60 rows of offer bear a former digest. Sweeps compare them with the new side") == 2
    assert "bears a former digest" in why(context, "30").verdict
    with pytest.raises(StoppedError, match=r"60 rows bear a former digest.*wait until sweeps have compared them"):
        drain([context], 0, threading.Event())


def test_an_entity_without_rows_of_a_former_digest_is_read_as_ever(ground, monkeypatch):
    context = ground.open()
    sweep(context)
    monkeypatch.setattr(sweeping.rebase, "rebase_page", None)
    assert sweep(context).compared == COUNT


@pytest.mark.hazard(146)
def test_a_document_alone_that_is_wrong_is_written(ground):
    """The row is right: somebody, or a fault that is mended since, has left another document."""
    ground.world.document("POST", "offer/_update/33?refresh=true", {"doc": {"title": "another"}})
    context = ground.open()
    assert (sweep(context).changed, ground.world.target(QUEUED)) == (1, [(33,)])
    ground.settle(context)
    ground.expect_right(context)


def test_an_entity_with_files_is_rebased_without_a_write(fresh_world, monkeypatch):
    """Lists of tags and files are affected in each row: all rows are compared, and found to be right."""
    fresh_world.load(150, 30)
    with monkeypatch.context() as patch:
        patch.setattr(origin, "digest_expression", algorithm_2)
        old = fresh_world.all_in("text")
        sweep(old)
    fresh_world.target("UPDATE sync.cursor SET filled_at = now()")
    ((written,),) = fresh_world.target("SELECT max(written) FROM sync.ledger_text")
    context = fresh_world.context("text")
    assert context.ledger.basis != old.ledger.basis
    swept = sweep(context)
    assert swept.rebased == swept.compared > 30
    assert (swept.changed, swept.outdated) == (0, 0)
    assert fresh_world.target("SELECT max(written) FROM sync.ledger_text") == [(written,)]


@pytest.mark.hazard(146)
def test_parts_of_a_legacy_row_are_rebased_one_by_one(fresh_world, monkeypatch):
    """The former digest knows of a title nothing but its length."""

    def blind(types):
        parts = dict(digest_expression(types).parts)
        return DigestExpression.of(parts | {"title": 'length(q."title")'})

    fresh_world.legacy(parted.MONOLITH)
    fresh_world.legacy("INSERT INTO work SELECT n, 'g' FROM generate_series(1, 9) n")
    fresh_world.legacy(
        "INSERT INTO work_title SELECT n, l, 'one' FROM generate_series(1, 9) n, unnest('{de,en}'::text[]) l"
    )
    entity = dataclasses.replace(parted.TITLE, capture=SweepOnly())
    with monkeypatch.context() as patch:
        patch.setattr(origin, "digest_expression", blind)
        old = EntityContext.open(entity, fresh_world.stores)
        open_cursor(old)
        sync_keys(
            old, old.origin.key.parse(f'["{n}","{lang}"]' for n in range(1, 10) for lang in ("de", "en")), Order()
        )
        sweep(old)
        fresh_world.legacy("UPDATE work_title SET title = 'two' WHERE (work_id, lang) = (4, 'en')")
        assert sweep(old).changed == 0
    context = EntityContext.open(entity, fresh_world.stores)
    swept = sweep(context)
    assert (swept.rebased, swept.changed, swept.outdated) == (18, 1, 0)
    while work(context, lambda *_: None):
        pass
    assert fresh_world.target("SELECT id, lang FROM catalog.title WHERE title = 'two'") == [(4, "en")]
    assert reconcile(context).status == "clean"


def test_a_ledger_from_before_expressions_were_kept_is_migrated(ground):
    """Its tables get the new columns, and of its bases the last one counts as in use."""
    world, files = ground.world, importlib.resources.files("sync_pipeline.ledger").joinpath("migrations")
    names = sorted(file.name for file in files.iterdir() if file.name.endswith(".sql") and file.name < "0025")
    world.target("ALTER SCHEMA sync RENAME TO kept")
    try:
        with ground.stores.target() as cursor:  # as their owner, the role that migrates
            cursor.execute(
                "CREATE SCHEMA sync; CREATE TABLE sync.migration (name text PRIMARY KEY, applied_at timestamptz)"
            )
            for name in names:
                cursor.execute(files.joinpath(name).read_text(encoding="utf-8"))
                cursor.execute("INSERT INTO sync.migration VALUES (%s, now())", (name,))
            for entity in ("a", "b c"):
                cursor.execute(f'CREATE TABLE sync."ledger_{entity}" (id bigint, digest bigint, basis integer)')
            cursor.execute("INSERT INTO sync.cursor (entity) VALUES ('a'), ('b c'), ('never opened')")
            basis = "INSERT INTO sync.basis (entity, entity_version, digest_version) VALUES ('a', 1, %s)"
            cursor.execute(basis, ("1",))
            cursor.execute(basis, ("2",))
        migrate(ground.stores)
        assert world.target("SELECT digest_version FROM sync.basis WHERE superseded_at IS NULL") == [("2",)]
        assert world.target('SELECT a.target_digest FROM sync.ledger_a a, sync."ledger_b c" b') == []
    finally:
        world.target("DROP SCHEMA IF EXISTS sync CASCADE; ALTER SCHEMA kept RENAME TO sync")
