"""Data quality: what is expected of each entity's rows, as checks with a job and a nightly schedule of their own."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import dagster as dg

from assets.lineage import legacy_key, legacy_tables, sink_keys
from assets.schedule import schedule
from checks.expectations import expectation_checks
from checks.suite import NEW, Side, sides
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError

log = logging.getLogger(__name__)

_LONGEST_SECONDS = 4 * 60 * 60


def data_quality(entities: Iterable[Entity], suites: str) -> tuple[dg.Definitions, list[str]]:
    """Checks of all entities by the suites in a package, their job and its schedule; and faults of suites.

    An entity whose suite cannot be used has no expectations until the suite is corrected.
    """
    checks, faults = [], []
    for entity in entities:
        try:
            checks.append(_checks(entity, suites))
        except DeclarationError as error:
            faults.append(str(error))
            log.error("suite not used: %s", error)
    job = dg.define_asset_job(
        "expectations",
        dg.AssetSelection.checks(*checks),
        description="Validate all rows of both sides against what is expected of them. Writes nothing but Data Docs.",
        tags={"dagster/priority": "-10", "dagster/max_runtime": str(_LONGEST_SECONDS)},
        executor_def=dg.in_process_executor,
    )
    nightly = schedule(
        "nightly_expectations", job, "SYNC_EXPECTATIONS_CRON", "0 5 * * *", "A whole validation each night."
    )
    return dg.Definitions(asset_checks=checks, jobs=[job], schedules=[nightly]), faults


def _checks(entity: Entity, suites: str) -> dg.AssetChecksDefinition:
    read = legacy_tables(entity)

    def asset_of(side: Side) -> dg.AssetKey:
        key = sink_keys(entity)["relational"] if side.side == NEW else legacy_key(side.table)
        if side.side != NEW and key not in read:
            raise DeclarationError(f"suite of {entity.name}: its query and changes read no legacy table {side.table!r}")
        return key

    return expectation_checks(sides(entity, suites), asset_of)
