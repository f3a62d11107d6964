"""What the asset pages show of columns: types, constraints, what each means and what it is made of."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping

import dagster as dg

from assets.adapters import column_reads
from assets.queries import Column, ColumnOrigin, column_origins, columns_read
from sync_pipeline.entity import Entity
from sync_pipeline.sinks.table.definitions import split_definition

_SHOWN_OTHERWISE = re.compile(r"\b(?:not\s+)?null\b|\bunique\b", re.IGNORECASE)


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


def table_schema(entity: Entity) -> dg.TableSchema:
    """The columns of the entity's table."""
    key, origins = entity.table.identity, origins_of(entity)
    together = [f"primary key ({', '.join(key)})"] if len(key) > 1 else []
    columns = [
        dg.TableColumn(
            name,
            split_definition(definition)[0],
            description=_description(entity, name, origins),
            constraints=_constraints(split_definition(definition)[1], is_key=name in key, is_whole_key=(name,) == key),
        )
        for name, definition in entity.table.columns.items()
    ]
    return dg.TableSchema(columns, dg.TableConstraints(together))


def document_schema(entity: Entity) -> dg.TableSchema:
    """The fields of the entity's documents, by their mapping."""
    origins = origins_of(entity)
    return dg.TableSchema(
        [
            dg.TableColumn(
                name,
                str(mapping.get("type", "object")),
                description=_description(entity, name, origins),
                constraints=dg.TableColumnConstraints(other=_mapped(mapping)),
            )
            for name, mapping in (entity.index.fields if entity.index else {}).items()
        ]
    )


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


def _declared(entity: Entity) -> set[str]:
    return {*entity.table.columns, *(entity.index.fields if entity.index else ())}


def _description(entity: Entity, name: str, origins: Mapping[str, ColumnOrigin]) -> str | None:
    """What its entity's file says of a column, then where it comes from."""
    words = [entity.comments[name]] if name in entity.comments else []
    if name in origins and origins[name].columns:
        columns = ", ".join(f"`{table}.{column}`" for table, column in sorted(origins[name].columns))
        words.append(f"{'From' if origins[name].as_is else 'Made from'} {columns}.")
    return " ".join(words) or None


def _constraints(definition: str, *, is_key: bool, is_whole_key: bool) -> dg.TableColumnConstraints:
    rest = " ".join(_SHOWN_OTHERWISE.sub("", definition).split())
    return dg.TableColumnConstraints(
        nullable=not is_key and not re.search(r"\bnot\s+null\b", definition, re.IGNORECASE),
        unique=bool(re.search(r"\bunique\b", definition, re.IGNORECASE)),
        other=["primary key"] * is_whole_key + [rest] * bool(rest),
    )


def _mapped(mapping: Mapping[str, object]) -> list[str]:
    """What a mapping says besides the type."""
    return [f"{name}: {value}".lower() for name, value in mapping.items() if name not in {"type", "properties"}]


def _becomes(entities: Iterable[Entity]) -> dict[Column, dict[str, list[str]]]:
    """By legacy column, the declared columns that are made of it, each with its entities."""
    found: dict[Column, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for entity in entities:
        for name, origins in origins_of(entity).items():
            for column in origins.columns if name in _declared(entity) else ():
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
