"""Positions of sources."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass, field
from typing import Any

State = dict[str, Any]


@dataclass(frozen=True)
class SourcePosition:
    """Says where a source stands once all pages that it has given are applied."""

    state: State = field(default_factory=dict)  # opaque outside the source
    through: dt.datetime | None = None  # the monolith's time: all that was committed before it has been reported
    since: dt.datetime | None = None  # start of the monolith's oldest open transaction, where it matters
    holder: str | None = None  # the session that holds that transaction
    blind: str | None = None  # why the source may miss something, so that a sweep is required
    gap_at: dt.datetime | None = None  # what was committed before it may have been missed, once: a sweep is to look
    last: bool = False  # the source is lost, and how far it came is to be noted at once
