"""Documents: the expected ones fetched by id (realtime), the others found by walking the whole index."""

from __future__ import annotations

import json
from typing import Any

import pyarrow as pa

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.model.findings import Difference, Finding, FindingKind
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.fields import Fields
from sync_pipeline.sinks.search.declaration import IndexDeclaration
from sync_pipeline.sinks.search.requests import look_up
from sync_pipeline.sinks.search.walk import all_ids

_MGET = 1_000
_SHOWN = 80


def compare_documents(
    context: SinkContext, index: IndexDeclaration, expected: Adapted, asked: pa.Table
) -> list[Finding]:
    """Mismatches of the documents of expected rows, and of all `asked` keys, which may want none."""
    public = expected.held_by(context.bits[index.id])
    texts = context.key.texts(public.legacy).to_pylist()
    digests = dict(zip(texts, public.legacy.column(DIGEST).to_pylist(), strict=True))
    # as the client reads those that are there: whole numbers of any length stay exact
    documents = dict(zip(texts, map(json.loads, index.documents(public.table).to_pylist()), strict=True))
    fields = Fields(context)
    ids = sorted({*texts, *context.key.texts(asked).to_pylist()})
    found: list[Finding] = []
    for first in range(0, len(ids), _MGET):
        part = ids[first : first + _MGET]
        ledger = _ledger(context, part)
        for doc in look_up(context.stores.search, index.alias, part):
            wanted, there = documents.get(doc["_id"]), doc.get("_source") if doc.get("found") else None
            differing = fields.differing(wanted, there) if wanted is not None and there is not None else []
            kind = _kind(doc, wanted, differing, digests.get(doc["_id"]), *ledger.get(doc["_id"], (None, 0, 0)))
            if kind:
                differs = tuple(Difference(name, _short(wanted, name), _short(there, name)) for name in differing)
                found.append(Finding(index.id, kind, doc["_id"], differs=differs))
    return found


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


def _kind(
    doc: dict[str, Any],
    wanted: dict[str, Any] | None,
    differing: list[str],
    digest: int | None,
    kept: int | None,
    written: int,
    basis_ok: int,
) -> FindingKind | None:
    if not doc.get("found"):
        return FindingKind.MISSING if wanted is not None else None
    if wanted is None:
        return FindingKind.EXTRA
    if not differing:
        return None
    return FindingKind.STALE if doc["_version"] < written or kept != digest or not basis_ok else FindingKind.CORRUPT


def _short(document: dict[str, Any] | None, name: str) -> str:
    return json.dumps(document[name], ensure_ascii=False)[:_SHOWN] if document and name in document else "absent"


def _ledger(context: SinkContext, texts: list[str]) -> dict[str, tuple[int | None, int, int]]:
    with context.stores.target() as cursor:
        prior = context.ledger.prior(cursor, context.key.parse(texts))
    basis = [int(b == context.ledger.basis) for b in prior.column("basis").to_pylist()]
    values = zip(prior.column(DIGEST).to_pylist(), prior.column("written").to_pylist(), basis, strict=True)
    return dict(zip(context.key.texts(prior).to_pylist(), values, strict=True))
