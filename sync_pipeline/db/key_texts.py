"""Texts of keys: as the log, `due` and ids of documents bear them, and as the server writes them.

They are one but for instants and dates, of which the log keeps a form that depends on no setting, and for numbers
without a declared scale, of which it keeps no trailing zeros.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import text_of

_TEMPORAL = {
    "date": pa.date32(),
    "timestamp with time zone": pa.timestamp("us", "UTC"),
    "timestamp without time zone": pa.timestamp("us"),
}
# what Arrow has no value for
_UNUSUAL = re.compile(
    r"-?infinity|(\d{5,7}-\d\d-\d\d|\d{4,7}-\d\d-\d\d(?=.* BC))( \d\d:\d\d:\d\d(\.\d{1,6})?)?(Z|\+00)?( BC)?"
)
_FLOATS = {"real", "double precision"}
_NOT_FINITE = {"^nan$": "NaN", "^(-?)inf$": r"\1Infinity"}
_BOOLEANS = {"t": "true", "f": "false"}


def log_form(texts: pa.Array, kind: str) -> pa.Array:
    """Give texts as the server writes them in the form that the log keeps."""
    if kind in _TEMPORAL and kind != "date":
        return _rewritten(texts, _TEMPORAL[kind], text_of, _unusual_for_log)
    if kind in _FLOATS:  # as a column of an adapter's has them
        for arrow, server in _NOT_FINITE.items():
            texts = pc.replace_substring_regex(texts, arrow, server)
        return texts
    return _without_zeros(texts) if kind == "numeric" else texts


def server_form(texts: pa.Array, kind: str) -> pa.Array:
    """Give texts of the log in the form that the server writes. Raises ValueError for what is no instant or date."""
    if kind not in _TEMPORAL:
        return texts
    return _rewritten(texts, _TEMPORAL[kind], _as_server, _unusual_of_log)


def readable(text: str, kind: str) -> str:
    """Give a value as the log, COPY or a monolith's own code writes it in one form. Raises ValueError where it is none.

    Values of other types are left to the server.
    """
    if kind == "uuid":
        return str(UUID(text))
    if kind == "boolean":
        return _BOOLEANS.get(text, text)
    if kind in _FLOATS:
        float(text)
    elif kind.startswith("numeric"):
        try:
            Decimal(text)
        except InvalidOperation as error:
            raise ValueError(f"{text!r} is no number") from error
    return text


def _rewritten(
    texts: pa.Array, kind: pa.DataType, usual: Callable[[pa.Array], pa.Array], unusual: Callable[[str], str]
) -> pa.Array:
    try:
        return usual(texts.cast(kind))
    except pa.ArrowInvalid:
        pass
    written = []
    for text in texts.to_pylist():
        try:
            written.append(usual(pa.array([text], pa.string()).cast(kind))[0].as_py())
        except pa.ArrowInvalid:
            if not _UNUSUAL.fullmatch(text):
                raise
            written.append(unusual(text))
    return pa.array(written, pa.string())


def _unusual_for_log(text: str) -> str:
    """Before Christ, or after the year 9999, which Arrow cannot read; or infinite."""
    if text.endswith("infinity"):
        return text
    body, era, _ = text.partition(" BC")
    zoned = body.endswith("+00")
    date, _, time = body.removesuffix("+00").partition(" ")
    seconds, _, fraction = time.partition(".")
    return f"{date} {seconds}.{fraction:0<6}{'Z' if zoned else ''}{era}"


def _unusual_of_log(text: str) -> str:
    if text.endswith("infinity"):
        return text
    body, era, _ = text.partition(" BC")
    zoned = body.endswith(("Z", "+00"))
    seconds, _, fraction = body.removesuffix("Z").removesuffix("+00").partition(".")
    fraction = fraction.rstrip("0")
    return f"{seconds}{'.' if fraction else ''}{fraction}{'+00' if zoned else ''}{era}"


def _as_server(values: pa.Array) -> pa.Array:
    if pa.types.is_date(values.type):
        return text_of(values)
    texts = _without_zeros(values.cast(pa.int64()).cast(pa.timestamp("us")).cast(pa.string()))
    return pc.binary_join_element_wise(texts, "+00", "") if values.type.tz else texts


def _without_zeros(texts: pa.Array) -> pa.Array:
    """Without zeros at a fraction's end."""
    shorter = pc.replace_substring_regex(texts, r"(\.[0-9]*?)0+$", r"\1")
    return pc.replace_substring_regex(shorter, r"\.$", "")
