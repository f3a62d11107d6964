"""What the asset pages show of columns: types, constraints, what each means and what it is made of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import dagster as dg

from assets.adapters import column_reads
from assets.queries import Column, ColumnOrigin, column_origins, columns_read
from sync_pipeline.entity import Entity
from sync_pipeline.sinks.pages import SinkPage


def origins_of(entity: Entity) -> dict[str, ColumnOrigin]:
    """Adapted columns, each with the legacy columns it is made of, as far as query and adapter say so."""
    given = column_origins(entity.origin.sql)
    kept = {
        ours: ColumnOrigin(given[theirs].columns, given[theirs].as_is)
        for ours, theirs in _keys(entity)
        if theirs in given
    }
    for name, reads in column_reads(entity.adapt).items():
        if reads.columns <= given.keys():
            parts = [given[column] for column in reads.columns]
            columns = frozenset[Column]().union(*(part.columns for part in parts))
            kept[name] = ColumnOrigin(columns, reads.as_is and all(part.as_is for part in parts))
    return kept


def table_schema(entity: Entity, page: SinkPage) -> dg.TableSchema | None:
    """The columns or fields of one of the entity's sinks; None for one that has none."""
    if not page.columns:
        return None
    origins = origins_of(entity)
    columns = [
        dg.TableColumn(
            column.name,
            column.type,
            description=_description(entity, column.name, origins),
            constraints=dg.TableColumnConstraints(column.nullable, column.unique, list(column.notes)),
        )
        for column in page.columns
    ]
    return dg.TableSchema(columns, dg.TableConstraints(list(page.constraints)))


def legacy_schemas(entities: Iterable[Entity]) -> dict[str, dg.TableSchema]:
    """By table of the monolith, the columns that are read of it and what becomes of them. Types are not known."""
    entities = list(entities)
    watched = {(table.name, stamp) for entity in entities for table in entity.tables for stamp in table.stamps}
    readers, becomes = _readers(entities), _becomes(entities)
    found: dict[str, list[dg.TableColumn]] = defaultdict(list)
    for table, name in sorted(watched | readers.keys()):
        column = (table, name)
        words = _becoming(becomes[column]) if column in becomes else _reading(readers.get(column, []))
        words += ["Its value tells that a row has changed."] * (column in watched)
        found[table].append(dg.TableColumn(name, "?", " ".join(words)))
    return {table: dg.TableSchema(columns) for table, columns in found.items()}


def column_lineage(entity: Entity, legacy_key: Callable[[str], dg.AssetKey]) -> dg.TableColumnLineage:
    """The columns of the entity's table with the legacy columns they are made of."""
    return dg.TableColumnLineage(
        {
            name: [dg.TableColumnDep(legacy_key(table), column) for table, column in origins.columns]
            for name, origins in origins_of(entity).items()
            if name in entity.table.columns and origins.columns
        }
    )


def _keys(entity: Entity) -> Iterable[tuple[str, str]]:
    """Key columns of the table with those of the query: no adapter may change a key."""
    return zip(entity.table.key, entity.origin.key, strict=True)


def _description(entity: Entity, name: str, origins: Mapping[str, ColumnOrigin]) -> str | None:
    """What its entity's file says of a column, then where it comes from."""
    words = [entity.comments[name]] if name in entity.comments else []
    if name in origins and origins[name].columns:
        columns = ", ".join(f"`{table}.{column}`" for table, column in sorted(origins[name].columns))
        words.append(f"{'From' if origins[name].as_is else 'Made from'} {columns}.")
    return " ".join(words) or None


def _becomes(entities: Iterable[Entity]) -> dict[Column, dict[str, list[str]]]:
    """By legacy column, the declared columns that are made of it, each with its entities."""
    found: dict[Column, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entity in entities:
        for name, origins in origins_of(entity).items():
            for column in origins.columns if name in entity.declared else ():
                found[column][name].append(entity.name)
    return found


def _readers(entities: Iterable[Entity]) -> dict[Column, list[str]]:
    """By legacy column, the entities whose queries name it."""
    found: dict[Column, list[str]] = defaultdict(list)
    for entity in entities:
        for table, names in columns_read(entity.origin.sql).items():
            for name in names:
                found[table, name].append(entity.name)
    return found


def _becoming(becomes: Mapping[str, list[str]]) -> list[str]:
    parts = [f"`{name}` ({', '.join(users)})" for name, users in becomes.items()]
    return [f"Goes into {', '.join(parts)}."]


def _reading(readers: list[str]) -> list[str]:
    return [f"Read by {', '.join(readers)}."] if readers else []
