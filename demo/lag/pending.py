"""Edits that are still to show in the new tables; no database in here. Times are seconds since the epoch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from demo.lag.report import Report

_SOFT_DELETE, _HARD_DELETE, _POISON = "soft_delete", "hard_delete", "poison"


@dataclass(frozen=True)
class LoggedEdit:
    """One row of demo.edit_log, with the time of its commit."""

    content_id: int
    kind: str
    version: int
    committed_at: float


@dataclass(frozen=True)
class TargetRow:
    """A row of a new table, with the time of the commit that wrote it."""

    content_id: int
    version: int
    committed_at: float


class Pending:
    """Matches logged edits with rows of the new tables."""

    def __init__(self) -> None:
        self._edits: dict[int, list[LoggedEdit]] = {}
        self._hard_deleted: list[int] = []
        self._left_out: Counter[str] = Counter()
        self._lags: list[float] = []

    def __len__(self) -> int:
        return sum(map(len, self._edits.values()))

    @property
    def ids(self) -> list[int]:
        """Contents to look for."""
        return list(self._edits)

    def log(self, edits: Iterable[LoggedEdit]) -> None:
        """Take in edits that committed since the last time, in any order."""
        for edit in edits:
            if edit.kind == _POISON:
                self._left_out[_POISON] += 1
            elif edit.kind == _HARD_DELETE:
                self._left_out[_HARD_DELETE] += 1
                self._hard_deleted.append(edit.content_id)
            else:
                self._edits.setdefault(edit.content_id, []).append(edit)

    def sample(self, looked_for: Collection[int], rows: Iterable[TargetRow], at: float) -> None:
        """Take in what the new tables hold, at a time, of the contents looked for."""
        found = {row.content_id: row for row in rows}
        for content_id in looked_for:
            row = found.get(content_id)
            if row is None:
                self._gone(content_id, at)
            else:
                self._deliver(content_id, row.version, row.committed_at)
        self._overtake()

    def report(self) -> Report:
        """The figures so far; what is pending counts as undelivered."""
        return Report(
            lags=tuple(self._lags),
            undelivered=len(self),
            hard_deletes=self._left_out[_HARD_DELETE],
            overtaken=self._left_out["overtaken"],
            poison=self._left_out[_POISON],
        )

    def _deliver(self, content_id: int, version: int, at: float) -> None:
        """A row is what every edit up to its version wanted, or something newer."""
        still = []
        for edit in self._edits.pop(content_id, []):
            if edit.version <= version and edit.kind != _SOFT_DELETE:
                self._lags.append(max(0.0, at - edit.committed_at))
            else:
                still.append(edit)
        if still:
            self._edits[content_id] = still

    def _gone(self, content_id: int, at: float) -> None:
        """No row is what a soft delete wanted, and settles the edits before it."""
        edits = self._edits.get(content_id, [])
        if any(edit.kind == _SOFT_DELETE for edit in edits):
            self._lags.extend(max(0.0, at - edit.committed_at) for edit in self._edits.pop(content_id))

    def _overtake(self) -> None:
        """What a hard delete left without a row can no longer arrive."""
        for content_id in self._hard_deleted:
            self._left_out["overtaken"] += len(self._edits.pop(content_id, []))
        self._hard_deleted.clear()
