"""All editors together: who edits what, for how long, and how it went."""

from __future__ import annotations

import threading
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from psycopg2.extensions import cursor as Cursor  # noqa: N812

from demo.databases import connected
from demo.edit.editor import WEIGHTS, Editor
from demo.edit.late import LateCommits, LateTurn
from demo.edit.newsroom import Newsroom
from demo.edit.pace import Pace
from demo.edit.roster import Roster
from demo.edit.tally import Tally
from demo.load.contents import spread

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_ROSTER_ROWS = 100_000
# poisoned rows stay as they are: an edit of one could never arrive
_EDITABLE = """
    SELECT id FROM content
    WHERE deleted_at IS NULL AND coalesce(attrs ->> 'duration', '0') ~ '^[0-9]+$'
    ORDER BY hashint8(id) LIMIT %s"""
_WITH_FILES = f"""
    SELECT id FROM ({_EDITABLE}) editable WHERE EXISTS (SELECT FROM media_files WHERE content_id = editable.id)"""


@dataclass
class Editors:
    """`workers` editors who commit `rate` transactions a second for `seconds`, then finish what is open.

    Some write and commit `late_seconds` (from, to) later: one in a hundred, and at least one every `late_every`.
    `without` names operations they leave out: those of `WEIGHTS`.
    """

    admin_url: str
    client: S3Client
    bucket: str
    rate: float
    seconds: float
    workers: int = 8
    poison: int = 0
    seed: int = 1
    late_seconds: tuple[float, float] = (5.0, 20.0)
    late_every: float = 8.0
    without: Collection[str] = ()
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _late: LateCommits = field(default_factory=LateCommits, init=False)

    def run(self) -> Tally:
        """Edit until the time is up or `halt`; then open transactions are committed."""
        self._late.start()
        try:
            room = self._room()
            self._work([Editor(room, self.seed * 1_000 + number) for number in range(self.workers)])
            room.tally.seconds = room.pace.elapsed
        finally:
            self._late.finish()
        return room.tally

    def halt(self) -> None:
        """End soon: no new transactions, and open ones commit now. May be called from anywhere."""
        self._stop.set()
        self._late.hurry()

    def _work(self, editors: list[Editor]) -> None:
        with ThreadPoolExecutor(self.workers) as pool:
            try:
                for done in as_completed([pool.submit(editor.run) for editor in editors]):
                    done.result()
            except BaseException:
                self.halt()
                raise

    def _room(self) -> Newsroom:
        with connected(self.admin_url) as connection, connection.cursor() as cursor:
            contents = _ids(cursor, _EDITABLE, [_ROSTER_ROWS])
            with_files = _ids(cursor, _WITH_FILES, [_ROSTER_ROWS])
            authors = _ids(cursor, "SELECT id FROM authors LIMIT %s", [_ROSTER_ROWS])
        pace = Pace(self.rate, self.seconds, self._stop)
        return Newsroom(
            admin_url=self.admin_url,
            client=self.client,
            bucket=self.bucket,
            pace=pace,
            tally=Tally(),
            late=self._late,
            late_turn=LateTurn(self.late_every),
            late_seconds=self.late_seconds,
            weights={kind: weight for kind, weight in WEIGHTS.items() if kind not in self.without},
            contents=Roster(contents),
            with_files=Roster(with_files),
            authors=authors,
            poisoned_tickets=frozenset(spread(self.poison, pace.tickets)),
        )


def _ids(cursor: Cursor, query: str, values: list[int]) -> list[int]:
    cursor.execute(query, values)
    return [row[0] for row in cursor.fetchall()]
