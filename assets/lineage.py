"""Where an entity's data comes from and goes to, as asset keys and specs."""

from __future__ import annotations

from collections.abc import Iterable

import dagster as dg
import sqlglot
from sqlglot import exp

from sync_pipeline.entity import Entity

LEGACY = "legacy"
LEGACY_BUCKET = dg.AssetKey([LEGACY, "bucket"])


def legacy_tables(entity: Entity) -> list[dg.AssetKey]:
    """The tables that the entity's query reads and its changes come from.

    Raises sqlglot.errors.ParseError, which shows the place in the query.
    """
    query = sqlglot.parse_one(entity.origin.sql, dialect="postgres")
    named = {cte.alias for cte in query.find_all(exp.CTE)}
    read = {f"{table.db}.{table.name}" if table.db else table.name for table in query.find_all(exp.Table)} - named
    return sorted(map(legacy_key, read | {change.table for change in entity.changes}))


def legacy_key(table: str) -> dg.AssetKey:
    """The asset of a table of the monolith, given as `table` or `schema.table`."""
    return dg.AssetKey([LEGACY, *table.removeprefix("public.").split(".")])


def legacy_specs(entities: Iterable[Entity]) -> list[dg.AssetSpec]:
    """The monolith's tables and bucket: external assets that others depend on."""
    entities = list(entities)
    tables = sorted({key for entity in entities for key in legacy_tables(entity)})
    specs = [
        dg.AssetSpec(
            key,
            group_name=LEGACY,
            kinds={"postgres", "table"},
            description=f"Table `{'.'.join(key.path[1:])}` of the monolith, read and never written.",
        )
        for key in tables
    ]
    if any(entity.media for entity in entities):
        description = "The monolith's bucket of files, read and never written."
        specs.append(dg.AssetSpec(LEGACY_BUCKET, group_name=LEGACY, kinds={"s3"}, description=description))
    return specs


def history_key(entity: Entity) -> dg.AssetKey:
    """The entity's history, filled by partition."""
    return dg.AssetKey(["history", entity.name])


def sink_keys(entity: Entity) -> dict[str, dg.AssetKey]:
    """The asset of each sink the entity has, by its name in a verdict, in the order in which they are written."""
    keys = {"media": dg.AssetKey(["media", entity.media.prefix])} if entity.media else {}
    keys["relational"] = dg.AssetKey(entity.table.name.split("."))
    if entity.index:
        keys["search"] = dg.AssetKey(["search", entity.index.alias])
    return keys


def sink_specs(entity: Entity) -> list[dg.AssetSpec]:
    """Files first, then rows that name them, then documents of these rows."""
    keys = sink_keys(entity)
    tables = legacy_tables(entity)
    relational = [*tables, keys["media"]] if entity.media else tables
    told = f"{entity.description} Rows of `{entity.table.name}`, kept in step with the monolith."
    specs = [_spec(entity, keys["relational"], relational, {"postgres", "table"}, told)]
    if entity.media:
        told = f"Files of {entity.name}, copied by content identity under `{entity.media.prefix}/`."
        specs.append(_spec(entity, keys["media"], [*tables, LEGACY_BUCKET], {"s3"}, told))
    if entity.index:
        told = f"Documents of {entity.name} behind the alias `{entity.index.alias}`" + (
            f", where `{entity.index.where}` is true." if entity.index.where else "."
        )
        specs.append(_spec(entity, keys["search"], [keys["relational"]], {"elasticsearch"}, told))
    return specs


def _spec(entity: Entity, key: dg.AssetKey, deps: list[dg.AssetKey], kinds: set[str], description: str) -> dg.AssetSpec:
    metadata: dict[str, object] = {"entity version": entity.version}
    if key == sink_keys(entity)["relational"]:
        columns = [dg.TableColumn(name, kind) for name, kind in entity.table.columns.items()]
        metadata["dagster/column_schema"] = dg.TableSchema(columns)
    return dg.AssetSpec(
        key,
        deps=deps,
        group_name=entity.name,
        owners=[entity.owner],
        kinds=kinds,
        description=description,
        metadata=metadata,
        code_version=str(entity.version),
        skippable=True,
    )
