"""A streaming replica of one of the demo's PostgreSQL servers."""

import os
import subprocess
from contextlib import closing

import psycopg2

from demo.machine import free_port, postgres_program
from demo.servers import LEGACY_OPTIONS, PostgresServer
from tests.world import wait_for

# what feeds the replica, where it keeps the primary's slots
PHYSICAL_SLOT = "standby"
IS_FED = f"SELECT 1 FROM pg_replication_slots WHERE slot_name = '{PHYSICAL_SLOT}' AND active"


class Replica(PostgresServer):
    """Made from a base backup of `primary`, whose log it follows."""

    def __init__(self, home, primary, name="replica"):
        super().__init__(home, name, free_port(), {**primary.options, **LEGACY_OPTIONS})
        self.primary = primary

    @property
    def password(self):
        return self.primary.password

    def _write_password(self):
        """It is the primary's."""

    def _initdb(self, folder):
        command = [str(postgres_program("pg_basebackup")), "-D", str(folder), "-R", "-X", "stream", "-c", "fast"]
        options = {**self.account.options, "env": {**os.environ, "PGPASSWORD": self.password}}
        where = ["-h", "127.0.0.1", "-p", str(self.primary.port), "-U", "postgres"]
        subprocess.run([*self.account.prefix, *command, *where], cwd=self.folder, check=True, **options)

    def run(self, statement):
        """A statement of the superuser's; any server of the demo's takes it."""
        with closing(psycopg2.connect(self.url("postgres"))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def take_slots_over(self):
        """Have it keep the primary's failover slots, and return once it is fed through a slot."""
        Replica.run(self.primary, f"SELECT pg_create_physical_replication_slot('{PHYSICAL_SLOT}', true)")
        address = f"host=127.0.0.1 port={self.primary.port} user=postgres password={self.password} dbname=postgres"
        for name, value in (
            ("primary_conninfo", address),
            ("primary_slot_name", PHYSICAL_SLOT),
            ("hot_standby_feedback", "on"),
            ("sync_replication_slots", "on"),
        ):
            self.run(f"ALTER SYSTEM SET {name} = '{value}'")
        self.run("SELECT pg_reload_conf()")
        wait_for(lambda: Replica.run(self.primary, IS_FED))

    def pause(self):
        """Replay nothing more until `resume`."""
        self.run("SELECT pg_wal_replay_pause()")
        wait_for(lambda: self.run("SELECT pg_get_wal_replay_pause_state()") == [("paused",)])

    def resume(self):
        """Replay again."""
        self.run("SELECT pg_wal_replay_resume()")
