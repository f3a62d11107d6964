"""Rows that the new table refuses by whatever SQLSTATE: they are parked alone, and all others are written."""

import psycopg2
import pytest
from sqlalchemy import event

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SharedFaultError, UnreachableError
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.run import live
from sync_pipeline.run.sweep import sweep
from tests import clips

PARKED = "SELECT key::bigint, step, error FROM sync.due WHERE reason = 'rejected' ORDER BY 1"
RAISING = """
    CREATE FUNCTION catalog.check_clip() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.title = 'raises' THEN RAISE EXCEPTION 'no such title'; END IF;
        IF NEW.title = 'finds nothing' THEN RAISE no_data_found; END IF;
        IF NEW.title = 'own code' THEN RAISE EXCEPTION 'own' USING ERRCODE = 'MY001'; END IF;
        IF NEW.title = 'internal' THEN RAISE internal_error; END IF;
        IF NEW.title = 'asserts' THEN ASSERT false, 'never'; END IF;
        RETURN NEW;
    END $$;
    CREATE TRIGGER check_clip BEFORE INSERT OR UPDATE ON catalog.clip FOR EACH ROW EXECUTE FUNCTION catalog.check_clip()
"""
POLICY = """
    ALTER TABLE catalog.clip ENABLE ROW LEVEL SECURITY;
    ALTER TABLE catalog.clip FORCE ROW LEVEL SECURITY;
    CREATE POLICY visible ON catalog.clip USING (true) WITH CHECK (title IS DISTINCT FROM 'hidden')
"""
# how the new side is made to refuse, the row's value, and how it ends
REFUSALS = {
    "ProgramLimitExceeded": (
        "CREATE INDEX refusing ON catalog.clip (title)",
        "title = {long}",
        "DROP INDEX catalog.refusing",
    ),
    "tsvector": (
        "CREATE INDEX refusing ON catalog.clip USING gin (to_tsvector('simple', body))",
        "body = (SELECT string_agg('w' || n, ' ') FROM generate_series(1, 200000) n)",
        "DROP INDEX catalog.refusing",
    ),
    **{
        error: (RAISING, f"title = '{title}'", "DROP FUNCTION catalog.check_clip CASCADE")
        for error, title in {
            "RaiseException": "raises",
            "NoDataFound": "finds nothing",
            "DatabaseError": "own code",
            "InternalError_": "internal",
            "AssertFailure": "asserts",
        }.items()
    },
    "InsufficientPrivilege": (
        POLICY,
        "title = 'hidden'",
        "DROP POLICY visible ON catalog.clip; ALTER TABLE catalog.clip NO FORCE ROW LEVEL SECURITY;"
        " ALTER TABLE catalog.clip DISABLE ROW LEVEL SECURITY",
    ),
    "CheckViolation": (
        "ALTER TABLE catalog.clip ADD CONSTRAINT refusing CHECK (title <> 'bad')",
        "title = 'bad'",
        "ALTER TABLE catalog.clip DROP CONSTRAINT refusing",
    ),
}
LONG = "(SELECT string_agg(md5(n::text), '') FROM generate_series(1, 600) n)"
EDIT = "UPDATE clips SET {}, updated_at = clock_timestamp() WHERE id = %s"


@pytest.fixture(scope="module")
def world(world):
    world.legacy(clips.MONOLITH)
    EntityContext.open(clips.clip(), world.stores)
    return world


@pytest.fixture
def context(world):
    """Forty clips that both sides have, and nothing due; empty at the end."""
    context = EntityContext.open(clips.clip(), world.stores)
    world.legacy("INSERT INTO clips SELECT n, 'title ' || n, 'slug ' || n, 'body' FROM generate_series(1, 40) n")
    sync(context, *range(1, 41))
    yield context
    clips.emptied(world)


def sync(context, *keys, **order):
    return sync_keys(context, context.origin.key.parse(map(str, keys)), Order(**order))


def edit(world, assignment, *keys):
    for key in keys:
        world.legacy(EDIT.format(assignment), [key])


def rows(world, column="title"):
    return dict(world.target(f"SELECT id, {column} FROM catalog.clip ORDER BY 1"))


@pytest.mark.hazard(92)
@pytest.mark.parametrize("name", REFUSALS)
def test_it_is_parked_alone_and_goes_through_once_the_cause_is_gone(world, context, name):
    making, fault, ending = REFUSALS[name]
    world.target(making)
    try:
        edit(world, fault.format(long=LONG), 7, 20)
        edit(world, "title = title || ' v2'", 6, 8, 21)
        outcome = sync(context, *range(1, 41))
        assert (outcome.written, outcome.parked) == (3, 2)
        parked = world.target(PARKED)
        assert [(key, step) for key, step, _ in parked] == [(7, "row"), (20, "row")]
        assert name == "tsvector" or {error for *_, error in parked} == {name}
        assert rows(world)[21] == "title 21 v2"
    finally:
        world.target(ending)
    sync(context, 7, 20, again=True)
    assert world.target(PARKED) == []
    assert rows(world) == dict(world.legacy("SELECT id, title FROM clips"))


@pytest.mark.hazard(92)
def test_without_its_guard_it_stops_all_others(world, context, monkeypatch):
    """The driver counts its code among those of a server that is away."""
    making, fault, ending = REFUSALS["ProgramLimitExceeded"]
    world.target(making)
    try:
        edit(world, fault.format(long=LONG), 7)
        edit(world, "title = 'v2'", 6)
        with monkeypatch.context() as patch:
            patch.setenv("SYNC_TEST_GUARDS_OFF", "92")
            with pytest.raises(UnreachableError, match="index row"):
                sync(context, *range(1, 41))
        assert (rows(world)[6], world.target(PARKED)) == ("title 6", [])
        assert sync(context, *range(1, 41)).parked == 1
        assert rows(world)[6] == "v2"
    finally:
        world.target(ending)


@pytest.mark.hazard(92)
def test_the_pool_and_its_connections_outlive_a_row_s_fault(world, context):
    made = []
    event.listen(world.stores.target_engine, "connect", lambda *_: made.append(1))
    world.target(RAISING)
    try:
        edit(world, "title = 'raises'", 7)
        sync(context, 7)
        made.clear()
        for _ in range(3):
            edit(world, "title = 'raises', body = body || 'x'", 7)
            assert sync(context, 7).parked == 1
        assert made == []
    finally:
        world.target("DROP FUNCTION catalog.check_clip CASCADE")


def test_a_lock_that_is_not_granted_and_a_statement_that_takes_too_long_are_the_store_s(world):
    for setting, statement in (
        ("lock_timeout = '10ms'", "LOCK catalog.clip"),
        ("statement_timeout = '10ms'", "SELECT pg_sleep(5)"),
    ):
        holder = psycopg2.connect(world.target_url)
        holder.cursor().execute("LOCK catalog.clip")
        with pytest.raises(UnreachableError), world.stores.target() as cursor:
            cursor.execute(f"SET LOCAL {setting}; {statement}")
        holder.close()


def test_a_table_that_is_missing_stops_the_entity_and_parks_nothing(world, context):
    edit(world, "title = 'v2'", 1, 2)
    world.target("ALTER TABLE catalog.clip RENAME COLUMN slug TO snail")
    try:
        with pytest.raises(Exception, match="slug"):
            sync(context, 1, 2)
        assert world.target(PARKED) == []
    finally:
        world.target("ALTER TABLE catalog.clip RENAME COLUMN snail TO slug")


UNIQUE = "ALTER TABLE catalog.clip ADD CONSTRAINT one_slug UNIQUE (slug)"
EXCLUDED = "ALTER TABLE catalog.clip ADD CONSTRAINT one_slug EXCLUDE (slug WITH =)"
DEFERRED = "ALTER TABLE catalog.clip ADD CONSTRAINT one_slug UNIQUE (slug) DEFERRABLE INITIALLY DEFERRED"


@pytest.fixture(params=[UNIQUE, EXCLUDED, DEFERRED])
def constrained(request, world, context):
    world.target(request.param)
    yield context
    world.target("ALTER TABLE catalog.clip DROP CONSTRAINT one_slug")


def exchanged(world):
    """Three rows hand their slugs round, and a chain of two moves on."""
    world.legacy(
        "UPDATE clips SET slug = 'slug ' || CASE id WHEN 1 THEN 2 WHEN 2 THEN 3 WHEN 3 THEN 1 WHEN 10 THEN 11"
        " ELSE 99 END, updated_at = clock_timestamp() WHERE id IN (1, 2, 3, 10, 11)"
    )


@pytest.mark.hazard(93)
def test_rows_that_exchange_values_of_a_unique_column_are_written(world, constrained):
    exchanged(world)
    outcome = sync(constrained, *range(1, 41))
    assert (outcome.written, outcome.parked) == (5, 0)
    assert rows(world, "slug") == dict(world.legacy("SELECT id, slug FROM clips"))


@pytest.mark.hazard(93)
@pytest.mark.parametrize("constrained", [UNIQUE, EXCLUDED], indirect=True)
def test_without_its_guard_rows_that_exchange_values_stay_as_they_were(world, constrained, monkeypatch):
    exchanged(world)
    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "93")
    assert sync(constrained, *range(1, 41)).parked >= 3
    slugs = rows(world, "slug")
    assert [slugs[key] for key in (1, 2, 3)] == ["slug 1", "slug 2", "slug 3"]


@pytest.mark.hazard(93)
def test_rows_that_exchange_values_one_by_one_are_written_in_the_end(world, constrained):
    exchanged(world)
    for key in (1, 2, 3, 10, 11):
        sync(constrained, key)
    for _ in range(10):
        world.target("UPDATE sync.due SET not_before = now() WHERE reason <> 'rejected'")
        live.work(constrained, lambda *_: None)
    world.target("UPDATE sync.cursor SET filled_at = now()")
    sweep(constrained)
    for _ in range(10):
        live.work(constrained, lambda *_: None)
    assert world.target(PARKED) == []
    assert rows(world, "slug") == dict(world.legacy("SELECT id, slug FROM clips"))


@pytest.mark.hazard(93)
def test_a_row_that_repeats_a_value_is_parked_and_the_exchange_goes_on(world, constrained):
    exchanged(world)
    edit(world, "slug = 'slug 30'", 29)
    outcome = sync(constrained, *range(1, 41))
    assert (outcome.written, outcome.parked) == (5, 1)
    assert [key for key, *_ in world.target(PARKED)] == [29]


def test_former_rows_are_not_deleted_where_others_refer_to_them(world, context):
    world.target(f"{UNIQUE}; CREATE TABLE catalog.ref (id bigint REFERENCES catalog.clip ON DELETE CASCADE)")
    world.target("INSERT INTO catalog.ref VALUES (1)")
    try:
        exchanged(world)
        assert sync(context, *range(1, 41)).parked == 3
        assert world.target("SELECT id FROM catalog.ref") == [(1,)]
        assert rows(world, "slug")[10] == "slug 11"
    finally:
        world.target("DROP TABLE catalog.ref; ALTER TABLE catalog.clip DROP CONSTRAINT one_slug")


@pytest.mark.hazard(92)
def test_a_row_that_cannot_be_deleted_is_parked_alone(world, context):
    world.target("CREATE TABLE catalog.ref (id bigint REFERENCES catalog.clip)")
    world.target("INSERT INTO catalog.ref VALUES (5)")
    try:
        world.legacy("DELETE FROM clips WHERE id IN (4, 5)")
        edit(world, "title = 'v2'", 6)
        sync(context, *range(1, 41))
        for _ in range(3):
            live.work(context, lambda *_: None)
        assert world.target(PARKED) == [(5, "row", "ForeignKeyViolation")]
        assert 4 not in rows(world)
        assert rows(world)[6] == "v2"
    finally:
        world.target("DROP TABLE catalog.ref")


@pytest.mark.hazard(92)
def test_what_the_ledger_cannot_hold_is_parked_alone(world, context):
    """A file's name that is too long for an index of ours, once it is there under that name."""
    world.target(
        "CREATE UNIQUE INDEX short ON sync.ledger_clip ((CASE WHEN id = 9 THEN repeat(md5(seen::text), 1) END))"
    )
    world.target(
        "CREATE FUNCTION catalog.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 9 THEN RAISE"
        " program_limit_exceeded; END IF; RETURN NEW; END $$; CREATE TRIGGER refuse BEFORE UPDATE ON sync.ledger_clip"
        " FOR EACH ROW WHEN (OLD.written <> NEW.written) EXECUTE FUNCTION catalog.refuse()"
    )
    try:
        edit(world, "title = 'v2'", 8, 9, 10)
        assert sync(context, *range(1, 41)).parked == 1
        assert world.target(PARKED) == [(9, "row", "ProgramLimitExceeded")]
        assert (rows(world)[8], rows(world)[9], rows(world)[10]) == ("v2", "title 9", "v2")
    finally:
        world.target("DROP FUNCTION catalog.refuse CASCADE; DROP INDEX sync.short")


@pytest.mark.hazard(91)
def test_a_constraint_that_no_row_meets_stops_the_entity_and_parks_nothing(world, context, monkeypatch):
    world.target("ALTER TABLE catalog.clip ADD COLUMN must text NOT NULL DEFAULT ''")
    world.target("ALTER TABLE catalog.clip ALTER must DROP DEFAULT")
    try:
        world.legacy("UPDATE clips SET title = title || ' v2', updated_at = clock_timestamp() WHERE id <= 25")
        world.legacy("INSERT INTO clips SELECT n, 'new' FROM generate_series(101, 130) n")
        with pytest.raises(SharedFaultError, match=r"30 of 30 rows .* at the step row: NotNullViolation"):
            sync(context, *range(101, 131))
        assert world.target(PARKED) == []
        monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "91")
        assert sync(context, *range(101, 131)).parked == 30
    finally:
        world.target("ALTER TABLE catalog.clip DROP COLUMN must")


@pytest.mark.hazard(91)
def test_an_import_of_bad_rows_is_parked_since_other_rows_pass(world, context):
    world.target("ALTER TABLE catalog.clip ADD CONSTRAINT refusing CHECK (title <> 'bad')")
    try:
        world.legacy("INSERT INTO clips SELECT n, 'bad' FROM generate_series(101, 130) n")
        assert sync(context, *range(101, 131)).parked == 30
    finally:
        world.target("ALTER TABLE catalog.clip DROP CONSTRAINT refusing")


@pytest.mark.hazard(91)
@pytest.mark.parametrize(("bad", "good"), [((1, 70), (71, 75)), ((6, 75), (1, 5))])
def test_bad_rows_that_are_neighbours_of_the_batch_stop_nobody(world, context, bad, good):
    """Of a history whose oldest rows are all bad, a batch fails, and so do the rows behind it: later ones pass."""
    world.target("ALTER TABLE catalog.clip ADD CONSTRAINT refusing CHECK (title <> 'bad') NOT VALID")
    try:
        world.legacy("INSERT INTO clips SELECT n, 'new' FROM generate_series(41, 75) n")
        world.legacy("UPDATE clips SET title = 'bad' WHERE id BETWEEN %s AND %s", bad)
        first = bad[0]
        assert sync(context, *range(first, first + 30)).parked == 30
        assert sync(context, *range(good[0], good[1] + 1)).parked == 0
    finally:
        world.target("ALTER TABLE catalog.clip DROP CONSTRAINT refusing")


@pytest.mark.hazard(91)
def test_an_adapter_that_fails_for_every_row_stops_the_entity(world, context):
    def broken(legacy):
        if len(legacy):
            raise KeyError("header")
        return clips.adapt(legacy)

    other = EntityContext.open(clips.clip(adapt=broken), world.stores)
    world.legacy("UPDATE clips SET title = title || ' v2', updated_at = clock_timestamp()")
    with pytest.raises(SharedFaultError, match="at the step adapt: KeyError"):
        sync(other, *range(1, 36))
    assert world.target(PARKED) == []
