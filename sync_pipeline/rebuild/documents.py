"""The comparison before an index is swapped: what the ledger says of documents against what the new index holds, by id.

Versions are read in real time. The ledger is read first, together with what is owed: a document that is owed may still
be on its way, and has to be no older than in the former index; any other must be there as it was written last.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import orjson
import pyarrow as pa

from sync_pipeline.db.sql import copy_out
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.ledger import queue_reads
from sync_pipeline.ledger.rebuilds import Rebuild
from sync_pipeline.model.findings import Finding, FindingKind
from sync_pipeline.queue import due
from sync_pipeline.rebuild.report import COMPARED, ENOUGH, Compared, Report
from sync_pipeline.run.live import work
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.search.requests import has_fit_id, look_up
from sync_pipeline.sinks.search.walk import all_ids

_PAGE = 1_000
_LOOKS = 3
_PAUSE_SECONDS = 0.2
# for documents that are owed
_PATIENCE_SECONDS = 60.0
_STANDING = [("written", pa.int64()), ("held", pa.bool_()), ("owed", pa.bool_())]


@dataclass(frozen=True)
class Doubt:
    """A document of the new index that is not as it has to be: missing, stale, extra or corrupt."""

    key: str
    kind: FindingKind
    owed: bool = False


def compare(context: EntityContext, index: SearchIndex, rebuild: Rebuild, report: Report) -> Compared:
    """Compare all documents, those that nobody wants as well; not on and on where many differ.

    Raises UnreachableError.
    """
    compared = Compared()
    for texts in _wanted(context, index):
        _compare_wanted(context, index, rebuild, texts, compared)
        compared.compared += len(texts)
        report(COMPARED, len(texts))
        if len(compared.findings) >= ENOUGH:
            return compared
    for ids in all_ids(context.stores.search, rebuild.name):
        _, foreign = context.origin.key.parse_known(ids)
        unwanted = _unwanted(context, index, [text for text in ids if text not in foreign])
        left = _settled(context, index, rebuild, doubts(context, index, rebuild, unwanted))
        compared.findings += [Finding(index.id, doubt.kind, doubt.key) for doubt in left]
        compared.findings += [Finding(index.id, FindingKind.EXTRA, text) for text in sorted(foreign)]
        if len(compared.findings) >= ENOUGH:
            return compared
    return compared


def _compare_wanted(
    context: EntityContext, index: SearchIndex, rebuild: Rebuild, texts: list[str], compared: Compared
) -> None:
    """Documents that there have to be; those that the fill did not make are carried over."""
    found = doubts(context, index, rebuild, texts)
    if not found:
        return
    lacking = [doubt.key for doubt in found if doubt.kind in {FindingKind.MISSING, FindingKind.STALE}]
    taken, refused = _carry_over(context, index, rebuild, lacking)
    compared.carried_over += taken
    left = _settled(context, index, rebuild, found)
    compared.findings += [Finding(index.id, doubt.kind, doubt.key, refused.get(doubt.key, "")) for doubt in left]


def doubts(context: EntityContext, index: SearchIndex, rebuild: Rebuild, texts: list[str]) -> list[Doubt]:
    """Which documents of these keys (texts) keep the new index from taking the former one's place."""
    found: list[Doubt] = []
    for first in range(0, len(texts), _PAGE):
        entries = _ledger_entries(context, index, texts[first : first + _PAGE])
        # the new index is written first, and so read last
        former = _versions(context, rebuild.former, [text for text, (_, _, owed) in entries.items() if owed])
        new = _versions(context, rebuild.name, list(entries))
        for text, (written, held, owed) in entries.items():
            if kind := _kind(written, new.get(text), former.get(text), held=held, owed=owed):
                found.append(Doubt(text, kind, owed))
    return found


def owed_documents(context: EntityContext, index: SearchIndex) -> list[str]:
    """Keys (texts) of documents that may be on their way."""
    with context.stores.target() as cursor:
        return queue_reads.owed_documents(cursor, context.entity.name, index.id)


def _kind(written: int, new: int | None, former: int | None, *, held: bool, owed: bool) -> FindingKind | None:
    if not held:
        there = new is not None and (not owed or former is None)
        return FindingKind.EXTRA if there else None
    if owed:
        wanted = former
    else:
        wanted = written
        if new is not None and new > written:
            return FindingKind.CORRUPT  # somebody else wrote it, or it was written after the ledger was read
    if wanted is None or (new is not None and new >= wanted):
        return None
    return FindingKind.MISSING if new is None else FindingKind.STALE


def _wanted(context: EntityContext, index: SearchIndex) -> Iterator[list[str]]:
    """Keys (texts) that have a document, by the ledger."""
    is_held = f"l.held & {context.bits[index.id]} <> 0"
    after: list[str] | None = None
    while True:
        with context.stores.target() as cursor:
            rows, after = context.ledger.page(cursor, is_held, after, _PAGE)
        texts = context.origin.key.texts(rows)
        yield texts.filter(has_fit_id(texts)).to_pylist()
        if after is None:
            return


def _unwanted(context: EntityContext, index: SearchIndex, texts: list[str]) -> list[str]:
    """Those that have no document, by the ledger."""
    return [text for text, (_, held, _) in _ledger_entries(context, index, texts).items() if not held]


def _ledger_entries(context: EntityContext, index: SearchIndex, texts: list[str]) -> dict[str, tuple[int, bool, bool]]:
    """(revision that wrote it, whether it has a document, whether that is owed) of each key, in one snapshot."""
    key = context.origin.key
    with context.stores.target() as cursor:
        is_owed = queue_reads.owes_document(cursor, context.entity.name, index.id, key.text_expression("l"))
        found = copy_out(
            cursor,
            f"SELECT {key.plain('l')}, l.written, l.held & {context.bits[index.id]} <> 0, {is_owed}"
            f" FROM {context.ledger.table} l WHERE {key.is_in(cursor, 'l', key.parse(texts))}",
            pa.schema([*key.schema, *_STANDING]),
        )
    values = (found.column(name).to_pylist() for name, _ in _STANDING)
    known = dict(zip(key.texts(found).to_pylist(), zip(*values, strict=True), strict=True))
    return {text: known.get(text, (0, False, False)) for text in texts}


def _versions(context: EntityContext, index: str, ids: list[str]) -> dict[str, int]:
    return {doc["_id"]: doc["_version"] for doc in _documents(context, index, ids, source=False)}


def _documents(context: EntityContext, index: str, ids: list[str], *, source: bool) -> list[dict[str, Any]]:
    """Those that are there."""
    return [doc for doc in look_up(context.stores.search, index, ids, source=source) if doc["found"]]


def _carry_over(
    context: EntityContext, index: SearchIndex, rebuild: Rebuild, texts: list[str]
) -> tuple[int, dict[str, str]]:
    """Take over what the fill does not make, as the former index has it: readers keep it until a sweep takes it away.

    Its row is parked, or gone from the monolith and not yet swept. Gives how many were taken, and why others were not.
    """
    key = context.origin.key
    docs = _documents(context, rebuild.former, texts, source=True)
    if not docs:
        return 0, {}
    ids = pa.array([doc["_id"] for doc in docs], pa.string())
    versions = pa.array([doc["_version"] for doc in docs], pa.int64())
    bodies = pa.array([orjson.dumps(doc["_source"]).decode() for doc in docs], pa.string())
    result = index.write(context.stores.search, ids, versions, bodies, index.next_alias)
    with context.stores.target() as cursor:  # what was deleted meanwhile must not be back
        later = context.ledger.later_than(cursor, key.parse(ids.to_pylist()), versions)
        due.owe_to(cursor, context.entity.name, index.id, key.texts(later).to_pylist())
    taken = len(docs) - len(result.rejected) - len(result.retriable) - len(result.conflicts)
    return taken, {ids[n].as_py(): f"{kind}: {why}" for n, (kind, why) in result.rejected.items()}


def _settled(context: EntityContext, index: SearchIndex, rebuild: Rebuild, found: list[Doubt]) -> list[Doubt]:
    """What is still in doubt when nothing of it is owed any more, or nobody has done it in time."""
    limit, tries = time.monotonic() + _PATIENCE_SECONDS, 0
    while found and (tries < _LOOKS or any(doubt.owed for doubt in found)) and time.monotonic() < limit:
        if tries and not work(context, lambda *_: None):
            threading.Event().wait(_PAUSE_SECONDS)
        found = doubts(context, index, rebuild, [doubt.key for doubt in found])
        tries += 1
    return found
