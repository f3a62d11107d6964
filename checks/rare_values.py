"""Shows values as the server writes them, because Python or JSON would change or refuse many of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2.extensions as driver

# Great Expectations computes with these: boolean, integers and oid, real, double precision, numeric, and dates.
_COMPUTED = frozenset({16, 20, 21, 23, 26, 700, 701, 1700, 1082, 1114, 1184})
_NUMBERS = (700, 701, 1700)
_DATES = (
    ((1082,), driver.PYDATE),
    ((1114,), driver.PYDATETIME),
    ((1184,), driver.PYDATETIMETZ),
)


def show_as_written(connection: Any) -> None:
    """Have a connection give numbers that show all their digits, and every value without an exact form as text."""
    # The driver has Python types for the rest of its list, such as dicts for jsonb. It gives other types as texts.
    texts = tuple(oid for oid in driver.string_types if oid not in _COMPUTED)
    casters: list[tuple[tuple[int, ...], Any]] = [(texts, _text), (_NUMBERS, _number)]
    casters += [(oids, _within_years(usual)) for oids, usual in _DATES]
    for oids, cast in casters:
        driver.register_type(driver.new_type(oids, "AS_WRITTEN", cast), connection)


class WrittenNumber(float):
    """A number to compute with, which shows as the server writes it: a float has too few digits for a numeric key."""

    def __new__(cls, written: str) -> WrittenNumber:
        """Keep the server's text beside the float."""
        number = super().__new__(cls, written)
        number._written = str(written)
        return number

    _written: str

    def __str__(self) -> str:
        """The server's text."""
        return self._written


def _text(value: str | None, _: Any) -> str | None:
    return value


def _number(value: str | None, _: Any) -> WrittenNumber | str | None:
    return value if value in {None, "NaN", "Infinity", "-Infinity"} else WrittenNumber(value)


def _within_years(usual: Any) -> Callable[[str | None, Any], Any]:
    def cast(value: str | None, cursor: Any) -> Any:
        if value is None or value.endswith(("infinity", "BC")):
            return value
        try:
            return usual(value, cursor)
        except (ValueError, OverflowError):  # a year that Python has not
            return value

    return cast
