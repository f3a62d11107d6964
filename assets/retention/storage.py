"""What Dagster's interface does not offer: statements on the tables of its storage, each of which stands by itself."""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import dagster as dg
import sqlalchemy as sa
from dagster._core.execution.backfill import BULK_ACTION_TERMINAL_STATUSES
from dagster._core.instance.utils import RUNLESS_RUN_ID
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecordStatus as Status
from dagster._core.storage.event_log.schema import AssetCheckExecutionsTable, AssetEventTagsTable
from dagster._core.storage.event_log.schema import SqlEventLogStorageTable as EventsTable
from dagster._core.storage.event_log.sql_event_log import SqlEventLogStorage
from dagster._core.storage.runs.schema import BackfillTagsTable, BulkActionsTable, RunsTable
from dagster._core.storage.runs.sql_run_storage import SqlRunStorage

from sync_pipeline.errors import SettingError

_EVENTS, _TAGS, _CHECKS = EventsTable.c, AssetEventTagsTable.c, AssetCheckExecutionsTable.c
_BACKFILLS = BulkActionsTable.c
_PAGE = 500
_LASTING = [
    dg.DagsterEventType.ASSET_MATERIALIZATION.value,
    dg.DagsterEventType.ASSET_OBSERVATION.value,
    dg.DagsterEventType.FRESHNESS_STATE_CHANGE.value,
]
_EVALUATION = dg.DagsterEventType.ASSET_CHECK_EVALUATION.value
_VERDICTS = [Status.SUCCEEDED.value, Status.FAILED.value]


@dataclass(frozen=True)
class Storage:
    """Events and runs in PostgreSQL or SQLite. Times are in UTC."""

    events: SqlEventLogStorage
    runs: SqlRunStorage

    @classmethod
    def of(cls, instance: dg.DagsterInstance) -> Storage:
        """Raises SettingError for a storage that is no SQL database."""
        events, runs = instance.event_log_storage, instance.run_storage
        if not isinstance(events, SqlEventLogStorage) or not isinstance(runs, SqlRunStorage):
            raise SettingError("retention needs Dagster's storage in PostgreSQL or SQLite: see dagster.yaml")
        return cls(events, runs)

    def newest_asset_events(self) -> list[int]:
        """Ids of what pages show as the present state: the newest of each kind, asset and partition."""
        newest = sa.select(sa.func.max(_EVENTS.id)).where(_EVENTS.dagster_event_type.in_(_LASTING))
        newest = newest.where(_EVENTS.asset_key.is_not(None))
        with self.events.index_connection() as connection:
            return _column(
                connection.execute(newest.group_by(_EVENTS.asset_key, _EVENTS.dagster_event_type, _EVENTS.partition))
            )

    def runs_of(self, events: Collection[int]) -> set[str]:
        """The runs that wrote these events."""
        with self.events.index_connection() as connection:
            found = (connection.execute(sa.select(_EVENTS.run_id).where(_EVENTS.id.in_(ids))) for ids in _pages(events))
            return {run for page in found for run in _column(page)}

    def forget_events_without_run(
        self, before: dt.datetime, but: Collection[int], assets: Collection[dg.AssetKey] | None = None
    ) -> int:
        """Remove old events that no run wrote, or whose run is gone, and tags whose event is gone; how many events.

        Of assets only those of `assets` (None: of all): another code location decides about its own.
        """
        ours = sa.true() if assets is None else sa.or_(_EVENTS.asset_key.is_(None), _is_one(_EVENTS.asset_key, assets))
        # the results of checks bear no asset; forget_told_checks knows whose they are
        is_of_sensor = sa.and_(_EVENTS.dagster_event_type == _EVALUATION, _EVENTS.run_id == RUNLESS_RUN_ID)
        old = sa.and_(_EVENTS.timestamp < _naive(before), ours, sa.true() if assets is None else ~is_of_sensor)
        with self.events.index_connection() as connection:
            runs = set(_column(connection.execute(sa.select(_EVENTS.run_id).where(old).distinct())))
            removed = 0
            for page in _pages(runs - self._existing(runs)):
                gone = EventsTable.delete().where(old, _EVENTS.run_id.in_(page), _EVENTS.id.not_in(but))
                removed += connection.execute(gone).rowcount
            event = sa.select(_EVENTS.id).where(_EVENTS.id == _TAGS.event_id)
            connection.execute(
                AssetEventTagsTable.delete().where(_TAGS.event_timestamp < _naive(before), ~event.exists())
            )
        return removed

    def forget_sensor_checks(self, before: dt.datetime, assets: Collection[dg.AssetKey] | None = None) -> int:
        """Remove events of sensors that told a check's result of `assets`: the result has a table of its own."""
        of_them = sa.select(_CHECKS.evaluation_event_storage_id).where(_is_one(_CHECKS.asset_key, assets))
        gone = EventsTable.delete().where(
            _EVENTS.dagster_event_type == _EVALUATION,
            _EVENTS.run_id == RUNLESS_RUN_ID,
            _EVENTS.timestamp < _naive(before),
            sa.true() if assets is None else _EVENTS.id.in_(of_them),
        )
        with self.events.index_connection() as connection:
            return int(connection.execute(gone).rowcount)

    def forget_checks(
        self, before: dt.datetime, of_sensors_before: dt.datetime, assets: Collection[dg.AssetKey] | None = None
    ) -> int:
        """Remove old results of `assets`, those that sensors told sooner; of each check and partition the newest stays,
        and the newest that is a verdict; how many.
        """
        newest = sa.select(sa.func.max(_CHECKS.id)).group_by(_CHECKS.asset_key, _CHECKS.check_name, _CHECKS.partition)
        verdicts = newest.where(_CHECKS.execution_status.in_(_VERDICTS))
        at, is_of_sensor = _CHECKS.evaluation_event_timestamp, _CHECKS.run_id == RUNLESS_RUN_ID
        old = sa.or_(at < _naive(before), sa.and_(is_of_sensor, at < _naive(of_sensors_before)))
        ours = _is_one(_CHECKS.asset_key, assets)
        gone = AssetCheckExecutionsTable.delete().where(
            old, ours, _CHECKS.id.not_in(newest), _CHECKS.id.not_in(verdicts)
        )
        with self.events.index_connection() as connection:
            return int(connection.execute(gone).rowcount)

    def old_backfills(self, before: dt.datetime, keep: int, assets: Collection[dg.AssetKey] | None = None) -> list[str]:
        """Backfills of `assets` that ended, of which no run is left, but the `keep` newest."""
        ended = [status.value for status in BULK_ACTION_TERMINAL_STATUSES]
        newest = sa.select(_BACKFILLS.key).order_by(_BACKFILLS.id.desc()).limit(keep)
        a_run = sa.select(RunsTable.c.id).where(RunsTable.c.backfill_id == _BACKFILLS.key)
        old = sa.and_(_BACKFILLS.status.in_(ended), _BACKFILLS.timestamp < _naive(before))
        with self.runs.connect() as connection:
            found = connection.execute(sa.select(_BACKFILLS.key).where(old, ~a_run.exists()))
            gone = sorted(set(_column(found)) - set(_column(connection.execute(newest))))
        return gone if assets is None else [name for name in gone if self._is_of(name, assets)]

    def _is_of(self, backfill: str, assets: Collection[dg.AssetKey]) -> bool:
        """Whether a backfill fills one of these assets."""
        found = self.runs.get_backfill(backfill)
        return bool(found and not {*(found.asset_selection or ())}.isdisjoint(assets))

    def forget_backfills(self, backfills: Collection[str]) -> None:
        """Remove them from the list of backfills."""
        with self.runs.connect() as connection:
            for page in _pages(backfills):
                connection.execute(BackfillTagsTable.delete().where(BackfillTagsTable.c.backfill_id.in_(page)))
                connection.execute(BulkActionsTable.delete().where(_BACKFILLS.key.in_(page)))

    def _existing(self, runs: Collection[str]) -> set[str]:
        return {run for page in _pages(runs) for run in self.runs.get_run_ids(dg.RunsFilter(run_ids=page))}


def _is_one(column: Any, assets: Collection[dg.AssetKey] | None) -> Any:
    """Whether a column names one of these assets, or any at all."""
    return sa.true() if assets is None else column.in_([key.to_string() for key in assets])


def _column(result: sa.CursorResult[Any]) -> list[Any]:
    return [row[0] for row in result]


def _pages(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Sorted, so many at a time as a statement takes with ease."""
    ordered = sorted(items)
    for first in range(0, len(ordered), _PAGE):
        yield ordered[first : first + _PAGE]


def _naive(at: dt.datetime) -> dt.datetime:
    """As Dagster writes it."""
    return at.astimezone(dt.UTC).replace(tzinfo=None)
