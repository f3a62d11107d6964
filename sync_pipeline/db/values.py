"""Values that adapters return, one at a time, as PostgreSQL's COPY or a document takes them.

Whole columns of usual types never come here (`batch/fitting.py`). A value that has no exact form for the type of its
column raises UnfitError, which says what to return instead, and its row alone is set aside.
"""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from enum import Enum
from functools import lru_cache
from typing import Any
from uuid import UUID

import numpy as np
import pandas as pd
import psycopg2.extras
import pyarrow as pa
import pyarrow.compute as pc

_ADDRESSES = (
    ipaddress.IPv4Address,
    ipaddress.IPv6Address,
    ipaddress.IPv4Network,
    ipaddress.IPv6Network,
    ipaddress.IPv4Interface,
    ipaddress.IPv6Interface,
)
_BYTES = (bytes, bytearray, memoryview)
_LISTS = (list, tuple, np.ndarray, pd.Series, pd.Index, pd.api.extensions.ExtensionArray)
# a float counts no further without leaving out whole numbers
EXACT_FLOATS = 2**53
# a float this far from zero is no value of any integer type
INTEGER_LIMIT = 2**63
_DAY = 86_400_000_000
_MODIFIER = re.compile(r"\([^)]*\)")
_ARRAY = re.compile(r"(\s*\[\d*\])+$|\s+array(\s*\[\d+\])?$")
_JSON = {"json", "jsonb"}
_TEXTS = {"", "text", "character varying", "varchar", "character", "char", "bpchar", "citext", "name", "xml"}
INTEGERS = {"smallint", "int2", "integer", "int", "int4", "bigint", "int8"}
_SHOWN = 60


class MisfitError(Exception):
    """A value has no exact form for its column's type."""


@lru_cache(maxsize=1024)
def type_of(definition: str) -> tuple[str, bool]:
    """Split a declared type into its element type, in lower case without length, and whether it is an array."""
    kind = " ".join(_MODIFIER.sub("", definition.lower()).split())
    base = _ARRAY.sub("", kind)
    return base, base != kind


def is_missing(value: Any) -> bool:
    """Whether a value stands for NULL: None, NA, NaT, and a float that is no number, as pandas has it."""
    if value is None or value is pd.NA or value is pd.NaT:
        return True
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    return isinstance(value, (np.datetime64, np.timedelta64)) and bool(np.isnat(value))


def copy_text(value: Any, kind: str, *, is_array: bool = False) -> str | None:
    """Give a value as the text that PostgreSQL reads for a type (as `type_of` gives it). Raises UnfitError."""
    if is_missing(value):
        return None
    value = _plain(value)
    if kind in _JSON and not is_array:
        # a text is JSON already
        return value if isinstance(value, str) else json_text(value)
    if _is_list(value):
        if not is_array and kind not in _TEXTS:
            raise MisfitError(f"a list has no form for type {kind}: return the text that PostgreSQL reads for the type")
        return _array(value, kind)
    if isinstance(value, Mapping):
        if is_array or kind not in _TEXTS:
            raise MisfitError(f"a dict has no form for type {kind}: declare jsonb, or return the type's own text")
        return json_text(value)
    return _scalar(value, kind)


def json_text(value: Any) -> str:
    """Give a value as JSON, exactly. Raises UnfitError for what JSON has no form for."""
    if is_missing(value) and not isinstance(value, (float, np.floating)):
        return "null"
    value = _plain(value)
    for types, write in _JSON_WRITERS:
        if isinstance(value, types):
            return write(value)
    return json.dumps(_scalar(value, ""))


def document_text(value: Any, kind: str) -> str:
    """Give a value as JSON for a document: what is no JSON by itself, as the text that the table takes."""
    if is_missing(value):
        return "null"
    if isinstance(_plain(value), (*_BYTES, psycopg2.extras.Range, pd.Interval)):
        return json.dumps(copy_text(value, kind))
    return json_text(value)


def duration_text(value: dt.timedelta) -> str:
    """Give a duration as an interval; a day stays a day of whatever length. Raises UnfitError for nanoseconds."""
    if isinstance(value, pd.Timedelta) and value.nanoseconds:
        raise MisfitError("an interval has no nanoseconds: round the duration to microseconds")
    microseconds = (value.days * 86_400 + value.seconds) * 1_000_000 + value.microseconds
    sign, (days, rest) = "-" if microseconds < 0 else "", divmod(abs(microseconds), _DAY)
    minutes, rest = divmod(rest, 60_000_000)
    time = f"{minutes // 60:02}:{minutes % 60:02}:{rest // 1_000_000:02}.{rest % 1_000_000:06}"
    return f"{sign}{days} days {sign}{time}" if days else f"{sign}{time}"


def _is_list(value: Any) -> bool:
    return isinstance(value, _LISTS) and not isinstance(value, pa.MonthDayNano)


def _plain(value: Any) -> Any:
    """Without wrappers of enum and numpy."""
    if isinstance(value, Enum):
        return _plain(value.value)
    if isinstance(value, np.datetime64):
        return pd.Timestamp(value)
    if isinstance(value, np.timedelta64):
        return pd.Timedelta(value)
    if isinstance(value, np.floating) and not isinstance(value, float):
        return Decimal(str(value)) if np.isfinite(value) else float(value)
    if isinstance(value, np.void):
        raise MisfitError("a numpy record has no form here: return a dict or a list")
    return value.item() if isinstance(value, np.generic) else value


def _scalar(value: Any, kind: str) -> str:
    for types, write in _WRITERS:
        if isinstance(value, types):
            return write(value, kind)
    raise MisfitError("it has no form for PostgreSQL: return a text, a number, a date, bytes, a list or a dict")


def _number(value: float, kind: str) -> str:
    if kind not in INTEGERS:
        return _float(value)
    if not value.is_integer() or abs(value) >= INTEGER_LIMIT:
        raise MisfitError(f"the float {value} is no value of type {kind}")
    return str(int(value))


def _octets(value: Any, kind: str) -> str:
    if kind != "bytea":
        raise MisfitError(f"bytes have no form for type {kind}: declare bytea, or decode them")
    return "\\x" + bytes(value).hex()


def _duration(value: dt.timedelta, kind: str) -> str:
    if kind != "interval" and kind not in _TEXTS:
        raise MisfitError(f"a duration has no form for type {kind}: declare interval, or return a number")
    return duration_text(value)


def _months(value: Any, _: str) -> str:
    if value.nanoseconds % 1000:
        raise MisfitError("an interval has no nanoseconds: round the duration to microseconds")
    return f"{value.months} mons {value.days} days {value.nanoseconds // 1000} microseconds"


def _range(value: Any, kind: str) -> str:
    if not kind.endswith("range") and kind not in _TEXTS:
        raise MisfitError(f"a range has no form for type {kind}: declare a range type")
    if isinstance(value, psycopg2.extras.Range):
        if value.isempty:
            return "empty"
        opens, closes = "[" if value.lower_inc else "(", "]" if value.upper_inc else ")"
        ends = value.lower, value.upper
    else:
        opens, closes = "[" if value.closed_left else "(", "]" if value.closed_right else ")"
        ends = value.left, value.right
    texts = ["" if is_missing(end) else _quoted(_scalar(_plain(end), "")) for end in ends]
    return f"{opens}{texts[0]},{texts[1]}{closes}"


def _array(values: Any, kind: str) -> str:
    """An array literal; inner lists are further dimensions, but for JSON, where each element is a value."""
    parts = []
    for value in values:
        if kind not in _JSON and _is_list(value):
            parts.append(_array(value, kind))
            continue
        text = copy_text(value, kind)
        parts.append("NULL" if text is None else _quoted(text))
    return "{" + ",".join(parts) + "}"


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _float(value: float) -> str:
    """As PostgreSQL writes it; a whole number looks like one, whether its column holds a NULL or not."""
    if value.is_integer() and abs(value) < EXACT_FLOATS and (value or math.copysign(1, value) > 0):
        return str(int(value))
    text: str = pc.cast(pa.array([value], pa.float64()), pa.string())[0].as_py()
    return text


def _instant(value: dt.datetime) -> str:
    """As Arrow writes a column of them; nanoseconds are PostgreSQL's to round."""
    text = value.replace(tzinfo=None).isoformat(" ", "microseconds")
    offset = value.utcoffset()
    if offset is None:
        return text
    if offset.seconds % 60:  # local mean time, which Arrow does not write
        return _instant(value.astimezone(dt.UTC))
    return f"{text}{value:%z}" if offset else f"{text}Z"


def _json_number(value: float | Decimal) -> str:
    if not math.isfinite(value):
        raise MisfitError(f"JSON has no form for {value}: return None or a text")
    return str(value) if isinstance(value, Decimal) else _float(value)


def _json_object(value: Mapping[Any, Any]) -> str:
    return "{" + ", ".join(f"{_name(name)}: {json_text(each)}" for name, each in value.items()) + "}"


def _json_octets(_: Any) -> str:
    raise MisfitError("JSON has no form for bytes: return a text, such as base64")


def _encodable(text: str) -> str:
    if "\0" in text:
        raise MisfitError("a text with a zero byte has no form in PostgreSQL: leave it out, or declare bytea")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise MisfitError(f"a text that is no Unicode has no form in PostgreSQL: {error.reason}") from error
    return text


def _name(name: Any) -> str:
    if not isinstance(name, str):
        raise MisfitError(f"a dict whose keys are not texts ({type(name).__name__}) has no form in JSON")
    return json.dumps(_encodable(name), ensure_ascii=False)


def shown(value: Any) -> str:
    """A value for a message."""
    text = repr(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "…"


# by type, the first that fits: a bool is an int, and a datetime is a date
_WRITERS: tuple[tuple[Any, Callable[[Any, str], str]], ...] = (
    (str, lambda value, _: _encodable(value)),
    (bool, lambda value, _: "true" if value else "false"),
    ((int, UUID, Decimal, *_ADDRESSES), lambda value, _: str(value)),
    (float, _number),
    (dt.datetime, lambda value, _: _instant(value)),
    ((dt.date, dt.time), lambda value, _: value.isoformat()),
    (_BYTES, _octets),
    (dt.timedelta, _duration),
    ((pd.Interval, psycopg2.extras.Range), _range),
    (pa.MonthDayNano, _months),
)
_JSON_WRITERS: tuple[tuple[Any, Callable[[Any], str]], ...] = (
    (bool, lambda value: "true" if value else "false"),
    (str, lambda value: json.dumps(_encodable(value), ensure_ascii=False)),
    (int, str),
    ((float, Decimal), _json_number),
    (Mapping, _json_object),
    (pa.MonthDayNano, lambda value: json.dumps(_months(value, ""))),
    (_LISTS, lambda value: "[" + ", ".join(map(json_text, value)) + "]"),
    (dt.datetime, lambda value: json.dumps(_instant(value).replace(" ", "T", 1))),
    (_BYTES, _json_octets),
)
