"""Where an entity's data comes from and goes to, as asset keys and specs."""

from __future__ import annotations

import re
from collections.abc import Iterable

import dagster as dg

from assets.columns import column_lineage, legacy_schemas, table_schema
from assets.queries import tables_read
from sync_pipeline.entity import Entity
from sync_pipeline.sinks.sink import Sink, Stage

LEGACY = "legacy"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")
LEGACY_BUCKET = dg.AssetKey([LEGACY, "bucket"])


def legacy_tables(entity: Entity) -> list[dg.AssetKey]:
    """The tables that the entity's query reads and its changes come from.

    Raises sqlglot.errors.ParseError, which shows the place in the query.
    """
    read = tables_read(entity.origin.sql) | {table.name for table in entity.tables}
    return sorted(set(map(legacy_key, read)))


def legacy_key(table: str) -> dg.AssetKey:
    """The asset of a table of the monolith, given as `table` or `schema.table`."""
    return asset_key(LEGACY, *table.removeprefix("public.").split("."))


def asset_key(*parts: str) -> dg.AssetKey:
    """The key of an asset, with an underscore for each character that Dagster takes in no name.

    A prefix, an alias or a quoted table may hold any; one such name would keep the whole code location from loading.
    """
    return dg.AssetKey([_NOT_IN_NAMES.sub("_", part) for part in parts])


def legacy_specs(entities: Iterable[Entity]) -> list[dg.AssetSpec]:
    """The monolith's tables and bucket: external assets that others depend on."""
    entities = list(entities)
    schemas = {legacy_key(table): schema for table, schema in legacy_schemas(entities).items()}
    tables = sorted({key for entity in entities for key in legacy_tables(entity)})
    specs = [_legacy_spec(key, schemas.get(key)) for key in tables]
    if any(sink.stage is Stage.BEFORE_ROWS for entity in entities for sink in entity.sinks):
        description = "The monolith's bucket of files, read and never written."
        specs.append(
            dg.AssetSpec(LEGACY_BUCKET, group_name=LEGACY, kinds={"s3"}, description=description, tags={"side": LEGACY})
        )
    return specs


def _legacy_spec(key: dg.AssetKey, schema: dg.TableSchema | None) -> dg.AssetSpec:
    name = ".".join(key.path[1:])
    return dg.AssetSpec(
        key,
        group_name=LEGACY,
        kinds={"postgres", "table"},
        tags={"side": LEGACY},
        description=f"Table `{name}` of the monolith, read and never written.",
        metadata={"dagster/table_name": name} | ({"dagster/column_schema": schema} if schema else {}),
    )


def history_key(entity: Entity) -> dg.AssetKey:
    """The entity's history, filled by partition."""
    return dg.AssetKey(["history", entity.name])


def sink_keys(entity: Entity) -> dict[str, dg.AssetKey]:
    """The asset of each sink the entity has, by its name in a verdict, in the order in which they are written."""
    return {sink.kind: asset_key(*sink.asset_path(entity.name)) for sink in _in_order(entity)}


def sink_specs(entity: Entity) -> list[dg.AssetSpec]:
    """Files first, then rows that name them, then documents of these rows."""
    return [_spec(entity, sink) for sink in _in_order(entity)]


def column_lineages(entity: Entity) -> dict[dg.AssetKey, dg.TableColumnLineage]:
    """Column by column, where the table's rows come from, and what follows them from the table's."""
    keys = sink_keys(entity)
    table = keys[entity.table.kind]
    found = {table: column_lineage(entity, legacy_key)}
    for sink in entity.outer_sinks:
        if shared := sink.declared & entity.table.declared:
            found[keys[sink.kind]] = dg.TableColumnLineage(
                {name: [dg.TableColumnDep(table, name)] for name in sorted(shared)}
            )
    return found


def _in_order(entity: Entity) -> list[Sink]:
    return sorted(entity.sinks, key=lambda sink: sink.stage)


def tags(entity: Entity, part: str) -> dict[str, str]:
    """What people filter assets by; `part` is a sink's name in a verdict, or history."""
    return {"side": "new", "entity": entity.name, "part": part}


def _spec(entity: Entity, sink: Sink) -> dg.AssetSpec:
    page = sink.page(entity.name)
    schema = table_schema(entity, page)
    shown: dict[str, object] = {"entity version": entity.version}
    shown |= {"dagster/table_name": page.table} if page.table else {}
    shown |= {"dagster/column_schema": schema} if schema else {}
    return dg.AssetSpec(
        sink_keys(entity)[sink.kind],
        deps=_deps(entity, sink),
        group_name=entity.name,
        owners=[entity.owner],
        kinds={*page.kinds},
        tags=tags(entity, sink.kind),
        description=" ".join([entity.description, page.description] if sink is entity.table else [page.description]),
        metadata=shown,
        code_version=str(entity.version),
        skippable=True,
    )


def _deps(entity: Entity, sink: Sink) -> list[dg.AssetKey]:
    """What a sink's part of a batch is made of: by its stage, the monolith, or what was written before it."""
    keys, tables = sink_keys(entity), legacy_tables(entity)
    if sink.stage is Stage.BEFORE_ROWS:
        return [*tables, LEGACY_BUCKET]
    if sink.stage is Stage.AFTER_ROWS:
        return [keys[entity.table.kind]]
    return [*tables, *(keys[other.kind] for other in entity.sinks if other.stage is Stage.BEFORE_ROWS)]
