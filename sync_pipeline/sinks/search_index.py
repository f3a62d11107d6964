"""The search sink: documents of an entity behind an Elasticsearch alias."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class SearchIndex:
    """Documents behind `alias`: `fields` maps each field (a column of the adapted frame) to its mapping.

    `json_fields` are text columns that hold JSON already. `where` names a boolean column of the adapted
    frame: only rows that have it true have a document.
    """

    alias: str
    fields: Mapping[str, Mapping[str, Any]]
    json_fields: frozenset[str] = frozenset()
    where: str | None = None
