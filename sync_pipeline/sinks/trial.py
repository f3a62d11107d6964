"""Rows tried at a table in a transaction that is rolled back: which it refuses, and how the others can be written.

Rows may depend on each other. Two rows that exchange the values of a unique column fail in any order, and pass when
both former rows are deleted first. A row whose value another one is about to release passes after that one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import psycopg2
import pyarrow as pa

from sync_pipeline import sqlstate
from sync_pipeline.sql import Cursor

# violations that other rows of the batch may cause, or end: of references, unique and exclusion constraints; triggers
MUTUAL = frozenset({"23503", "23505", "23P01", "P0001", "P0002"})


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
        """A row may have failed only because another one came after it."""
        while early := [(n, error) for n, error in self.refused if error.pgcode in MUTUAL]:
            passed = {n for n, _ in early if self._tried([n]) is None}
            if not passed:
                return
            self.steps += [Step([n]) for n, _ in early if n in passed]
            self.refused = [row for row in self.refused if row[0] not in passed]

    def _retry_together(self) -> None:
        """Rows may pass at once, or in the place of their former ones, where none passes alone."""
        left = [n for n, error in self.refused if error.pgcode in MUTUAL]
        if len(left) > 1 and not self._accept(left):
            while len(left) > 1 and self.delete and not self._accept(left, displace=True):
                fewer = self._passing_displaced(left, self.delete)
                left = fewer if len(fewer) < len(left) else []

    def _accept(self, numbers: list[int], *, displace: bool = False) -> bool:
        """Whether rows pass in one statement; then they are refused no longer."""
        if self._tried(numbers, displace=displace) is not None:
            return False
        self.steps.append(Step(numbers, displace))
        self.refused = [row for row in self.refused if row[0] not in numbers]
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
