"""Where the live delta stands, as checks: how far behind, and what is owed. One look at the ledger, so it is cheap."""

from collections.abc import Iterator
from typing import Any, cast

import dagster as dg

from checks.dead_letter_pages import dead_letter_page
from checks.stores_resource import OpensStores
from sync_pipeline.entity import Entity
from sync_pipeline.ledger import queue_reads
from sync_pipeline.ledger.queue_reads import QueueCause
from sync_pipeline.model import reasons
from sync_pipeline.operate.status import status_of
from sync_pipeline.queue import dead_letters, due
from sync_pipeline.queue.parking import NOT_UNDONE
from sync_pipeline.stores.stores import Stores

FRESHNESS, DUE, DEAD_LETTERS = "freshness", "due", "dead_letters"
_CAUSES = 50
_COLUMNS = ("reason", "step", "error", "keys", "attempts", "first_at", "next_at", "message")


def health_check(entity: Entity, key: dg.AssetKey) -> dg.AssetChecksDefinition:
    """Three checks on the asset of the entity's table."""
    specs = [
        dg.AssetCheckSpec(FRESHNESS, asset=key, description="How far the new side is behind the monolith."),
        dg.AssetCheckSpec(DUE, asset=key, description="What is owed for too long."),
        dg.AssetCheckSpec(DEAD_LETTERS, asset=key, description="Rows that were refused: why, and what to do."),
    ]

    @dg.multi_asset_check(specs=specs, name=f"health_{entity.name}", required_resource_keys={"engine"})
    def look(context: dg.AssetCheckExecutionContext) -> Iterator[dg.AssetCheckResult]:
        with cast(OpensStores, context.resources.engine).stores() as stores:
            yield from health_results(stores, entity, key)

    return look


def health_results(stores: Stores, entity: Entity, key: dg.AssetKey) -> Iterator[dg.AssetCheckResult]:
    """All results, from the ledger as it is now. Raises UnreachableError."""
    status = status_of(stores, entity)
    yield _freshness(status, stores.settings.lag_limit_seconds, key)
    if status:
        with stores.target() as cursor:
            overdue = queue_reads.keys_overdue(cursor, entity.name, stores.settings.due_limit_seconds)
            causes = due.overview(cursor, due.QueueFilter(entity.name), 0).causes
            refused = dead_letters.overview(cursor, dead_letters.DeadLetterFilter(entity.name), 0)
    else:
        overdue, causes, refused = 0, [], dead_letters.DeadLetterOverview()
    yield _due(status.get("due", {}), overdue, causes, key)
    yield _dead_letters(entity.name, refused, key)


def _freshness(status: dict[str, Any], limit: float, key: dg.AssetKey) -> dg.AssetCheckResult:
    behind = status.get("lag_seconds")
    if behind is None:
        return _result(FRESHNESS, key, dg.AssetCheckSeverity.WARN, "never followed: switch the sensor keep_live on", {})
    alerts = status["alerts"]
    message = f"{behind:.1f} s behind"
    severity = None
    if behind > limit:
        severity, message = dg.AssetCheckSeverity.ERROR, f"{message}, more than {limit:g} s; followed by {_who(status)}"
    elif alerts:
        severity, message = dg.AssetCheckSeverity.WARN, f"{message}; {len(alerts)} alerts"
    metadata: dict[str, Any] = {"seconds behind": round(behind, 2)}
    if alerts:
        metadata["alerts"] = dg.MetadataValue.md("\n".join(f"- {alert}" for alert in alerts))
    return _result(FRESHNESS, key, severity, message, metadata)


def _who(status: dict[str, Any]) -> str:
    return str(status["owner"]) if status["followed"] else "nobody"


def _due(owed: dict[str, int], overdue: int, causes: list[QueueCause], key: dg.AssetKey) -> dg.AssetCheckResult:
    waiting = sum(int(keys) for reason, keys in owed.items() if reason not in reasons.DEAD_LETTERS)
    severity = dg.AssetCheckSeverity.ERROR if overdue else None
    message = f"{waiting} keys wait, {overdue} of them for too long"
    metadata: dict[str, Any] = {"waiting": waiting, "overdue": overdue}
    if causes:
        metadata["causes"] = dg.MetadataValue.table([dg.TableRecord(_cells(cause)) for cause in causes[:_CAUSES]])
    return _result(DUE, key, severity, message, metadata)


def _dead_letters(entity: str, found: dead_letters.DeadLetterOverview, key: dg.AssetKey) -> dg.AssetCheckResult:
    parked, discarded = found.parked, found.discarded
    torn = sum(cause.rows for cause in found.causes if cause.error == NOT_UNDONE)
    message = f"{parked} rows are parked" + (f", {discarded} are discarded" if discarded else "")
    message += f"; {torn} rows could not be put back" if torn else ""
    severity = dg.AssetCheckSeverity.ERROR if torn else dg.AssetCheckSeverity.WARN
    metadata: dict[str, Any] = {"parked": parked, "discarded": discarded}
    if found.causes:
        metadata["causes"] = dg.MetadataValue.md(dead_letter_page(entity, found.causes))
    return _result(DEAD_LETTERS, key, severity if parked or torn else None, message, metadata)


def _cells(cause: QueueCause) -> dict[str, str | int]:
    return {name: value if isinstance(value := getattr(cause, name), int) else str(value or "") for name in _COLUMNS}


def _result(
    name: str, key: dg.AssetKey, severity: dg.AssetCheckSeverity | None, message: str, metadata: dict[str, Any]
) -> dg.AssetCheckResult:
    """`severity` is None when all is well."""
    return dg.AssetCheckResult(
        passed=severity is None,
        asset_key=key,
        check_name=name,
        severity=severity or dg.AssetCheckSeverity.ERROR,
        description=message,
        metadata=metadata,
    )
