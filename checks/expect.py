"""What can be expected of rows, a line each. Plain declarations: nothing here opens a database, and Great
Expectations is not imported; `checks.validation` makes its expectations of these.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from sync_pipeline.db.sql import quote
from sync_pipeline.errors import DeclarationError


class Severity(enum.StrEnum):
    """What a broken expectation means: an adapter or a reader breaks, or somebody should look some day."""

    ERROR = "error"
    WARNING = "warning"


ERROR, WARNING = Severity.ERROR, Severity.WARNING


@dataclass(frozen=True)
class Rows:
    """The rows that are looked at: any SELECT, and the columns by which one is told from another."""

    sql: str
    key: tuple[str, ...]

    def unexpected(self, condition: str, *columns: str) -> str:
        """A query for keys and columns of the rows of which a condition is true; they are called `t` in it."""
        shown = ", ".join(f"t.{quote(name)}" for name in dict.fromkeys((*self.key, *columns)))
        return f"WITH t AS ({self.sql}) SELECT {shown} FROM t WHERE {condition}"


@dataclass(frozen=True)
class Call:
    """An expectation as Great Expectations knows it: the name of its class, and arguments."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True)
class Query:
    """An expectation as a query for what is unexpected."""

    sql: str


@dataclass(frozen=True, kw_only=True)
class Expectation(ABC):
    """Something that should hold for rows, or for at least `mostly` of them (0 to 1).

    Broken, it is an error; a warning where `mostly` allows some rows, or where `severity` says so.
    """

    of_rows: ClassVar[bool] = True  # whether each row meets it or not; else it is about the column itself

    mostly: float = 1.0
    severity: Severity | None = None

    def __post_init__(self) -> None:
        if not 0 < self.mostly <= 1:
            raise DeclarationError(f"{self.statement}: mostly is a share above 0 and at most 1, not {self.mostly}")

    @property
    @abstractmethod
    def statement(self) -> str:
        """What should hold, in plain words."""

    @property
    def about(self) -> str:
        """The columns it is about, for a report."""
        return str(getattr(self, "column", ""))

    @property
    def words(self) -> str:
        """The statement, and for how many rows."""
        return (
            self.statement if self.mostly == 1 else f"{self.statement}, in at least {100 * self.mostly:.4g} % of rows"
        )

    @property
    def weight(self) -> Severity:
        """What it means when it is broken."""
        return self.severity or (ERROR if self.mostly == 1 else WARNING)

    @abstractmethod
    def call(self, rows: Rows) -> Call | Query:
        """The same for Great Expectations."""


@dataclass(frozen=True)
class NotNull(Expectation):
    """A column holds a value."""

    column: str

    @property
    def statement(self) -> str:
        return f"{self.column} is not null"

    def call(self, rows: Rows) -> Call:
        return Call("ExpectColumnValuesToNotBeNull", {"column": self.column, "mostly": self.mostly})


@dataclass(frozen=True)
class OneOf(Expectation):
    """A column holds one of these values, or NULL."""

    column: str
    values: tuple[object, ...]

    @property
    def statement(self) -> str:
        return f"{self.column} is one of {', '.join(map(str, self.values))}"

    def call(self, rows: Rows) -> Call:
        chosen = {"column": self.column, "value_set": list(self.values), "mostly": self.mostly}
        return Call("ExpectColumnValuesToBeInSet", chosen)


@dataclass(frozen=True)
class Between(Expectation):
    """A column lies in a range, both ends included, or is NULL. An end left out is open."""

    column: str
    at_least: Any = None
    at_most: Any = None

    @property
    def statement(self) -> str:
        if self.at_least is None:
            return f"{self.column} is at most {self.at_most}"
        if self.at_most is None:
            return f"{self.column} is at least {self.at_least}"
        return f"{self.column} is between {self.at_least} and {self.at_most}"

    def call(self, rows: Rows) -> Call:
        ends = {"min_value": self.at_least, "max_value": self.at_most}
        return Call("ExpectColumnValuesToBeBetween", {"column": self.column, **ends, "mostly": self.mostly})


@dataclass(frozen=True)
class Matches(Expectation):
    """A text column matches a regular expression of PostgreSQL, or is NULL."""

    column: str
    regex: str

    @property
    def statement(self) -> str:
        return f"{self.column} matches {self.regex}"

    def call(self, rows: Rows) -> Call:
        return Call(
            "ExpectColumnValuesToMatchRegex", {"column": self.column, "regex": self.regex, "mostly": self.mostly}
        )


@dataclass(frozen=True)
class Unique(Expectation):
    """No two rows hold the same values in these columns."""

    columns: tuple[str, ...]

    @property
    def statement(self) -> str:
        return f"{self.about} is unique" if len(self.columns) == 1 else f"{self.about} are unique together"

    @property
    def about(self) -> str:
        return ", ".join(self.columns)

    def call(self, rows: Rows) -> Call | Query:
        if len(self.columns) == 1:
            return Call("ExpectColumnValuesToBeUnique", {"column": self.columns[0], "mostly": self.mostly})
        named = ", ".join(map(quote, self.columns))
        twice = f"SELECT {named} FROM ({rows.sql}) d GROUP BY {named} HAVING count(*) > 1"
        return Query(rows.unexpected(f"({named}) IN ({twice})", *self.columns))


@dataclass(frozen=True)
class HasType(Expectation):
    """A column is of a PostgreSQL type. It is the server that says so, with no row there as well."""

    of_rows = False

    column: str
    type: str

    @property
    def statement(self) -> str:
        return f"{self.column} is of type {self.type}"

    def call(self, rows: Rows) -> Query:
        # pg_typeof of a query without rows: NULL, but of the column's type
        found = f"SELECT pg_typeof((SELECT {quote(self.column)} FROM ({rows.sql}) t LIMIT 0)) AS found"
        wanted = self.type.replace("'", "''")
        return Query(f"SELECT found::text FROM ({found}) f WHERE found <> '{wanted}'::regtype")


@dataclass(frozen=True)
class RefersTo(Expectation):
    """A column holds a value that a column of another table of the same database holds too, or NULL."""

    column: str
    table: str
    key: str = "id"

    @property
    def statement(self) -> str:
        return f"{self.column} refers to a row of {self.table}"

    def call(self, rows: Rows) -> Query:
        value, table = quote(self.column), ".".join(map(quote, self.table.split(".")))
        there = f"SELECT FROM {table} r WHERE r.{quote(self.key)} = t.{value}"
        dangling = f"t.{value} IS NOT NULL AND NOT EXISTS ({there})"
        return Query(rows.unexpected(dangling, self.column))


@dataclass(frozen=True)
class Holds(Expectation):
    """A condition in SQL over the columns of a row, which is called `t`; where it is NULL, it holds."""

    message: str
    condition: str
    show: tuple[str, ...] = ()  # columns for the samples, beside the key

    @property
    def statement(self) -> str:
        return self.message

    @property
    def about(self) -> str:
        return ", ".join(self.show)

    def call(self, rows: Rows) -> Query:
        return Query(rows.unexpected(f"NOT ({self.condition})", *self.show))


@dataclass(frozen=True)
class Known(Expectation):
    """Any expectation that Great Expectations knows, by the name of its class, with its own arguments."""

    message: str
    name: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def statement(self) -> str:
        return self.message

    @property
    def about(self) -> str:
        return str(self.arguments.get("column", ""))

    def call(self, rows: Rows) -> Call:
        return Call(self.name, self.arguments)
