"""Adapting: legacy rows through the entity's adapter, with the bad ones set aside by halving."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import orjson
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.batch.fitting import Fitted, concatenate, fit
from sync_pipeline.db.columns import DIGEST, ELSEWISE, arrow_type, fit_texts, frame
from sync_pipeline.db.keys import Key
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError, RowRejectedError
from sync_pipeline.ledger.sinks import HeldBits
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.sinks.table import tables_of
from sync_pipeline.sinks.table.definitions import split_definition


def adapt(entity: Entity, key: Key, legacy: pa.Table, bits: HeldBits | None = None) -> tuple[Adapted, list[Reject]]:
    """Adapt all rows; a row the adapter cannot take is rejected alone.

    `bits` are those of the entity's sinks in its ledger; without them, as a new ledger would give them.

    Rows with a value that its column's Arrow type does not hold, such as an infinite date, are given to the adapter
    apart, with that column as the server's text. Raises DeclarationError when the adapter breaks its contract whatever
    the row, MemoryError for several rows.
    """
    run = _Run(entity, key)
    for part in _alike(key, legacy):
        run.adapt(part)
    if not run.pieces:
        empty = _Given(legacy.slice(0, 0), legacy.slice(0, 0))
        run.pieces.append((empty.legacy, run.convert(empty).table))
    table = concatenate([adapted for _, adapted in run.pieces])
    rows = pa.concat_tables([part for part, _ in run.pieces])
    return Adapted(rows, table, _held(entity, table, bits or HeldBits.in_order(entity.sinks_with_bits))), run.rejects


@dataclass(frozen=True)
class _Given:
    """Legacy rows, and the columns that the adapter is given of them."""

    legacy: pa.Table
    columns: pa.Table

    def slice(self, first: int, count: int | None = None) -> _Given:
        return _Given(self.legacy.slice(first, count), self.columns.slice(first, count))


@dataclass
class _Run:
    """The adapting of one batch, in pieces where rows are at fault."""

    entity: Entity
    key: Key
    pieces: list[tuple[pa.Table, pa.Table]] = field(default_factory=list)
    rejects: list[Reject] = field(default_factory=list)

    @cached_property
    def definitions(self) -> dict[str, str]:
        """The types of columns; where several tables have one, the first table's."""
        tables = reversed(tables_of(self.entity.sinks))
        return {name: split_definition(kind)[0] for table in tables for name, kind in table.columns.items()}

    def adapt(self, part: _Given) -> None:
        count = part.legacy.num_rows
        try:
            fitted = self.convert(part)
        except DeclarationError:
            raise
        except MemoryError as error:
            if count > 1:
                raise  # half the batch may fit: its rows have to go before that is tried
            self._reject(part, type(error).__name__, str(error))
        except Exception as error:  # whatever an adapter raises is its verdict on the row
            if count > 1:
                self.adapt(part.slice(0, count // 2))
                self.adapt(part.slice(count // 2))
            elif count == 0:
                raise DeclarationError(f"entity {self.entity.name}: adapt fails on an empty frame: {error}") from error
            else:
                self._reject(part, type(error).__name__, str(error))
        else:
            self._take(part, fitted)

    def convert(self, part: _Given) -> Fitted:
        given = frame(part.columns)
        returned = self.entity.adapt(given)
        _check_rows(self.entity, given, returned)
        fitted = fit(returned, self.definitions, self.entity.documented)
        _check_key(self.entity, self.key, part.legacy, fitted.table)
        _add_facts(self.entity, fitted, part.legacy.num_rows)
        return fitted

    def _take(self, part: _Given, fitted: Fitted) -> None:
        """A row whose values do not fit is tried alone: another row of the batch may have changed their type."""
        if not fitted.faults:
            self.pieces.append((part.legacy, fitted.table))
            return
        if part.legacy.num_rows == 1:
            message = f"entity {self.entity.name}: {fitted.faults[0]}"
            self._reject(part, "UnfitValue", message)
            return
        others = pa.array([row for row in range(part.legacy.num_rows) if row not in fitted.faults], pa.int64())
        self.pieces.append((part.legacy.take(others), fitted.table.take(others)))
        for row in sorted(fitted.faults):
            self.adapt(part.slice(row, 1))

    def _reject(self, part: _Given, error: str, message: str) -> None:
        """The one row of a part, which the adapter does not take."""
        text, digest = self.key.texts(part.legacy)[0].as_py(), part.legacy.column(DIGEST)[0].as_py()
        self.rejects.append(Reject(text, BatchStep.ADAPT, error, message, digest))


def _alike(key: Key, legacy: pa.Table) -> Iterator[_Given]:
    """Rows by the columns that hold the server's text instead of a value of their type; for most rows that is none."""
    columns, elsewise = _typed_keys(key, legacy.drop_columns([DIGEST, ELSEWISE]))
    elsewise_texts = legacy.column(ELSEWISE)
    if elsewise_texts.null_count < len(elsewise_texts):
        for row in pc.indices_nonzero(elsewise_texts.is_valid()).to_pylist():
            elsewise.setdefault(row, {}).update(orjson.loads(elsewise_texts[row].as_py()))
    if not elsewise:
        yield _Given(legacy, columns)
        return
    groups: dict[tuple[str, ...], list[int]] = {}
    for row in range(legacy.num_rows):
        groups.setdefault(tuple(sorted(elsewise.get(row, ()))), []).append(row)
    for names, rows in groups.items():
        part = columns.take(pa.array(rows, pa.int64()))
        for name in names:
            texts = pa.array([elsewise[row][name] for row in rows], pa.string())
            part = part.set_column(part.column_names.index(name), name, texts)
        yield _Given(legacy.take(pa.array(rows, pa.int64())), part)


def _typed_keys(key: Key, columns: pa.Table) -> tuple[pa.Table, dict[int, dict[str, str]]]:
    """Keys, which are texts in tables of the engine, in the types that adapters know; by row those that have none."""
    elsewise: dict[int, dict[str, str]] = {}
    for name, kind in zip(key.columns, key.types, strict=True):
        as_given = arrow_type(kind)
        if columns.schema.field(name).type != as_given and not pa.types.is_list(as_given):
            fitted, others = fit_texts(columns.column(name), as_given)
            columns = columns.set_column(columns.column_names.index(name), name, fitted)
            for row, text in others.items():
                elsewise.setdefault(row, {})[name] = text
    return columns, elsewise


def _add_facts(entity: Entity, fitted: Fitted, rows: int) -> None:
    """Empty columns for what is known of files only once they are copied."""
    for sink in entity.placing_sinks:
        for fact, name in sink.filled:
            if name in fitted.columns:
                kind = type(sink).__name__
                raise DeclarationError(f"entity {entity.name}: adapt returns {name!r}, which {kind}({fact}=…) fills")
            fitted.columns[name] = pa.nulls(rows)


def _check_rows(entity: Entity, given: pd.DataFrame, returned: Mapping[str, pd.Series] | pd.DataFrame) -> None:
    names = [str(name) for name, _ in returned.items()]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise DeclarationError(f"entity {entity.name}: adapt returns two columns {twice!r}")
    for name, column in returned.items():
        if not isinstance(column, pd.Series):
            raise DeclarationError(f"entity {entity.name}: adapt returns no column of a frame as {name!r}")
        if column.index is not given.index and not column.index.equals(given.index):
            raise DeclarationError(f"entity {entity.name}: adapt must return one row for each legacy row, in order")


def _check_key(entity: Entity, key: Key, legacy: pa.Table, table: pa.Table) -> None:
    for theirs in entity.table.key:
        if theirs not in table.column_names:
            raise DeclarationError(f"entity {entity.name}: adapt returns no key column {theirs!r}")
    if not legacy.num_rows:
        return
    was, now = legacy.select(list(key.columns)), table.select(list(entity.table.key))
    if all(one.equals(other) for one, other in zip(was.columns, now.columns, strict=True)):
        return
    texts = zip(key.column_texts(was), key.column_texts(now), strict=True)
    for theirs, (one, other) in zip(entity.table.key, texts, strict=True):
        if not pc.all(pc.equal(one, other)).as_py():
            raise RowRejectedError(f"adapt changed the key column {theirs!r}")


def _held(entity: Entity, table: pa.Table, bits: HeldBits) -> pa.Array:
    held = pa.repeat(pa.scalar(0, pa.int16()), table.num_rows)
    for sink in (entity.table, *entity.outer_sinks):
        wanted = pc.multiply(
            pc.cast(_wanted(entity, table, sink.where), pa.int16()), pa.scalar(bits[sink.id], pa.int16())
        )
        held = pc.bit_wise_or(held, wanted)
    return held


def _wanted(entity: Entity, table: pa.Table, where: str | None) -> pa.Array:
    if where is None:
        return pa.repeat(True, table.num_rows)
    if where not in table.column_names:
        raise DeclarationError(f"entity {entity.name}: a sink's where names {where!r}, which adapt does not return")
    return pc.fill_null(pc.cast(table.column(where), pa.bool_()), False).combine_chunks()
