"""Our sessions at both databases: limited, named, as they were asked for, and told apart from everybody else's."""

import dataclasses
import datetime as dt
from contextlib import ExitStack, closing, nullcontext

import psycopg2
import pytest

from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.ledger.cursor import Lease
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.operate.fence import Held
from sync_pipeline.sources.window import observe
from sync_pipeline.stores import sessions
from sync_pipeline.stores import stores as module
from sync_pipeline.stores.sessions import (
    Profile,
    Purpose,
    connect_owner,
    legacy_profile,
    name_of_session,
    prepare,
    target_profile,
)
from sync_pipeline.stores.stores import Stores
from sync_pipeline.stores.takeover import end_lost_sessions
from tests.pooler import pooled
from tests.world import wait_for

LOST = {
    "tcp_keepalives_idle": "10",
    "tcp_keepalives_interval": "5",
    "tcp_keepalives_count": "3",
    "client_connection_check_interval": "5s",
}
LOOKBACK = dt.timedelta(minutes=15)
PID = "SELECT pg_backend_pid()"


@pytest.fixture(scope="module", autouse=True)
def ledger(fresh_world):
    migrate(fresh_world.stores)
    fresh_world.target("INSERT INTO sync.cursor (entity) VALUES ('text') ON CONFLICT DO NOTHING")


@pytest.fixture
def own(fresh_world):
    """A function that opens stores of their own, with other settings."""
    with ExitStack() as opened:

        def by(**settings):
            stores = Stores(dataclasses.replace(fresh_world.stores.settings, **settings))
            opened.enter_context(closing(stores))
            stores.ledger_id()
            return stores

        yield by


def answer(cursor, query, *values):
    cursor.execute(query, values)
    return cursor.fetchone()[0]


def held_by(cursor, *names):
    """What a session has, of some settings."""
    return {name: answer(cursor, "SELECT current_setting(%s)", name) for name in names}


@pytest.mark.hazard(72)
@pytest.mark.parametrize(
    ("side", "more"),
    [
        ("legacy", {"lock_timeout": "3s", "statement_timeout": "5s", "idle_session_timeout": "20s"}),
        ("target", {"lock_timeout": "1min", "statement_timeout": "0", "idle_in_transaction_session_timeout": "25s"}),
    ],
)
def test_a_session_is_limited_from_its_first_statement_on(own, side, more):
    expected = {**LOST, "tcp_user_timeout": "25000", **more}
    with getattr(own(), side)() as cursor:
        assert held_by(cursor, *expected) == expected
        parameters = cursor.connection.info.dsn_parameters
    client = {name: str(sessions.CLIENT[name]) for name in ("keepalives_idle", "tcp_user_timeout")}
    assert client.items() <= parameters.items()


@pytest.mark.hazard(72)
def test_sessions_outside_the_pool_are_limited_too(own):
    stores = own()
    with closing(stores.legacy_session()) as connection, connection.cursor() as cursor:
        assert held_by(cursor, *LOST) == LOST
        assert held_by(cursor, "idle_session_timeout") == {"idle_session_timeout": "0"}  # it listens for hours
    owner = connect_owner(stores.settings.legacy_db.replace("+psycopg2", ""))
    with closing(owner), owner.cursor() as cursor:
        assert held_by(cursor, "lock_timeout", *LOST) == {"lock_timeout": "3s", **LOST}


def test_purposes_have_limits_of_their_own_without_a_journey_of_their_own(own):
    stores = own()
    for purpose, limit in ((Purpose.PAGE, "2min"), (Purpose.POLL, "30s"), (Purpose.WHOLE, "0"), (Purpose.LOOK, "5s")):
        with stores.legacy(purpose) as cursor:
            assert answer(cursor, "SHOW statement_timeout") == limit
    with stores.legacy(Purpose.LOOK) as cursor:
        cursor.execute("SELECT 1")
        assert cursor.query == b"SELECT 1"  # all that it needs it has


def test_what_an_undone_transaction_had_set_is_set_again(own):
    stores = own()
    with pytest.raises(psycopg2.errors.DivisionByZero), stores.of_entity("text").target(Purpose.LOOK) as cursor:
        cursor.execute("SELECT 1; SELECT 1 / 0")
    with stores.of_entity("text").target(Purpose.LOOK) as cursor:
        assert held_by(cursor, "statement_timeout") == {"statement_timeout": "5s"}
        assert answer(cursor, "SHOW application_name") == f"sync-pipeline/{stores.ledger_id()}/text"


def test_what_a_server_does_not_know_or_refuses_is_left_out(own):
    limits = {"not_yet_invented": "1", "lock_timeout": "2s", "client_connection_check_interval": "sometimes"}
    with own().legacy() as cursor:
        prepare(cursor.connection, Profile("SYNC_LEGACY_DB", {}, limits))
        assert answer(cursor, "SHOW lock_timeout") == "2s"


@pytest.mark.hazard(74)
@pytest.mark.parametrize("refuses", [False, True], ids=["drops options", "refuses options"])
@pytest.mark.parametrize("side", ["legacy", "target"])
def test_pins_that_a_pooler_does_not_pass_on_are_set_by_sql(fresh_world, side, refuses):
    url = getattr(fresh_world.stores.settings, f"{side}_db")
    with pooled(f"{url}?options=-cenable_seqscan%3Doff", refuses=refuses) as url:
        stores = Stores(dataclasses.replace(fresh_world.stores.settings, **{f"{side}_db": url}))
        with closing(stores), getattr(stores, side)() as cursor:
            pins = legacy_profile(stores.settings, "").pins if side == "legacy" else target_profile().pins
            for name, value in {**pins, "enable_seqscan": "off"}.items():
                assert answer(cursor, f"SHOW {name}").replace(" ", "") == value
        if side == "legacy":
            with closing(stores.legacy_session()) as connection, connection.cursor() as cursor:
                assert answer(cursor, "SHOW bytea_output") == "hex"


@pytest.mark.hazard(74)
@pytest.mark.parametrize("side", ["legacy", "target"])
def test_a_pooler_that_pools_transactions_is_named(fresh_world, side):
    with pooled(getattr(fresh_world.stores.settings, f"{side}_db"), shares=True) as url:
        stores = Stores(dataclasses.replace(fresh_world.stores.settings, **{f"{side}_db": url}))
        named = f"SYNC_{side.upper()}_DB.*pools transactions.*pool_mode = session"
        for _ in range(2):
            with closing(stores), pytest.raises(SettingError, match=named), getattr(stores, side)() as cursor:
                cursor.execute("SELECT 1")


@pytest.mark.hazard(73)
def test_a_statement_that_takes_too_long_names_its_purpose_and_setting(own):
    stores = own(look_timeout_seconds=0.1)
    with stores.legacy() as cursor:
        pid = answer(cursor, PID)
    named = r"a look may take 0\.1 s \(SYNC_LOOK_TIMEOUT_SECONDS\)"
    with pytest.raises(UnreachableError, match=named), stores.legacy() as cursor:
        cursor.execute("SELECT pg_sleep(5)")
    with stores.legacy() as cursor:
        assert answer(cursor, PID) == pid  # the connection is as good as before


@pytest.mark.hazard(73)
def test_a_lock_that_is_not_granted_is_given_up(own, fresh_world):
    stores = own(lock_timeout_seconds=0.1)
    with closing(psycopg2.connect(fresh_world.monolith.admin_url)) as other:
        other.cursor().execute("LOCK TABLE content IN ACCESS EXCLUSIVE MODE")
        named = r"a page waits for a lock .* \(SYNC_LOCK_TIMEOUT_SECONDS\)"
        with pytest.raises(UnreachableError, match=named), stores.legacy_rows() as cursor:
            cursor.execute("SELECT count(*) FROM content")
        assert fresh_world.legacy("SELECT 1 FROM pg_locks WHERE NOT granted") == []


def test_no_more_connections_than_allowed(own, monkeypatch):
    monkeypatch.setattr(module, "_POOL_SECONDS", 0.1)
    stores = own(db_connections=1)
    with stores.legacy() as cursor:
        cursor.execute("SELECT 1")
        with pytest.raises(UnreachableError, match="SYNC_DB_CONNECTIONS"), stores.legacy():
            pass


def test_fifty_entities_wait_for_no_connection(own, monkeypatch):
    """Four threads each, all of them at once."""
    monkeypatch.setattr(module, "_POOL_SECONDS", 0)
    stores = own()
    assert stores.legacy_engine.pool.size() + stores.legacy_engine.pool._max_overflow >= 50 * 4


@pytest.mark.hazard(72)
def test_an_idle_session_is_ended_by_the_server_and_replaced_before_it_is_used(own, fresh_world, monkeypatch):
    monkeypatch.setattr(sessions, "_IDLE_SECONDS", 1)
    monkeypatch.setattr(module, "REST_LIMIT_SECONDS", 0.0)
    monkeypatch.setattr(module, "_REST_SECONDS", 0.0)
    stores = own()
    with stores.legacy() as cursor:
        pid = answer(cursor, PID)
    wait_for(lambda: fresh_world.legacy("SELECT 1 FROM pg_stat_activity WHERE pid = %s", [pid]) == [])
    with stores.legacy() as cursor:
        assert answer(cursor, PID) != pid


def test_a_session_bears_ledger_entity_and_epoch(own):
    stores = own()
    text, ledger = stores.of_entity("text"), stores.ledger_id()

    def name():
        with text.legacy() as cursor:
            return answer(cursor, "SHOW application_name")

    assert name() == f"sync-pipeline/{ledger}/text"
    stores.epochs["text"] = 7
    assert name() == f"sync-pipeline/{ledger}/text/7"
    with stores.legacy() as cursor:
        assert answer(cursor, "SHOW application_name") == f"sync-pipeline/{ledger}"


def in_transaction(url, name):
    """A session of the reader's with a transaction open, under a name."""
    connection = psycopg2.connect(url.replace("+psycopg2", ""), application_name=name)
    connection.cursor().execute("SELECT 'a secret'")
    return connection


def named_holders(stores):
    """Whom the window and the fence count as others, by pid."""
    with stores.legacy() as cursor:
        window, _ = observe(cursor, None, LOOKBACK)
    by_window = {int(name.partition("@")[0]): window.who[name] for name in window.holders}
    by_fence = {int(holder.who.removeprefix("pid ")): holder for holder in Held(stores).open}
    assert by_window.keys() == by_fence.keys()
    return by_window, by_fence


@pytest.mark.hazard(75)
@pytest.mark.parametrize("rest", ["", "/text", "/text/3", "/another/99"])
def test_a_renamed_session_of_ours_is_ours(own, rest):
    stores = own()
    name = name_of_session(stores.ledger_id()) + rest
    with closing(in_transaction(stores.settings.legacy_db, name)):
        assert named_holders(stores) == ({}, {})


STRANGERS = ["sync-pipeline/00000000/text/3", "sync-pipeline", "sync-pipeline/-/text", ""]


@pytest.mark.hazard(75)
@pytest.mark.parametrize("name", STRANGERS)
def test_a_session_of_another_ledger_under_the_same_role_is_not(own, name):
    stores = own()
    with closing(in_transaction(stores.settings.legacy_db, name)) as other:
        by_window, by_fence = named_holders(stores)
        assert by_window.keys() == {other.info.backend_pid}
        assert by_fence[other.info.backend_pid].application == name


@pytest.mark.hazard(75)
def test_without_its_guard_it_is_taken_for_ours(own, monkeypatch):
    """What it commits late would be passed over. Statements are made when a module is read, so they are made again."""
    from sync_pipeline.operate import fence
    from sync_pipeline.sources import window

    monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", "75")
    without = sessions.ours("a")
    monkeypatch.delenv("SYNC_TEST_GUARDS_OFF")
    guarded = sessions.ours("a")
    for where in (fence, window):
        monkeypatch.setattr(where, "_SESSIONS", where._SESSIONS.replace(guarded, without))
    stores = own()
    with closing(in_transaction(stores.settings.legacy_db, STRANGERS[0])):
        assert named_holders(stores) == ({}, {})


@pytest.mark.hazard(76)
def test_of_a_statement_its_first_word_alone_is_copied(own, fresh_world):
    stores = own()
    with closing(psycopg2.connect(fresh_world.monolith.admin_url, application_name="editor")) as other:
        other.cursor().execute("UPDATE content SET title = 'a secret' WHERE id = -1")
        by_window, by_fence = named_holders(stores)
        pid = other.info.backend_pid
        assert by_window[pid] == f"pid {pid} {other.info.user} editor (idle in transaction) UPDATE"
        assert by_fence[pid].statement == "UPDATE"
        with pytest.raises(psycopg2.Error):
            other.cursor().execute("hunter2")
        assert "hunter2".upper() not in named_holders(stores)[0].get(pid, "").upper()


@pytest.mark.hazard(72)
def test_a_successor_ends_lower_epochs_of_its_entity_and_no_other_session(own, fresh_world):
    stores = own()
    ledger = stores.ledger_id()
    for url, run in ((stores.settings.legacy_db, fresh_world.legacy), (stores.settings.target_db, fresh_world.target)):
        lost = [f"sync-pipeline/{ledger}/text/{epoch}" for epoch in (3, 4)]
        left = [
            f"sync-pipeline/{ledger}/text/5",
            f"sync-pipeline/{ledger}/text/10",
            f"sync-pipeline/{ledger}/text",
            f"sync-pipeline/{ledger}/text_2/3",
            f"sync-pipeline/{ledger}",
            "sync-pipeline/00000000/text/3",
            "sync-pipeline/text/3",
        ]
        with ExitStack() as stack:
            for name in [*lost, *left]:
                stack.enter_context(closing(in_transaction(url, name)))
            end_lost_sessions(stores, "text", 5)
            names = "SELECT application_name FROM pg_stat_activity WHERE state = 'idle in transaction' ORDER BY 1"
            wait_for(lambda run=run, names=names, left=left: [n for (n,) in run(names)] == sorted(left))


@pytest.mark.hazard(72)
@pytest.mark.parametrize("guards", ["", "72"])
def test_what_a_lost_session_has_locked_is_free_for_its_successor(own, fresh_world, monkeypatch, guards):
    stores = own()
    lost = in_transaction(stores.settings.target_db, name_of_session(stores.ledger_id(), "text", 3))
    with closing(lost):
        lost.cursor().execute("LOCK TABLE sync.backfill")
        monkeypatch.setenv("SYNC_TEST_GUARDS_OFF", guards)
        end_lost_sessions(stores, "text", 5)
        with pytest.raises(psycopg2.errors.LockNotAvailable) if guards else nullcontext():
            fresh_world.target("SET lock_timeout = '2s'; LOCK TABLE sync.backfill")


def test_only_a_lease_that_was_not_given_back_is_taken_after_a_loss(own, fresh_world):
    stores = own()
    first = Lease.take(stores, "text", "first")
    assert not first.after_loss
    assert not Lease.take(stores, "text", "first").after_loss  # its own, which it could not give back
    fresh_world.target("UPDATE sync.cursor SET lease_until = now() - interval '1 s'")
    second = Lease.take(stores, "text", "second")
    assert second.after_loss
    second.give_back(stores)
    third = Lease.take(stores, "text", "third")
    assert not third.after_loss
    third.give_back(stores)
