"""Documents: the expected ones fetched by id (realtime), the others found by walking the whole index."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.adapt import Adapted
from sync_pipeline.db.columns import DIGEST
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.model.findings import FindingKind
from sync_pipeline.reconcile.fields import Fields
from sync_pipeline.reconcile.verdict import Difference, Finding
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.search.requests import look_up, reaching

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

_MGET = 1_000
_WALK = 5_000
_SHOWN = 80


def compare_documents(context: EntityContext, index: SearchIndex, expected: Adapted, asked: pa.Table) -> list[Finding]:
    """Mismatches of the documents of expected rows, and of all `asked` keys, which may want none."""
    wanted = pc.not_equal(pc.bit_wise_and(expected.held, pa.scalar(2, pa.int16())), 0)
    public = expected.take(pc.indices_nonzero(wanted))
    texts = context.origin.key.texts(public.legacy).to_pylist()
    digests = dict(zip(texts, public.legacy.column(DIGEST).to_pylist(), strict=True))
    # as the client reads those that are there: whole numbers of any length stay exact
    documents = dict(zip(texts, map(json.loads, index.documents(public.table).to_pylist()), strict=True))
    fields = Fields(context)
    ids = sorted({*texts, *context.origin.key.texts(asked).to_pylist()})
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
                found.append(Finding("search", kind, doc["_id"], differs=differs))
    return found


def extra_documents(context: EntityContext, index: SearchIndex) -> list[Finding]:
    """Documents whose key the ledger does not hold as wanting one. Refreshes once, then walks the index."""
    found: list[Finding] = []
    for ids in all_ids(context.stores.search, index.alias):
        known, bad = parsed(context, ids)
        with context.stores.target() as cursor:
            cursor.execute(
                f"SELECT {context.origin.key.text_expression('l')} FROM {context.ledger.table} l"
                f" WHERE {context.origin.key.is_in(cursor, 'l', known)} AND l.held & 2 <> 0"
            )
            held = {text for (text,) in cursor.fetchall()}
        found += [Finding("search", FindingKind.EXTRA, text) for text in ids if text in bad or text not in held]
    return found


def parsed(context: EntityContext, ids: list[str]) -> tuple[pa.Table, set[str]]:
    """Ids as keys, and those that are none."""
    try:
        return context.origin.key.parse(ids), set()
    except SettingError:
        pass
    good: list[str] = []
    for text in ids:
        try:
            context.origin.key.parse([text])
            good.append(text)
        except SettingError:
            continue
    return context.origin.key.parse(good), set(ids) - set(good)


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


def _ledger(context: EntityContext, texts: list[str]) -> dict[str, tuple[int | None, int, int]]:
    with context.stores.target() as cursor:
        prior = context.ledger.prior(cursor, context.origin.key.parse(texts))
    basis = [int(b == context.ledger.basis) for b in prior.column("basis").to_pylist()]
    values = zip(prior.column(DIGEST).to_pylist(), prior.column("written").to_pylist(), basis, strict=True)
    return dict(zip(context.origin.key.texts(prior).to_pylist(), values, strict=True))


def all_ids(client: Elasticsearch, index: str) -> Iterator[list[str]]:
    """Ids of all documents of an index or alias, page by page. Refreshes once.

    Raises UnreachableError where it could not be walked to its end: the shards that are left would look like all.
    """
    with reaching():
        client.indices.refresh(index=index)
        pit = client.open_point_in_time(index=index, keep_alive="2m")["id"]
    try:
        after: list[Any] | None = None
        while True:
            hits = _hits(client, pit, after)
            if not hits:
                return
            yield [hit["_id"] for hit in hits]
            after = hits[-1]["sort"]
    finally:
        with reaching():
            client.options(ignore_status=404).close_point_in_time(id=pit)


def _hits(client: Elasticsearch, pit: str, after: list[Any] | None) -> list[dict[str, Any]]:
    from elasticsearch import ApiError

    try:
        with reaching():
            answer = client.search(
                pit={"id": pit, "keep_alive": "2m"},
                size=_WALK,
                sort=["_shard_doc"],
                source=False,
                track_total_hits=False,
                search_after=after,
                allow_partial_search_results=False,
            )
    except ApiError as error:
        raise UnreachableError(f"SYNC_SEARCH_URL: the index could not be walked to its end: {error}") from error
    hits: list[dict[str, Any]] = answer["hits"]["hits"]
    return hits
