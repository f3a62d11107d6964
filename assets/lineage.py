"""Where an entity's data comes from and goes to, as asset keys and specs."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

import dagster as dg

from assets.columns import column_lineage, legacy_schemas, table_schema
from assets.queries import tables_read
from assets.translator import TRANSLATOR, AssetPart, SyncAsset, translated
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SettingError
from sync_pipeline.sinks.sink import Sink, Stage

LEGACY = "legacy"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]")


def legacy_tables(entity: Entity) -> list[dg.AssetKey]:
    """The tables that the entity's query reads and its changes come from.

    Raises sqlglot.errors.ParseError, which shows the place in the query.
    """
    return sorted(set(map(legacy_key, _tables(entity))))


def _tables(entity: Entity) -> set[str]:
    return tables_read(entity.origin.sql) | {table.name for table in entity.tables}


def legacy_key(table: str) -> dg.AssetKey:
    """The asset of a table of the monolith, given as `table` or `schema.table`."""
    return _legacy_spec(table, None).key


def bucket_key() -> dg.AssetKey:
    """The asset of the monolith's bucket."""
    return _bucket_spec().key


def asset_key(*parts: str) -> dg.AssetKey:
    """The key of an asset, with an underscore for each character that Dagster takes in no name.

    A prefix, an alias or a quoted table may hold any; one such name would keep the whole code location from loading.
    """
    return dg.AssetKey([_NOT_IN_NAMES.sub("_", part) for part in parts])


def legacy_specs(entities: Iterable[Entity]) -> list[dg.AssetSpec]:
    """The monolith's tables and bucket: external assets that others depend on."""
    entities = list(entities)
    schemas = {legacy_key(table): schema for table, schema in legacy_schemas(entities).items()}
    tables = {legacy_key(table): table for entity in entities for table in _tables(entity)}
    specs = [_legacy_spec(tables[key], schemas.get(key)) for key in sorted(tables)]
    if any(sink.stage is Stage.BEFORE_ROWS for entity in entities for sink in entity.sinks):
        specs.append(_bucket_spec())
    return specs


def _legacy_spec(table: str, schema: dg.TableSchema | None) -> dg.AssetSpec:
    key = asset_key(LEGACY, *table.removeprefix("public.").split("."))
    name = ".".join(key.path[1:])
    spec = dg.AssetSpec(
        key,
        group_name=LEGACY,
        kinds={"postgres", "table"},
        tags={"side": LEGACY},
        description=f"Table `{name}` of the monolith, read and never written.",
        metadata={"dagster/table_name": name} | ({"dagster/column_schema": schema} if schema else {}),
    )
    return translated(SyncAsset(AssetPart.LEGACY_TABLE, spec, table=table))


def _bucket_spec() -> dg.AssetSpec:
    spec = dg.AssetSpec(
        dg.AssetKey([LEGACY, "bucket"]),
        group_name=LEGACY,
        kinds={"s3"},
        tags={"side": LEGACY},
        description="The monolith's bucket of files, read and never written.",
    )
    return translated(SyncAsset(AssetPart.LEGACY_BUCKET, spec))


def history_key(entity: Entity) -> dg.AssetKey:
    """The entity's history, filled by partition."""
    return translated(_history_asset(entity)).key


def history_spec(entity: Entity) -> dg.AssetSpec:
    """The entity's history, with its partitions and what it is made of."""
    sinks = [f"`{sink.to_user_string()}`" for sink in sink_keys(entity).values()]
    files = any(sink.stage is Stage.BEFORE_ROWS for sink in entity.sinks)
    asset = _history_asset(entity)
    spec = asset.spec.replace_attributes(
        deps=legacy_tables(entity) + [bucket_key()] * files,
        kinds={"postgres"},
        description=f"History of {entity.name}: what the monolith held before, brought into {', '.join(sinks)}"
        " by partition. Overlaps freely with the live delta; a second time it writes only what differs.",
        partitions_def=dg.StaticPartitionsDefinition(entity.partitions.names()),
        skippable=True,
    )
    return _as_known(replace(asset, spec=spec), history_key(entity))


def _history_asset(entity: Entity) -> SyncAsset:
    spec = _base(entity, dg.AssetKey(["history", f"{entity.name}_history"]), "history")
    return SyncAsset(AssetPart.HISTORY, spec, entity)


def sink_keys(entity: Entity) -> dict[str, dg.AssetKey]:
    """The asset of each sink the entity has, by its name in a verdict, in the order in which they are written."""
    return {sink.id: _sink_key(entity, sink) for sink in _in_order(entity)}


def _sink_key(entity: Entity, sink: Sink) -> dg.AssetKey:
    return translated(_sink_asset(entity, sink)).key


def _sink_asset(entity: Entity, sink: Sink) -> SyncAsset:
    spec = _base(entity, asset_key(*sink.asset_path(entity.name)), sink.id)
    return SyncAsset(AssetPart.SINK, spec, entity, sink)


def refuse_shared_keys(entities: Iterable[Entity]) -> None:
    """Raise SettingError where two sinks or histories have one key."""
    entities = list(entities)
    known: dict[dg.AssetKey, str] = {}
    assets = [_sink_asset(entity, sink) for entity in entities for sink in _in_order(entity)]
    assets += [_history_asset(entity) for entity in entities]
    for asset in assets:
        key = translated(asset).key
        if key in known:
            raise SettingError(
                f"the {known[key]} and the {asset.described} have the asset key {key.to_user_string()}: give one of"
                f" them another one by a translator ({TRANSLATOR})"
            )
        known[key] = asset.described


def _as_known(asset: SyncAsset, key: dg.AssetKey) -> dg.AssetSpec:
    """The spec of an asset that events know by its key. Raises SettingError where it has another one."""
    spec = translated(asset)
    if spec.key != key:
        raise SettingError(
            f"{TRANSLATOR}: the {asset.described} has two keys, {key.to_user_string()} and"
            f" {spec.key.to_user_string()}: make a key of the part, entity, sink and table alone"
        )
    return spec


def _base(entity: Entity, key: dg.AssetKey, part: str) -> dg.AssetSpec:
    """What asks for no page and no query: a key is wanted for each event."""
    return dg.AssetSpec(key, group_name=entity.name, owners=[entity.owner], tags=tags(entity, part))


def sink_specs(entity: Entity) -> list[dg.AssetSpec]:
    """Files first, then rows that name them, then documents of these rows."""
    return [_spec(entity, sink) for sink in _in_order(entity)]


def column_lineages(entity: Entity) -> dict[dg.AssetKey, dg.TableColumnLineage]:
    """Column by column, where the table's rows come from, and what follows them from the table's."""
    keys = sink_keys(entity)
    table = keys[entity.table.id]
    found = {table: column_lineage(entity, legacy_key)}
    for sink in entity.other_sinks:
        if shared := sink.declared & entity.table.declared:
            found[keys[sink.id]] = dg.TableColumnLineage(
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
    asset = _sink_asset(entity, sink)
    spec = asset.spec.replace_attributes(
        deps=_deps(entity, sink),
        kinds={*page.kinds},
        description=" ".join([entity.description, page.description] if sink is entity.table else [page.description]),
        metadata=shown,
        code_version=str(entity.version),
        skippable=True,
    )
    return _as_known(replace(asset, spec=spec), _sink_key(entity, sink))


def _deps(entity: Entity, sink: Sink) -> list[dg.AssetKey]:
    """What a sink's part of a batch is made of: by its stage, the monolith, or what was written before it."""
    keys, tables = sink_keys(entity), legacy_tables(entity)
    if sink.stage is Stage.BEFORE_ROWS:
        return [*tables, bucket_key()]
    if sink.stage is Stage.AFTER_ROWS:
        return [keys[entity.table.id]]
    return [*tables, *(keys[other.kind] for other in entity.sinks if other.stage is Stage.BEFORE_ROWS)]
