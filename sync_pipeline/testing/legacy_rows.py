"""Legacy rows for tests of adapters: written down, or read from a monolith."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import orjson
import pyarrow as pa

from sync_pipeline.db.columns import DIGEST, ELSEWISE, arrow_type
from sync_pipeline.db.keys import Key
from sync_pipeline.entities.origin import Origin
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError
from sync_pipeline.stores.stores import Stores

# a value of a legacy column: of its column's type, or the server's text where that type does not hold it ("infinity")
LegacyValue = (
    str | int | float | bool | bytes | Decimal | dt.date | dt.time | dt.timedelta | list["LegacyValue"]
    | dict[str, "LegacyValue"] | None
)  # fmt: skip
LegacyRow = Mapping[str, LegacyValue]


@dataclass(frozen=True)
class LegacyRows:
    """Rows as an entity's query returns them, with the PostgreSQL types of its columns.

    For example, `LegacyRows({"id": "bigint", "title": "text"}, [{"id": 7, "title": "Nocturnes"}])`.
    """

    types: Mapping[str, str]
    rows: Sequence[LegacyRow]

    @classmethod
    def read(cls, entity: Entity, stores: Stores, limit: int = 100) -> LegacyRows:
        """Rows of the monolith, the first ones by key. Raises UnreachableError, LegacySchemaError."""
        origin = Origin.open(entity, stores)
        found = origin.page(None, None, "true", limit).table
        elsewise = [orjson.loads(text) if text else {} for text in found.column(ELSEWISE).to_pylist()]
        rows = [
            row | other for row, other in zip(found.drop_columns([DIGEST, ELSEWISE]).to_pylist(), elsewise, strict=True)
        ]
        return cls(dict(origin.kinds), rows)

    def key_of(self, entity: Entity) -> Key:
        """The entity's key, with its types. Raises DeclarationError where `types` lacks a column of it."""
        lacking = [name for name in entity.origin.key if name not in self.types]
        if lacking:
            raise DeclarationError(
                f"entity {entity.name}: LegacyRows.types has no type for the key column {lacking[0]!r}"
            )
        return Key(entity.origin.key, tuple(self.types[name] for name in entity.origin.key))

    def table(self, key: Key, rows: Iterable[LegacyRow]) -> pa.Table:
        """Rows as the engine reads them. Raises DeclarationError naming a column or value that has no such form."""
        rows = list(rows)
        types = {name: arrow_type(kind) for name, kind in self.types.items()} | {f.name: f.type for f in key.schema}
        elsewise: list[dict[str, str]] = [{} for _ in rows]
        columns: dict[str, pa.Array] = {}
        for name, kind in types.items():
            values = [self._value(name, kind, row, others) for row, others in zip(rows, elsewise, strict=True)]
            columns[name] = pa.array(values, kind)
        columns[DIGEST] = pa.array(range(len(rows)), pa.int64())
        columns[ELSEWISE] = pa.array([orjson.dumps(each).decode() if each else None for each in elsewise], pa.string())
        return pa.table(columns)

    def _value(self, name: str, kind: pa.DataType, row: LegacyRow, elsewise: dict[str, str]) -> LegacyValue:
        if name not in row:
            raise DeclarationError(f"LegacyRows: a row has no value for {name!r}: {dict(row)}")
        value = row[name]
        if pa.types.is_string(kind) and value is not None and not isinstance(value, str):
            value = orjson.dumps(value).decode() if isinstance(value, list | dict) else str(value)
        try:
            pa.array([value], kind)
        except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError) as error:
            if not isinstance(value, str):
                raise DeclarationError(f"LegacyRows: {value!r} is no value of {name} {self.types[name]}") from error
            elsewise[name] = value
            return None
        return value
