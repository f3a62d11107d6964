"""Documents: the expected ones fetched by id (realtime), the others found by walking the whole index."""

from __future__ import annotations

import pyarrow as pa

from sync_pipeline.model.findings import Finding, FindingKind
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.json_compare import Held, JsonComparison
from sync_pipeline.sinks.search.declaration import IndexDeclaration
from sync_pipeline.sinks.search.requests import look_up
from sync_pipeline.sinks.search.walk import all_ids


def compare_documents(
    context: SinkContext, index: IndexDeclaration, expected: Adapted, asked: pa.Table
) -> list[Finding]:
    """Mismatches of the documents of expected rows, and of all `asked` keys, which may want none."""

    def read(ids: list[str]) -> dict[str, Held]:
        found = look_up(context.stores.search, index.alias, ids)
        return {doc["_id"]: Held(doc["_version"], doc["_source"]) for doc in found if doc.get("found")}

    return JsonComparison(context, index.id, index.documents, read).compare(expected, asked)


def extra_documents(context: SinkContext, index: IndexDeclaration) -> list[Finding]:
    """Documents whose key the ledger does not hold as wanting one. Refreshes once, then walks the index."""
    found: list[Finding] = []
    for ids in all_ids(context.stores.search, index.alias):
        known, bad = context.key.parse_known(ids)
        with context.stores.target() as cursor:
            cursor.execute(
                f"SELECT {context.key.text_expression('l')} FROM {context.ledger.table} l"
                f" WHERE {context.key.is_in(cursor, 'l', known)} AND l.held & {context.bits[index.id]} <> 0"
            )
            held = {text for (text,) in cursor.fetchall()}
        found += [Finding(index.id, FindingKind.EXTRA, text) for text in ids if text in bad or text not in held]
    return found
