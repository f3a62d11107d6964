"""Finds objects that another program has written above the ledger's version."""

from __future__ import annotations

from collections.abc import Mapping

import pyarrow as pa

from sync_pipeline.ledger.ledger import raise_revision
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.operations import Operations


def overwritten(context: SinkContext, operations: Operations, there: Mapping[int, int | None]) -> list[str]:
    """Return ids of objects that bear a version above the ledger's, and have the ledger go on above it.

    `there` are versions that the sink holds, by the positions of operations that it did not take for them. A version
    that the ledger has given by now is a later batch's, and nothing is to be done.
    """
    known = {position: version for position, version in there.items() if version is not None}
    if not known:
        return []
    asked = operations.take([*known])
    versions = dict(zip(asked.ids.to_pylist(), known.values(), strict=True))
    return sorted(above_ledger(context, versions_of(context, asked.keys), versions))


def versions_of(context: SinkContext, keys: pa.Table) -> dict[str, int]:
    """Return by key text the revision that wrote each key last; keys that the ledger does not know are absent."""
    with context.stores.target() as cursor:
        prior = context.ledger.prior(cursor, keys)
    return dict(zip(context.key.texts(prior).to_pylist(), prior.column("written").to_pylist(), strict=True))


def above_ledger(context: SinkContext, written: Mapping[str, int], there: Mapping[str, int]) -> set[str]:
    """Return ids of which a sink holds a version above the ledger's `written`, and have the ledger go on above it."""
    above = {text: version for text, version in there.items() if version > written.get(text, 0)}
    if above:
        raise_revision(context.stores, max(above.values()))
    return {*above}
