"""What the monolith hides is not gone: policies, narrowed views and revoked grants stop deletes, and are named."""

import sys
from contextlib import contextmanager
from dataclasses import replace

import pytest

from sync_pipeline.cli import entry
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import EntityFiles
from sync_pipeline.entities.visibility import changes_of
from sync_pipeline.entity import LegacyQuery
from sync_pipeline.errors import AccessError, HiddenRowsError, UnreachableError
from sync_pipeline.operate.repair import repair
from sync_pipeline.preflight.preflight import preflight
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.live import work
from sync_pipeline.run.sweep import sweep
from sync_pipeline.stores.stores import Stores
from tests.caught._tables import TABLES
from tests.world import opened

POLICY = """
    ALTER TABLE content ENABLE ROW LEVEL SECURITY;
    CREATE POLICY hides ON content TO sync_reader USING (id %% 10 <> 0)
"""
NO_POLICY = "DROP POLICY IF EXISTS hides ON content; ALTER TABLE content DISABLE ROW LEVEL SECURITY"
VIEWS = """
    CREATE VIEW shown AS SELECT * FROM content;
    CREATE VIEW shown_texts AS SELECT * FROM shown WHERE kind = 'text';
    GRANT SELECT ON shown, shown_texts TO sync_reader
"""
NARROW = "CREATE OR REPLACE VIEW shown AS SELECT * FROM content WHERE id %% 10 <> 0"
TEXTS = "SELECT count(*) FROM catalog.text"


@pytest.fixture(scope="module")
def world(fleet):
    with opened(fleet, "hidden_rows", SYNC_RECHECK_SECONDS="0") as world:
        world.load(120, 0)
        world.legacy(VIEWS)
        world.all_in("text")
        world.target("UPDATE sync.cursor SET filled_at = now()")
        yield world


@pytest.fixture
def texts(world):
    """How many texts there are; afterwards all of them are there, by a sweep of the monolith as it was."""
    ((count,),) = world.target(TEXTS)
    assert count > 20
    yield count
    world.legacy(NO_POLICY)
    world.legacy("CREATE OR REPLACE VIEW shown AS SELECT * FROM content; GRANT SELECT ON content TO sync_reader")
    world.target("DELETE FROM sync.visibility")
    applied(world.context("text"))
    assert world.target(TEXTS) == [(count,)]


def applied(context):
    """Sweep, and apply what was found."""
    found = sweep(context)
    while work(context, lambda *_: None):
        pass
    return found


@contextmanager
def anew(world):
    """Stores without sessions from before, as of a process that is started now."""
    before, world.stores = world.stores, Stores(world.stores.settings)
    try:
        yield world.stores
    finally:
        world.stores.close()
        world.stores = before


def complete(context, stores):
    """The entity, which says that policies show all that is meant to move."""
    tables = tuple(replace(table, policies="complete") for table in context.entity.tables)
    return EntityContext.open(replace(context.entity, tables=tables), stores)


def through_views(context):
    sql = context.entity.origin.sql.replace("FROM content c", "FROM shown_texts c")
    assert sql != context.entity.origin.sql
    return EntityContext.open(replace(context.entity, origin=LegacyQuery(sql, key=("id",))), context.stores)


@pytest.mark.hazard(70)
def test_a_policy_is_refused_by_name_and_deletes_nothing(world, texts):
    context = world.context("text")
    world.legacy(POLICY)
    remedy = r'query would be affected by row-level security policy for table "content".*BYPASSRLS.*policies="complete"'
    with pytest.raises(AccessError, match=remedy):
        sweep(context)
    with pytest.raises(AccessError, match=remedy):
        world.context("text")
    assert world.target(TEXTS) == [(texts,)]
    assert world.target("SELECT sweep_error FROM sync.cursor WHERE entity = 'text'")[0][0].startswith("SYNC_LEGACY_DB")
    assert reconcile(context).status == "unknown"
    (notice, *_) = [n for n in preflight(world.stores, [context.entity]) if n.level == "error"]
    assert notice.about == "entity text"
    assert "row-level security" in notice.what
    assert "ALTER ROLE sync_reader BYPASSRLS" in notice.remedy


@pytest.mark.hazard(70)
def test_without_its_guard_hidden_rows_are_deleted(world, texts, monkeypatch):
    """The test above would show it: the verdict is clean, and a tenth is gone."""
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "70")
    with anew(world):
        context = world.context("text")
        world.legacy(POLICY)
        assert applied(context).gone > 0
        assert reconcile(context).status == "clean"
        assert world.target(TEXTS)[0][0] < texts
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")


@pytest.mark.hazard(70)
def test_a_role_that_no_policy_binds_reads_all(world, texts):
    world.legacy(POLICY)
    world.legacy("ALTER ROLE sync_reader BYPASSRLS")
    try:
        assert applied(world.context("text")).gone == 0
    finally:
        world.legacy("ALTER ROLE sync_reader NOBYPASSRLS")


def policy_narrowed(world):
    world.legacy("ALTER POLICY hides ON content USING (id %% 10 > 1)")


def membership_lost(world):
    world.legacy("REVOKE sees_all FROM sync_reader")


def policy_added(world):
    world.legacy("CREATE POLICY other ON content AS RESTRICTIVE TO sync_reader USING (id %% 7 <> 0)")


@pytest.mark.hazard(71)
@pytest.mark.parametrize(
    ("change", "named"),
    [
        (policy_narrowed, "row-level security of public.content: its policies have changed"),
        (policy_added, "row-level security of public.content: its policies have changed"),
        (membership_lost, "role sync_reader: its rights or memberships have changed"),
    ],
)
def test_complete_policies_are_read_through_until_they_change(world, texts, change, named):
    world.legacy("CREATE ROLE sees_all; GRANT sees_all TO sync_reader")
    try:
        world.legacy(POLICY.replace("id %% 10 <> 0", "true"))
        context = complete(world.context_before, world.stores)
        assert applied(context).gone == 0
        change(world)
        with pytest.raises(HiddenRowsError, match=named):
            sweep(context)
        assert world.target(TEXTS) == [(texts,)]
        notices = [n for n in preflight(world.stores, [context.entity]) if named in n.what]
        assert [n.remedy for n in notices] == ["sync-pipeline visibility text --accept"]
    finally:
        world.legacy("DROP POLICY IF EXISTS other ON content; DROP ROLE sees_all")


@pytest.fixture(autouse=True)
def context_before(world):
    """The entity as its file declares it, opened while it may be."""
    world.context_before = world.context("text")


@pytest.mark.hazard(71)
def test_a_narrowed_view_below_a_view_stops_deletes_until_it_is_accepted(world, texts, monkeypatch, capsys):
    context = through_views(world.context("text"))
    assert applied(context).gone == 0
    world.legacy(NARROW)
    with pytest.raises(HiddenRowsError, match=r"view public\.shown: its definition has changed.*--accept"):
        sweep(context)
    verdict = reconcile(context)
    assert verdict.status == "unknown"
    with pytest.raises(HiddenRowsError, match="shown"):
        repair(context, verdict.findings)
    assert world.target(TEXTS) == [(texts,)]
    assert "view public.shown" in world.target("SELECT sweep_error FROM sync.cursor WHERE entity = 'text'")[0][0]
    files = EntityFiles({"text": context.entity}, {"text": "text"}, {})
    monkeypatch.setattr("sync_pipeline.entities.files.read_entity_files", lambda _: files)
    assert command(monkeypatch, "visibility", "text") == 1
    assert "view public.shown: its definition has changed" in capsys.readouterr().out
    assert command(monkeypatch, "visibility", "text", "--accept") == 0
    assert command(monkeypatch, "visibility", "--all") == 0
    assert applied(context).gone > 0
    assert world.target("SELECT accepted_by <> '' FROM sync.visibility WHERE entity = 'text'") == [(True,)]


@pytest.mark.hazard(71)
def test_without_its_guard_a_narrowed_view_deletes(world, texts, monkeypatch):
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "71")
    context = through_views(world.context("text"))
    assert applied(context).gone == 0
    world.legacy(NARROW)
    assert applied(context).gone > 0
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")


@pytest.mark.hazard(71)
def test_a_view_that_is_narrowed_while_its_pages_are_read_stops_deletes_too(world, texts, monkeypatch):
    context = through_views(world.context("text"))
    assert applied(context).gone == 0
    digests = type(context.origin).digests

    def narrowed(origin, *page):
        world.legacy(NARROW)
        return digests(origin, *page)

    monkeypatch.setattr(type(context.origin), "digests", narrowed)
    with pytest.raises(HiddenRowsError, match="shown"):
        sweep(context)
    monkeypatch.undo()
    assert world.target("SELECT 1 FROM sync.due WHERE reason = 'sweep'") == []


def test_what_a_session_calls_things_is_no_change_of_the_monolith(world, texts):
    """By itself, a view's definition names the schema of a table only where another one is found before it."""
    context = through_views(world.context("text"))
    assert applied(context).gone == 0
    world.legacy(
        "CREATE SCHEMA elsewhere; CREATE TABLE elsewhere.content (LIKE public.content);"
        " GRANT USAGE ON SCHEMA elsewhere TO sync_reader; GRANT SELECT ON elsewhere.content TO sync_reader;"
        " ALTER ROLE sync_reader SET search_path = elsewhere, public"
    )
    try:
        with anew(world) as stores:
            assert changes_of(context.entity, stores) == []
    finally:
        world.legacy("ALTER ROLE sync_reader RESET search_path; DROP SCHEMA elsewhere CASCADE")


def test_another_query_of_the_entitys_file_is_no_change_of_the_monolith(world, texts):
    assert applied(world.context("text")).gone == 0
    assert applied(through_views(world.context("text"))).gone == 0
    assert applied(world.context("text")).gone == 0


@pytest.mark.hazard(70)
def test_a_revoked_grant_is_an_error_and_deletes_nothing(world, texts):
    context = world.context("text")
    world.legacy("REVOKE SELECT ON content FROM sync_reader")
    with pytest.raises(AccessError, match="permission denied for table content"):
        sweep(context)
    with pytest.raises(AccessError, match="permission denied for table content"):
        context.origin.by_keys(context.origin.key.parse(["1"]))
    assert world.target(TEXTS) == [(texts,)]


@pytest.mark.hazard(70)
def test_a_poll_of_a_filtered_table_is_refused_in_each_of_its_tables(world, texts):
    """Those that a key comes from, too: a file of a text is read by its own table."""
    context = EntityContext.open(replace(world.context("text").entity, tables=TABLES), world.stores)
    world.legacy("ALTER TABLE media_files ENABLE ROW LEVEL SECURITY")
    try:
        source = context.entity.capture.open(subject(context), None)
        source.begin()
        with pytest.raises((AccessError, UnreachableError), match="media_files"):
            list(source.pull(100))
    finally:
        world.legacy("ALTER TABLE media_files DISABLE ROW LEVEL SECURITY")


def subject(context):
    from sync_pipeline.run.capture import subject_of

    return subject_of(context)


def command(monkeypatch, *words):
    monkeypatch.setattr(sys, "argv", ["sync-pipeline", *words])
    with pytest.raises(SystemExit) as ended:
        entry.main()
    return ended.value.code
