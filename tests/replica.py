"""A streaming replica of one of the demo's PostgreSQL servers."""

import os
import subprocess
from contextlib import closing

import psycopg2

from demo.machine import free_port, postgres_program
from demo.servers import LEGACY_OPTIONS, PostgresServer
from tests.world import wait_for


class Replica(PostgresServer):
    """Made from a base backup of `primary`, whose log it follows."""

    def __init__(self, home, primary):
        super().__init__(home, "replica", free_port(), LEGACY_OPTIONS)
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
        """A statement of the superuser's."""
        with closing(psycopg2.connect(self.url("postgres"))) as connection:
            connection.autocommit = True
            cursor = connection.cursor()
            cursor.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def pause(self):
        """Replay nothing more until `resume`."""
        self.run("SELECT pg_wal_replay_pause()")
        wait_for(lambda: self.run("SELECT pg_get_wal_replay_pause_state()") == [("paused",)])

    def resume(self):
        """Replay again."""
        self.run("SELECT pg_wal_replay_resume()")
