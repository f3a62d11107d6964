"""How the pipeline's assets appear in Dagster: keys, groups, owners, tags.

To have them otherwise, inherit `SyncTranslator` and name the class in SYNC_TRANSLATOR, as `MODULE:CLASS`. For example,
to have each new table under the key that a dbt project gives it:

    class OurTranslator(SyncTranslator):
        def get_asset_spec(self, asset):
            spec = super().get_asset_spec(asset)
            if asset.part is AssetPart.SINK and asset.sink is asset.entity.table:
                return spec.replace_attributes(key=["warehouse", *spec.key.path])
            return spec
"""

from __future__ import annotations

import importlib
import os
from dataclasses import dataclass
from enum import Enum
from functools import cache

import dagster as dg

from sync_pipeline.entity import Entity
from sync_pipeline.errors import SettingError
from sync_pipeline.sinks.sink import Sink

TRANSLATOR = "SYNC_TRANSLATOR"


class AssetPart(Enum):
    """What an asset stands for."""

    SINK = "sink"  # a table, an index or a prefix of the new bucket, kept in step by the live delta
    HISTORY = "history"  # what the monolith held before, filled by partition
    LEGACY_TABLE = "legacy table"
    LEGACY_BUCKET = "legacy bucket"


@dataclass(frozen=True)
class SyncAsset:
    """An asset, and how it appears by default.

    `entity` is None for what belongs to the monolith, `sink` is None for all but sinks, `table` is the monolith's table
    as the entity file names it. Some calls want to know the key alone: then `spec` has no description, schema or deps.
    """

    part: AssetPart
    spec: dg.AssetSpec
    entity: Entity | None = None
    sink: Sink | None = None
    table: str = ""

    @property
    def described(self) -> str:
        """How messages name it."""
        owner = self.entity.name if self.entity else self.table
        return " ".join(filter(None, (self.part.value, self.sink.id if self.sink else "", owner)))


class SyncTranslator:
    """Says how assets appear. The default: as the pipeline describes them."""

    def get_asset_spec(self, asset: SyncAsset) -> dg.AssetSpec:
        """Returns the spec that Dagster is to show; its key must follow from the part, entity, sink and table alone.

        Deps and tags may be added; none of the pipeline's own is taken away, nor are its partitions.
        """
        return asset.spec


def translated(asset: SyncAsset) -> dg.AssetSpec:
    """An asset's spec as the deployment's translator has it.

    Raises SettingError where SYNC_TRANSLATOR names no such class, or its answer is no spec.
    """
    default = asset.spec
    spec = _translator(os.environ.get(TRANSLATOR, "")).get_asset_spec(asset)
    if not isinstance(spec, dg.AssetSpec):
        raise SettingError(
            f"{TRANSLATOR}: get_asset_spec returns {type(spec).__name__} for the {asset.described}, and must return an"
            " AssetSpec: begin with super().get_asset_spec(asset)"
        )
    return spec.replace_attributes(
        deps=list({dep.asset_key: dep for dep in (*default.deps, *spec.deps)}.values()),
        tags={**default.tags, **spec.tags},
        partitions_def=default.partitions_def,
        skippable=default.skippable,
    )


@cache
def _translator(name: str) -> SyncTranslator:
    if not name:
        return SyncTranslator()
    module, _, attribute = name.partition(":")
    if not module or not attribute:
        raise SettingError(
            f"{TRANSLATOR}={name}: name a class as MODULE:CLASS, such as assets.translation:OurTranslator"
        )
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise SettingError(f"{TRANSLATOR}={name}: {error}") from error
    if not (isinstance(found, type) and issubclass(found, SyncTranslator)):
        raise SettingError(
            f"{TRANSLATOR}={name}: {attribute} must be a class that inherits assets.translator.SyncTranslator"
        )
    return found()
