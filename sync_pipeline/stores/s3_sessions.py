"""Sessions of boto3 whose answers are read quickly: a page of a listing holds a thousand times."""

from __future__ import annotations

import datetime as dt
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from botocore.utils import parse_timestamp

if TYPE_CHECKING:
    import boto3


def s3_session(**options: Any) -> boto3.Session:
    """Make a session of our own, because the shared default one keeps the first keys it ever saw."""
    import boto3
    import botocore.session

    core = botocore.session.get_session()
    core.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=parse_instant)
    return boto3.Session(botocore_session=core, **options)


def parse_instant(value: Any) -> dt.datetime:
    """Read a time as botocore does. Where it is ISO 8601 in UTC, as in listings, this takes a fiftieth of the time."""
    if isinstance(value, str) and value[10:11] == "T" and value.endswith("Z"):
        with suppress(ValueError):
            return dt.datetime.fromisoformat(value)
    return parse_timestamp(value)
