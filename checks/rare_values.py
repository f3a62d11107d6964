"""Values that Python has no type for, or Great Expectations no JSON: they are shown as the server writes them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import psycopg2.extensions as driver

# bytea, interval, time with time zone, ranges, and arrays of these
_AS_TEXT = (17, 1186, 1266, 3904, 3906, 3908, 3910, 3912, 3926)
_ARRAYS_AS_TEXT = (1001, 1187, 1270, 3905, 3907, 3909, 3911, 3913, 3927, 1021, 1022, 1231, 1182, 1115, 1185)
# real, double precision, numeric
_NUMBERS: tuple[tuple[tuple[int, ...], Any], ...] = (((700, 701), driver.FLOAT), ((1700,), driver.DECIMAL))
_DATES = (
    ((1082,), driver.PYDATE),
    ((1114,), driver.PYDATETIME),
    ((1184,), driver.PYDATETIMETZ),
)


def show_as_written(connection: Any) -> None:
    """Have a connection give values of rare types, and rare values of usual ones, as texts."""
    casters: list[tuple[tuple[int, ...], Any]] = [((*_AS_TEXT, *_ARRAYS_AS_TEXT), _text)]
    casters += [(oids, _finite(usual)) for oids, usual in _NUMBERS]
    casters += [(oids, _within_years(usual)) for oids, usual in _DATES]
    for oids, cast in casters:
        driver.register_type(driver.new_type(oids, "AS_WRITTEN", cast), connection)


def _text(value: str | None, _: Any) -> str | None:
    return value


def _finite(usual: Any) -> Callable[[str | None, Any], Any]:
    def cast(value: str | None, cursor: Any) -> Any:
        return value if value in {"NaN", "Infinity", "-Infinity"} else usual(value, cursor)

    return cast


def _within_years(usual: Any) -> Callable[[str | None, Any], Any]:
    def cast(value: str | None, cursor: Any) -> Any:
        if value is None or value.endswith(("infinity", "BC")):
            return value
        try:
            return usual(value, cursor)
        except (ValueError, OverflowError):  # a year that Python has not
            return value

    return cast
