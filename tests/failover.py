"""A primary of one side on a server of its own, with a standby that can be cut off, and promoted once it is killed."""

import copy
import threading
from contextlib import contextmanager
from urllib.parse import urlsplit

from demo.databases import Monolith
from demo.edit import Editors
from demo.machine import free_port
from demo.servers import LEGACY_OPTIONS, PostgresServer
from tests.chaos.proxy import Link, Loop
from tests.replica import Replica
from tests.world import World, opened, wait_for

SETTING = {"legacy": "SYNC_LEGACY_DB", "target": "SYNC_TARGET_DB"}
USER = {"legacy": "sync_reader", "target": "sync_writer"}


class Pair:
    """Primary and standby of one side; `link` is the way that the engine takes to whichever is the primary."""

    def __init__(self, fleet, folder, side):
        self.side = side
        options = LEGACY_OPTIONS if side == "legacy" else None
        self.primary = PostgresServer(folder, "primary", free_port(), options)
        self.primary.start()
        self.primary.wait_healthy()
        self.standby = None
        self.loop = Loop()
        self.link = Link(self.loop, self.primary.port)
        self.fleet = copy.copy(fleet)
        setattr(self.fleet, side, self.primary)
        self.folder = folder

    def follow(self):
        """Make the standby, which gets all that the primary commits."""
        self.standby = Replica(self.folder, self.primary)
        self.standby.start()
        self.standby.wait_healthy()

    def cut_off(self):
        """Have the standby get nothing more; all that was committed before is there."""
        position = self._ask(self.primary, "SELECT pg_current_wal_flush_lsn()")
        wait_for(lambda: self.standby.run(f"SELECT pg_last_wal_replay_lsn() >= '{position}'") == [(True,)])
        self.standby.run("ALTER SYSTEM SET primary_conninfo = ''")
        self.standby.run("SELECT pg_reload_conf()")
        wait_for(lambda: self.standby.run("SELECT count(*) FROM pg_stat_wal_receiver") == [(0,)])

    def fail_over(self, world, between=lambda: None):
        """Kill the primary, promote the standby, and lead the engine there."""
        self.link.refuse()
        self.primary.kill()
        self.standby.run("SELECT pg_promote()")
        wait_for(lambda: self.standby.run("SELECT pg_is_in_recovery()") == [(False,)])
        setattr(self.fleet, self.side, self.standby)
        name = urlsplit(world.target_url).path[1:]
        if self.side == "target":
            world.target_url = self.standby.url(name)
        else:
            world.monolith = Monolith(self.standby.url(name, "sync_reader"), self.standby.url(name))
        between()
        self.link.to = self.standby.port
        self.link.upstream = self.standby.port
        self.link.heal()

    def url(self, database):
        """The engine's way."""
        return self.primary.url(database, USER[self.side]).replace(f":{self.primary.port}/", f":{self.link.port}/")

    def close(self):
        self.link.refuse()
        self.loop.close()
        for server in (self.primary, self.standby):
            if server:
                server.kill()

    def _ask(self, server, statement):
        return Replica.run(server, statement)[0][0]


@contextmanager
def paired(fleet, folder, side, name, **settings):
    """(pair, world): a world of which one side is a pair's."""
    pair = Pair(fleet, folder, side)
    try:
        # the password is made with the server, so the way is known from here on
        with opened(pair.fleet, name, **{SETTING[side]: pair.url(name)}, **settings) as world:
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
    edited = "SELECT 1 FROM content WHERE updated_at > %s OFFSET 9"
    tallies = []
    thread = threading.Thread(target=lambda: tallies.append(editors.run()))
    thread.start()
    try:
        yield
        wait_for(lambda: world.legacy(edited, [since]) or not thread.is_alive())
    finally:
        editors.halt()
        thread.join()
    assert tallies[0].committed > 0
