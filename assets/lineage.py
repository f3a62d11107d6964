"""Where an entity's data comes from and goes to, as asset keys and specs."""

from __future__ import annotations

import re
from collections.abc import Iterable

import dagster as dg

from assets.columns import column_lineage, document_schema, legacy_schemas, table_schema
from assets.queries import tables_read
from sync_pipeline.entity import Entity
from sync_pipeline.sinks.media import MediaBucket

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
    if any(entity.media for entity in entities):
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
    keys = {"media": _media_key(entity, entity.media)} if entity.media else {}
    keys["relational"] = asset_key(*entity.table.name.split("."))
    if entity.index:
        keys["search"] = asset_key("search", entity.index.alias)
    return keys


def _media_key(entity: Entity, media: MediaBucket) -> dg.AssetKey:
    """Files below a prefix; entities that share one have an asset each."""
    return asset_key("media", *media.prefix.split("/"), *([entity.name] if media.shared else []))


def sink_specs(entity: Entity) -> list[dg.AssetSpec]:
    """Files first, then rows that name them, then documents of these rows."""
    keys = sink_keys(entity)
    tables = legacy_tables(entity)
    relational = [*tables, keys["media"]] if entity.media else tables
    description = f"{entity.description} Rows of `{entity.table.name}`, kept in step with the monolith."
    shown = {"dagster/table_name": entity.table.name, "dagster/column_schema": table_schema(entity)}
    specs = [_spec(entity, "relational", relational, {"postgres", "table"}, description, shown)]
    if entity.media:
        description = f"Files of {entity.name}, copied by content identity under `{entity.media.prefix}/`."
        specs.append(_spec(entity, "media", [*tables, LEGACY_BUCKET], {"s3"}, description, {}))
    if entity.index:
        description = f"Documents of {entity.name} behind the alias `{entity.index.alias}`" + (
            f", where `{entity.index.where}` is true." if entity.index.where else "."
        )
        shown = {"dagster/column_schema": document_schema(entity)}
        specs.append(_spec(entity, "search", [keys["relational"]], {"elasticsearch"}, description, shown))
    return specs


def column_lineages(entity: Entity) -> dict[dg.AssetKey, dg.TableColumnLineage]:
    """Column by column, where the table's rows come from, and documents from the table's."""
    keys = sink_keys(entity)
    found = {keys["relational"]: column_lineage(entity, legacy_key)}
    if entity.index:
        shared = entity.index.fields.keys() & entity.table.columns.keys()
        found[keys["search"]] = dg.TableColumnLineage(
            {name: [dg.TableColumnDep(keys["relational"], name)] for name in shared}
        )
    return found


def tags(entity: Entity, part: str) -> dict[str, str]:
    """What people filter assets by; `part` is a sink's name in a verdict, or history."""
    return {"side": "new", "entity": entity.name, "part": part}


def _spec(
    entity: Entity, sink: str, deps: list[dg.AssetKey], kinds: set[str], description: str, shown: dict[str, object]
) -> dg.AssetSpec:
    return dg.AssetSpec(
        sink_keys(entity)[sink],
        deps=deps,
        group_name=entity.name,
        owners=[entity.owner],
        kinds=kinds,
        tags=tags(entity, sink),
        description=description,
        metadata={"entity version": entity.version, **shown},
        code_version=str(entity.version),
        skippable=True,
    )
