"""Adapting: legacy rows through the entity's adapter, with the bad ones set aside by halving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.columns import frame, table_of, text_of
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError, RowRejectedError
from sync_pipeline.keys import Key
from sync_pipeline.ledger.ledger import HELD_DOCUMENT, HELD_ROW
from sync_pipeline.origin import DIGEST, Reject


@dataclass(frozen=True)
class Adapted:
    """Legacy rows and what the adapter made of them, row by row; `held` says which sinks want each."""

    legacy: pa.Table
    table: pa.Table
    held: pa.Array  # int16

    def take(self, keep: pa.Array) -> Adapted:
        """Some of the rows."""
        return Adapted(self.legacy.take(keep), self.table.take(keep), self.held.take(keep))


def adapt(entity: Entity, key: Key, legacy: pa.Table) -> tuple[Adapted, list[Reject]]:
    """Adapt all rows; a row the adapter cannot take is rejected alone.

    Raises DeclarationError when the adapter breaks its contract whatever the row, MemoryError for several rows.
    """
    pieces: list[tuple[pa.Table, pa.Table]] = []
    rejects: list[Reject] = []
    _adapt(entity, key, legacy, pieces, rejects)
    if not pieces:
        empty = legacy.slice(0, 0)
        pieces.append((empty, _convert(entity, key, empty)))
    table = pa.concat_tables([adapted for _, adapted in pieces], promote_options="permissive")
    rows = pa.concat_tables([part for part, _ in pieces])
    return Adapted(rows, table, _held(entity, table)), rejects


def _adapt(
    entity: Entity, key: Key, part: pa.Table, pieces: list[tuple[pa.Table, pa.Table]], rejects: list[Reject]
) -> None:
    try:
        pieces.append((part, _convert(entity, key, part)))
    except DeclarationError:
        raise
    except MemoryError as error:
        if part.num_rows > 1:
            raise  # half the batch may fit: its rows have to go before that is tried
        rejects.append(_refused(key, part, error))
    except Exception as error:  # whatever an adapter raises is its verdict on the row
        if part.num_rows > 1:
            half = part.num_rows // 2
            _adapt(entity, key, part.slice(0, half), pieces, rejects)
            _adapt(entity, key, part.slice(half), pieces, rejects)
        elif part.num_rows == 0:
            raise DeclarationError(f"entity {entity.name}: adapt fails on an empty frame: {error}") from error
        else:
            rejects.append(_refused(key, part, error))


def _refused(key: Key, part: pa.Table, error: Exception) -> Reject:
    """The one row of a part, which the adapter does not take."""
    text, digest = key.texts(part)[0].as_py(), part.column(DIGEST)[0].as_py()
    return Reject(text, "adapt", type(error).__name__, str(error), digest)


def _convert(entity: Entity, key: Key, legacy: pa.Table) -> pa.Table:
    given = frame(legacy.drop_columns([DIGEST]))
    made = entity.adapt(given)
    _check_rows(entity, given, made)
    table = table_of(made)
    _check_key(entity, key, legacy, table)
    return _with_facts(entity, table)


def _with_facts(entity: Entity, table: pa.Table) -> pa.Table:
    """The table with empty columns for what is known of files only once they are copied."""
    for _, fact, name in entity.media.facts if entity.media else ():
        if name in table.column_names:
            raise DeclarationError(f"entity {entity.name}: adapt returns {name!r}, which MediaBucket({fact}=…) fills")
        table = table.append_column(name, pa.nulls(table.num_rows))
    return table


def _check_rows(entity: Entity, given: pd.DataFrame, made: Mapping[str, pd.Series] | pd.DataFrame) -> None:
    for name, column in made.items():
        if not isinstance(column, pd.Series):
            raise DeclarationError(f"entity {entity.name}: adapt returns no column of a frame as {name!r}")
        if column.index is not given.index and not column.index.equals(given.index):
            raise DeclarationError(f"entity {entity.name}: adapt must return one row for each legacy row, in order")


def _check_key(entity: Entity, key: Key, legacy: pa.Table, table: pa.Table) -> None:
    for ours, theirs in zip(key.columns, entity.table.key, strict=True):
        if theirs not in table.column_names:
            raise DeclarationError(f"entity {entity.name}: adapt returns no key column {theirs!r}")
        if (
            legacy.num_rows
            and not pc.all(pc.equal(text_of(legacy.column(ours)), text_of(table.column(theirs)))).as_py()
        ):
            raise RowRejectedError(f"adapt changed the key column {theirs!r}")


def _held(entity: Entity, table: pa.Table) -> pa.Array:
    row = _wanted(entity, table, entity.table.where)
    document = _wanted(entity, table, entity.index.where) if entity.index else pa.repeat(False, table.num_rows)
    both = pc.add(
        pc.multiply(pc.cast(row, pa.int16()), HELD_ROW), pc.multiply(pc.cast(document, pa.int16()), HELD_DOCUMENT)
    )
    return pc.cast(both, pa.int16())


def _wanted(entity: Entity, table: pa.Table, where: str | None) -> pa.Array:
    if where is None:
        return pa.repeat(True, table.num_rows)
    if where not in table.column_names:
        raise DeclarationError(f"entity {entity.name}: a sink's where names {where!r}, which adapt does not return")
    return pc.fill_null(pc.cast(table.column(where), pa.bool_()), False).combine_chunks()


def without(adapted: Adapted, key: Key, texts: Sequence[str]) -> Adapted:
    """The rows whose keys are not among `texts`."""
    if not texts:
        return adapted
    out = pc.is_in(key.texts(adapted.legacy), value_set=pa.array(texts, pa.string()))
    return adapted.take(pc.indices_nonzero(pc.invert(out)))
