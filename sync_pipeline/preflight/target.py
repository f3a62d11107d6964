"""The new side's database: do we reach it, and may our role stage batches and make the ledger?"""

from __future__ import annotations

from collections.abc import Iterator

from sync_pipeline.db.sql import quote
from sync_pipeline.model.notices import Notice
from sync_pipeline.sinks.table.preflight import ABOUT, ROLE, check_schema
from sync_pipeline.stores.stores import Stores

_LEDGER = "sync"


def check_target(stores: Stores) -> Iterator[Notice]:
    """Role and the ledger's schema. Changes nothing. Raises UnreachableError."""
    with stores.target() as cursor:
        cursor.execute(ROLE)
        role, database, may_create, may_stage, replica = cursor.fetchone()
        yield Notice("ok", ABOUT, f"reached as {role}")
        if replica:
            yield Notice("error", ABOUT, "is a replica and takes no writes", "point SYNC_TARGET_DB at the primary")
        if not may_stage:
            yield Notice(
                "error",
                ABOUT,
                f"{role} may not make temporary tables, in which batches are staged",
                f"GRANT TEMPORARY ON DATABASE {quote(database)} TO {role};",
            )
            return
        yield check_schema(cursor, role, database, _LEDGER, may_create)
