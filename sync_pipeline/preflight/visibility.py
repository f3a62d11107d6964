"""Visibility: has what decides on visible rows changed since a person accepted it?"""

from __future__ import annotations

from collections.abc import Iterator

import psycopg2

from sync_pipeline.entities.visibility import changes_of
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError
from sync_pipeline.model.notices import Notice
from sync_pipeline.stores.stores import Stores


def check_declared_visibility(stores: Stores, entity: Entity) -> Iterator[Notice]:
    """Name each change. Says nothing of a query that fails, which has a notice already. Raises UnreachableError."""
    about, remedy = f"entity {entity.name}", f"sync-pipeline visibility {entity.name} --accept"
    try:
        found = changes_of(entity, stores)
    except (DeclarationError, psycopg2.errors.InsufficientPrivilege):  # the ledger's rights are the new side's notice
        return
    for change in found:
        yield Notice(
            "error", about, f"the monolith may show fewer rows than before: {change}; nothing is swept", remedy
        )
