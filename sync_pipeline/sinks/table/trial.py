"""Rows tried at a table in a transaction that is rolled back: which it refuses, and how the others can be written.

Rows may depend on each other. Two rows that exchange the values of a unique column fail in any order, and pass when
both former rows are deleted first. A row whose value another one is about to release passes after that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg2
import pyarrow as pa

from sync_pipeline.db import sqlstate
from sync_pipeline.db.sql import Cursor
from sync_pipeline.model.faults import guarded

# violations that other rows of the batch may cause, or end: of references, unique and exclusion constraints; triggers
MUTUAL = frozenset({"23503", "23505", "23P01", "P0001", "P0002"})
# Each round tries each row that is left. A chain of values may need as many rounds as it has rows: what a few of them
# do not settle is parked, and passes later, a part at a time.
_ROUNDS = 6


@dataclass(frozen=True)
class Step:
    """Row numbers that pass in one statement; with `displace` their former rows are deleted before it."""

    rows: list[int]
    displace: bool = False


@dataclass
class Trial:
    """Tries rows in a transaction that its caller has begun, and rolls back.

    `write` writes some rows at once; `delete` deletes their former rows, or is None where that would harm others.
    """

    cursor: Cursor
    rows: pa.Table
    write: Callable[[pa.Table], None]
    delete: Callable[[pa.Table], None] | None = None
    steps: list[Step] = field(default_factory=list)
    refused: list[tuple[int, psycopg2.Error]] = field(default_factory=list)

    def run(self) -> None:
        """Fill `steps` and `refused`. Raises what the table says of no row at all: that is no row's fault."""
        self.write(self.rows.slice(0, 0))
        self._halve(0, self.rows.num_rows)
        if guarded(93):
            self._retry_in_order()
            self._retry_together()

    def _halve(self, first: int, count: int) -> None:
        """Halve until only bad rows are left; good ones stay, so that a clash between two rows shows as well."""
        numbers = list(range(first, first + count))
        error = self._tried(numbers)
        if error is None:
            self.steps.append(Step(numbers))
        elif count == 1:
            self.refused.append((first, error))
        else:
            half = count // 2
            self._halve(first, half)
            self._halve(first + half, count - half)

    def _retry_in_order(self) -> None:
        """A row may have failed only because another one came after it: from both ends in turn, a few times."""
        for turn in range(_ROUNDS):
            early = [(n, error) for n, error in self.refused if error.pgcode in MUTUAL]
            passed = [n for n, _ in early[:: 1 if turn % 2 else -1] if self._tried([n]) is None]
            if not passed:
                return
            self.steps += [Step([n]) for n in passed]
            gone = set(passed)
            self.refused = [row for row in self.refused if row[0] not in gone]

    def _retry_together(self) -> None:
        """Rows may pass at once, or in the place of their former ones, where none passes alone."""
        left = [n for n, error in self.refused if error.pgcode in MUTUAL]
        if len(left) < 2 or self._accept(left) or not self.delete:
            return
        for _ in range(_ROUNDS):
            if len(left) < 2 or self._accept(left, displace=True):
                return
            fewer = self._passing_displaced(left, self.delete)
            if len(fewer) == len(left):
                break
            left = fewer
        self._accept_parts(left)

    def _accept_parts(self, numbers: list[int]) -> None:
        """By halving: rows that exchange values among themselves pass, whatever stands against the others."""
        if len(numbers) > 1 and not self._accept(numbers, displace=True):
            half = len(numbers) // 2
            self._accept_parts(numbers[:half])
            self._accept_parts(numbers[half:])

    def _accept(self, numbers: list[int], *, displace: bool = False) -> bool:
        """Whether rows pass in one statement; then they are refused no longer."""
        if self._tried(numbers, displace=displace) is not None:
            return False
        self.steps.append(Step(numbers, displace))
        accepted = set(numbers)
        self.refused = [row for row in self.refused if row[0] not in accepted]
        return True

    def _passing_displaced(self, numbers: Sequence[int], delete: Callable[[pa.Table], None]) -> list[int]:
        """Those of the rows that pass one by one while none of their former rows is there."""
        self.cursor.execute("SAVEPOINT displaced")
        delete(self.rows.take(pa.array(numbers, pa.int64())))
        passing = [n for n in numbers if self._tried([n]) is None]
        self.cursor.execute("ROLLBACK TO SAVEPOINT displaced")
        return passing

    def _tried(self, numbers: Sequence[int], *, displace: bool = False) -> psycopg2.Error | None:
        """What stands against some rows; they stay where nothing does. Raises what is the store's fault."""
        rows = self.rows.take(pa.array(numbers, pa.int64()))
        self.cursor.execute("SAVEPOINT trial")
        try:
            if displace and self.delete:
                self.delete(rows)
            self.write(rows)
        except psycopg2.Error as error:
            if sqlstate.is_of_store(error):
                raise
            self.cursor.execute("ROLLBACK TO SAVEPOINT trial")
            return error
        self.cursor.execute("RELEASE SAVEPOINT trial")
        return None
