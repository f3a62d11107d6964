"""One editor: a connection of its own, one committed transaction a ticket."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from random import Random

import psycopg2
from botocore.exceptions import BotoCoreError, ClientError
from psycopg2.extensions import connection as Connection  # noqa: N812

from demo.edit.drafts import Drafts
from demo.edit.newsroom import Newsroom
from demo.edit.operations import (
    GO_AWAY,
    NEED_FILE,
    Desk,
    GoneError,
    change_of_mind,
    create,
    perform,
    rename_author,
)
from demo.edit.roster import Roster
from demo.errors import DemoError

# Out of a hundred transactions.
WEIGHTS = {
    "create": 12,
    "edit": 42,
    "publish": 9,
    "unpublish": 5,
    "retag": 8,
    "replace_file": 3,
    "overwrite_file": 1,
    "soft_delete": 3,
    "hard_delete": 1,
    "view": 15,
    "rename_author": 1,
}
_LATE_KINDS = ("create", "edit", "edit", "publish", "retag", "soft_delete")
_ROLL_BACK_SHARE = 0.04
_SAVEPOINT_SHARE = 0.06
_PATIENCE_SECONDS = 60.0
_LOCK_TIMEOUT = "SET lock_timeout = '10s'"


class Editor:
    """Runs until the pace hands out no more tickets."""

    def __init__(self, room: Newsroom, seed: int) -> None:
        self.room = room
        self.rng = Random(seed)
        self.drafts = Drafts(self.rng)
        self.connection = self._connect()

    def run(self) -> None:
        """One committed transaction a ticket; what fails is tried again with another content."""
        try:
            while (ticket := self.room.pace.next()) is not None:
                self._serve(ticket in self.room.poisoned_tickets)
        finally:
            self.connection.close()

    def _serve(self, poison: bool) -> None:
        limit = time.monotonic() + _PATIENCE_SECONDS
        if self.rng.random() < _ROLL_BACK_SHARE:
            self._roll_back_one()
        while not self._attempt(poison):
            if time.monotonic() > limit:
                raise DemoError(f"No transaction went through for {_PATIENCE_SECONDS:.0f} s: is the legacy server up?")
            if self.connection.closed:
                self._reconnect()

    def _attempt(self, poison: bool) -> bool:
        if poison:
            return self._guarded(self._poison)
        if not self.room.late.full() and self.room.late_turn.mine(self.rng):
            return self._guarded(self._late)
        kind = self.rng.choices(list(self.room.weights), list(self.room.weights.values()))[0]
        return self._guarded(partial(self._now, kind))

    def _guarded(self, transaction: Callable[[], bool]) -> bool:
        try:
            return transaction()
        except GoneError:
            self._undo()
        except (psycopg2.Error, BotoCoreError, ClientError):
            self.room.tally.fail()
            self._undo()
        return False

    def _poison(self) -> bool:
        create(self._desk(self.connection), poison=True)
        self._commit("poison")
        return True

    def _now(self, kind: str) -> bool:
        content_id = self._pick(kind)
        kind = self._kind_for(kind, content_id)
        try:
            touched = self._do(self._desk(self.connection), kind, content_id)
            self._commit(kind)
            self._settle(kind, touched)
        finally:
            self._release(kind, content_id)
        return True

    def _late(self) -> bool:
        """Write now, on a connection of its own, and leave the commit to others."""
        kind = self.rng.choice([kind for kind in _LATE_KINDS if kind in self.room.weights])
        content_id = self.room.contents.pick(self.rng, hold=True) if kind != "create" else None
        kind = self._kind_for(kind, content_id)
        connection = None
        try:
            connection = self._connect()
            touched = self._do(self._desk(connection), kind, content_id)
        except BaseException:
            if connection is not None:
                connection.close()
            self._release(kind, content_id)
            raise
        done = partial(self._after_late, kind, content_id, touched)
        self.room.late.keep(connection, self.rng.uniform(*self.room.late_seconds), done)
        return True

    def _after_late(self, kind: str, content_id: int | None, touched: int | None, committed: bool) -> None:
        if committed:
            self.room.tally.commit(kind, late=True)
            self._settle(kind, touched)
        else:
            self.room.tally.fail()
        self._release(kind, content_id)

    def _do(self, desk: Desk, kind: str, content_id: int | None) -> int | None:
        """The operation, at times inside a savepoint or after a change of mind; returns the content's id."""
        inside = self.rng.random() < _SAVEPOINT_SHARE
        if content_id is not None and self.rng.random() < _SAVEPOINT_SHARE:
            change_of_mind(desk, content_id)
        if inside:
            desk.cursor.execute("SAVEPOINT inside")
        if kind == "rename_author":
            rename_author(desk)
        elif content_id is None:
            content_id = create(desk)
        else:
            perform(desk, kind, content_id)
        if inside:
            desk.cursor.execute("RELEASE SAVEPOINT inside")
        return content_id

    def _roll_back_one(self) -> None:
        """A transaction that is given up; never one that overwrites bytes, which no rollback brings back."""
        content_id = self.room.contents.pick(self.rng)
        if content_id is None:
            return
        kind = self.rng.choice(("edit", "retag", "soft_delete", "hard_delete"))
        try:
            self._guarded(lambda: self._do(self._desk(self.connection), kind, content_id) is not None)
        finally:
            self.room.contents.release(content_id)
        self._undo()
        self.room.tally.roll_back()

    def _commit(self, kind: str) -> None:
        self.connection.commit()
        self.room.tally.commit(kind)

    def _undo(self) -> None:
        if not self.connection.closed:
            try:
                self.connection.rollback()
            except psycopg2.Error:
                self.connection.close()

    def _pick(self, kind: str) -> int | None:
        if kind in {"create", "rename_author"}:
            return None
        return self._roster(kind).pick(self.rng)

    def _kind_for(self, kind: str, content_id: int | None) -> str:
        """Where there is nothing to edit, something is created."""
        return kind if content_id is not None or kind == "rename_author" else "create"

    def _roster(self, kind: str) -> Roster:
        return self.room.with_files if kind in NEED_FILE else self.room.contents

    def _release(self, kind: str, content_id: int | None) -> None:
        if content_id is not None:
            self._roster(kind).release(content_id)

    def _settle(self, kind: str, content_id: int | None) -> None:
        """Keep the rosters in step with what was committed."""
        if kind == "create" and content_id is not None:
            self.room.contents.add(content_id)
        elif kind in GO_AWAY and content_id is not None:
            self.room.contents.remove(content_id)
            self.room.with_files.remove(content_id)

    def _desk(self, connection: Connection) -> Desk:
        room = self.room
        return Desk(connection.cursor(), room.client, room.bucket, room.authors, self.drafts, self.rng)

    def _connect(self) -> Connection:
        connection = psycopg2.connect(self.room.admin_url, connect_timeout=5, application_name="demo-editor")
        with connection.cursor() as cursor:
            cursor.execute(_LOCK_TIMEOUT)
        connection.commit()
        return connection

    def _reconnect(self) -> None:
        try:
            self.connection = self._connect()
        except psycopg2.OperationalError:
            self.room.pace.stop.wait(0.2)
