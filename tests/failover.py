"""One side on a server of its own, with a standby that can be cut off, and promoted once the primary is killed."""

import copy
import threading
from contextlib import contextmanager, suppress

import psycopg2

from demo.edit import Editors
from demo.machine import free_port
from demo.servers import LEGACY_OPTIONS, PostgresServer
from tests.chaos.proxy import Link, Loop
from tests.replica import PHYSICAL_SLOT, Replica
from tests.world import World, opened, wait_for

# a source reads six slots, and a backup and a standby come in addition
_ROOM = {"max_wal_senders": "30", "max_replication_slots": "30"}
SETTING = {"legacy": "SYNC_LEGACY_DB", "target": "SYNC_TARGET_DB"}
_END_SESSIONS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"""
# a slot that the standby could go on with
_SHIPPED = """
    SELECT coalesce(bool_and(synced AND NOT temporary AND invalidation_reason IS NULL), false), count(*)
    FROM pg_replication_slots WHERE slot_type = 'logical' AND failover"""


class Pair:
    """Primary and standby as one server: its address is a way that leads to whichever is the primary.

    It stands for the server of its side in a fleet. Sessions break when the primary is killed, as those of a
    monolith's programs do, and come back by the same address.
    """

    def __init__(self, folder, side):
        self.side = side
        self.folder = folder
        options = LEGACY_OPTIONS if side == "legacy" else {}
        self.primary = PostgresServer(folder, "primary", free_port(), {**options, **_ROOM})
        self.standby = None
        self.times = 0  # how often it has failed over
        self._loop = Loop()
        self.way = Link(self._loop, self.primary.port)
        try:
            self.start()
            self.wait_healthy()
        except BaseException:
            self.close()
            raise

    @property
    def port(self):
        """Of the way."""
        return self.way.port

    @property
    def password(self):
        """Of every role."""
        return self.primary.password

    def url(self, database, *user):
        """A connection string that stays right after a failover."""
        return self.primary.url(database, *user).replace(f":{self.primary.port}/", f":{self.port}/")

    def run(self, statement):
        """A statement of the superuser's at the primary."""
        return Replica.run(self.primary, statement)

    def start(self):
        """Start the primary."""
        self.primary.start()

    def stop(self):
        """Stop the primary in order."""
        self.primary.stop()

    def kill(self):
        """Kill the primary."""
        self.primary.kill()

    def wait_healthy(self):
        """Wait for the primary."""
        self.primary.wait_healthy()

    def follow(self, *, with_slots=False):
        """Make the standby, which gets all that the primary commits; its slots as well, if wanted."""
        self.standby = Replica(self.folder, self.primary, f"standby-{self.times}")
        self.standby.start()
        self.standby.wait_healthy()
        if with_slots:
            self.standby.take_slots_over()

    def lose_nothing(self, *, with_slots=False):
        """Have commits wait for the standby, and readers of failover slots as well."""
        # PostgreSQL's name for a standby without another; with * commits would wait for our reader as well
        settings = {"synchronous_standby_names": "walreceiver"}
        if with_slots:
            settings["synchronized_standby_slots"] = PHYSICAL_SLOT
        for name, value in settings.items():
            self.run(f"ALTER SYSTEM SET {name} = '{value}'")
        self.run("SELECT pg_reload_conf()")
        wait_for(lambda: self.run("SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"))

    def has_slots(self, count):
        """Whether the standby could go on with so many logical slots, which it takes over as they are read."""
        self.run("SELECT pg_log_standby_snapshot()")
        return self.standby.run(_SHIPPED) == [(True, count)]

    def cut_off(self):
        """Have the standby get nothing more; all that was committed before is there."""
        ((position,),) = self.run("SELECT pg_current_wal_flush_lsn()")
        wait_for(lambda: self.standby.run(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [(True,)])
        self.standby.run("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.run("SELECT pg_reload_conf()")
        wait_for(lambda: self.standby.run("SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)])

    def end_sessions(self):
        """Let nobody reach the primary any more, and wait until nobody is at work there."""
        self.way.refuse()
        wait_for(lambda: self.run(_END_SESSIONS) == [])

    def fail_over(self, between=lambda: None):
        """Kill the primary, promote the standby, and lead all there; `between` is done before anyone gets there."""
        self.primary.kill()
        self.way.refuse()
        self.standby.run("SELECT pg_promote()")
        wait_for(lambda: self.standby.run("SELECT pg_is_in_recovery()") == [(False,)])
        self.primary, self.standby = self.standby, None
        self.times += 1
        self.run("ALTER SYSTEM RESET ALL")  # it has no primary any more, and a standby that is made of it has another
        self.run("SELECT pg_reload_conf()")
        between()
        self.way.to = self.way.upstream = self.primary.port
        self.way.heal()

    def close(self):
        """Leave nothing running."""
        self.way.refuse()
        self._loop.close()
        for server in (self.primary, self.standby):
            if server:
                server.kill()


@contextmanager
def paired(fleet, folder, side, name, **settings):
    """(pair, world): a world of which one side is a pair's."""
    pair = Pair(folder, side)
    try:
        own = copy.copy(fleet)
        setattr(own, side, pair)
        with opened(own, name, **settings) as world:
            yield pair, world
    finally:
        pair.close()


@contextmanager
def writing(world: World, seed: int, without=frozenset()):
    """Eight editors at work until the end of the block."""
    editors = Editors(
        world.monolith.admin_url,
        world.client,
        world.legacy_bucket,
        rate=40,
        seconds=600,
        workers=8,
        seed=seed,
        late_seconds=(1, 2),
        late_every=8,
        without=without,
    )
    ((since,),) = world.legacy("SELECT clock_timestamp()")
    tallies = []
    thread = threading.Thread(target=lambda: tallies.append(editors.run()))
    thread.start()
    try:
        yield
        wait_for(lambda: edited_since(world, since) or not thread.is_alive())
    finally:
        editors.halt()
        thread.join()
    assert tallies[0].committed > 0


def edited_since(world, since):
    """Whether editors have committed several transactions since then; not while the server is away."""
    with suppress(psycopg2.OperationalError):
        return world.legacy("SELECT 1 FROM content WHERE updated_at > %s OFFSET 9", [since])
