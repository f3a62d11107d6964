"""The composition root: everything Dagster shows, made from the entity files. Loads with no server reachable."""

from __future__ import annotations

import logging
import os
from functools import partial

import dagster as dg

from assets.automation import automation
from assets.data_quality import data_quality
from assets.history import history_asset
from assets.lineage import legacy_specs, refuse_shared_keys, sink_keys
from assets.live import live_asset
from assets.resources import Engine
from assets.source import CODE_URL, linked
from checks.entity_files import entity_files_asset, entity_files_check, entity_files_result
from checks.health import health_check
from checks.reconciliation import reconciliation_check
from sync_pipeline.entities.files import read_entity_files

log = logging.getLogger(__name__)


@dg.definitions
def definitions() -> dg.Definitions:
    """Assets, checks, jobs, the sensor and schedules of all entities in SYNC_ENTITIES, by the suites in SYNC_SUITES."""
    package = os.environ.get("SYNC_ENTITIES") or "assets.entities"
    files = read_entity_files(package)
    for fault in files.faults:
        log.error("entity file not used: %s", fault)
    entities = files.entities
    refuse_shared_keys(entities.values())
    link = linked(files.modules, os.environ.get(CODE_URL, ""))
    quality, suites = data_quality(entities.values(), os.environ.get("SYNC_SUITES") or "checks.suites")
    live = live_asset(entities).map_asset_specs(link)
    histories = [history_asset(entity).map_asset_specs(link) for entity in entities.values()]
    comparisons = [reconciliation_check(entity, sink_keys(entity)) for entity in entities.values()]
    looks = [health_check(entity, sink_keys(entity)["relational"]) for entity in entities.values()]
    return dg.Definitions.merge(
        dg.Definitions(
            assets=[*legacy_specs(entities.values()), entity_files_asset(package), live, *histories],
            asset_checks=[*comparisons, *looks, entity_files_check(package, entities, suites)],
            resources={"engine": Engine()},
            executor=dg.in_process_executor,
        ),
        quality,
        automation(
            entities,
            dg.AssetSelection.assets(live).without_checks(),
            comparisons,
            partial(entity_files_result, package, entities, suites),
        ),
    )
