"""What a stretch of real work left in Dagster's storage, written again as often as wanted, later and under other ids.

Rows are copied as they are, but for run ids and times, in columns as in JSON: so many are not written one by one in
minutes. A run of `sync` lasts longer than the recorded one: it tells as often as it would.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import re
import shutil
import uuid
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

from psycopg2.extensions import connection as Connection  # noqa: N812
from psycopg2.extras import RealDictCursor, execute_values

_TIME = re.compile(r'(timestamp": )(\d+\.\d+)')
_OBSERVATION = "ASSET_OBSERVATION"
_PAGE = 1_000
_TELLS_APART_SECONDS = 10.0

Row = dict[str, Any]
Alter = Callable[[Row], Row]


class Recording:
    """Templates, by what they are of; times are in seconds since the epoch."""

    def __init__(self, connection: Connection, home: Path, tell_seconds: float, sync_seconds: float) -> None:
        self._connection = connection
        self._storage = home / "storage"
        self._tell_seconds, self._sync_seconds = tell_seconds, sync_seconds
        self._runs = {row["pipeline_name"]: row for row in self._read("runs", "status = 'SUCCESS' ORDER BY id")}
        self._rows = {job: self._rows_of(run["run_id"]) for job, run in self._runs.items()}
        newest = "id IN (SELECT max(id) FROM asset_check_executions WHERE run_id = '' GROUP BY asset_key, check_name)"
        self._told = self._read("asset_check_executions", newest)
        self._told_events = self._read("event_logs", f"id = ANY('{{{_ids(self._told)}}}')")
        self._ticks = {
            (_name(row), row["status"]): row for row in self._read("job_ticks", "status IN ('SKIPPED', 'SUCCESS')")
        }
        self.instigators = {name: (row["job_origin_id"], row["selector_id"]) for (name, _), row in self._ticks.items()}

    def run(self, job: str, at: float) -> str:
        """One more run; its id."""
        run, new = self._runs[job], str(uuid.uuid4())
        shift, longer = at - _seconds(run["create_timestamp"]), 0.0
        alter = partial(_altered, ids={run["run_id"]: new})
        rows = {table: [alter(row, shift=shift) for row in found] for table, found in self._rows[job].items()}
        if job == "sync":
            longer = self._sync_seconds - (run["end_time"] - run["start_time"])
            rows["event_logs"] = self._lengthened(self._rows[job]["event_logs"], alter, shift, longer)
        ended = alter(run, shift=shift + longer)
        made = alter(run, shift=shift) | {name: ended[name] for name in ("end_time", "update_timestamp")}
        for table, found in {"runs": [made], **rows}.items():
            self._write(table, found)
        self._copy_logs(run["run_id"], new, len(rows["event_logs"]) / len(self._rows[job]["event_logs"]))
        return new

    def tell_checks(self, at: float) -> None:
        """What a sensor tells of where the live delta stands."""
        for table, rows in (("event_logs", self._told_events), ("asset_check_executions", self._told)):
            self._write(table, [_altered(row, shift=at - _of(row)) for row in rows])

    def tick(self, name: str, status: str, times: Iterable[float], like: str = "") -> None:
        """Ticks of a sensor, or of a schedule `like` one: each is written when it starts and again when it ends."""
        row = self._ticks[like or name, status]
        words = (
            {row[id_]: _digest(name + id_) for id_ in ("job_origin_id", "selector_id")} | {like: name} if like else {}
        )
        self.instigators.setdefault(name, (words.get(row["job_origin_id"]), words.get(row["selector_id"])))
        ticks = [_altered(row, words, at - _seconds(row["timestamp"])) | {"status": "STARTED"} for at in times]
        self._write("job_ticks", ticks)
        with self._connection.cursor() as cursor:
            ended = "UPDATE job_ticks SET status = %s WHERE status = 'STARTED' AND job_origin_id = %s"
            cursor.execute(ended, (status, self.instigators[name][0]))

    def _lengthened(self, events: list[Row], alter: Callable[..., Row], shift: float, longer: float) -> list[Row]:
        tells: list[list[Row]] = []
        for row in (event for event in events if event["dagster_event_type"] == _OBSERVATION):
            if not tells or _of(row) - _of(tells[-1][-1]) > _TELLS_APART_SECONDS:
                tells.append([])
            tells[-1].append(row)
        first, end = _of(tells[0][0]), _of(tells[-1][0]) + longer
        head = [alter(row, shift=shift) for row in events if _of(row) < first]
        tail = [alter(row, shift=shift + longer) for row in events if _of(row) > _of(tells[-1][-1])]
        times = [first + n * self._tell_seconds for n in range(1, int((end - first) // self._tell_seconds) + 1)] + [end]
        told = [
            alter(row, shift=shift + at - _of(tell[0]))
            for n, at in enumerate(times)
            for tell in [tells[n % len(tells)]]
            for row in tell
        ]
        return head + told + tail

    def _rows_of(self, run: str) -> dict[str, list[Row]]:
        tables = ("run_tags", "event_logs", "asset_check_executions")
        return {table: self._read(table, f"run_id = '{run}' ORDER BY id") for table in tables}

    def _copy_logs(self, old: str, new: str, more: float) -> None:
        for file in (self._storage / old).rglob("*.*"):
            copy = self._storage / new / file.relative_to(self._storage / old)
            copy.parent.mkdir(parents=True, exist_ok=True)
            text = file.read_bytes()
            copy.write_bytes((text * (int(more) + 1))[: int(len(text) * more)])

    def _read(self, table: str, where: str) -> list[Row]:
        with self._connection.cursor(cursor_factory=RealDictCursor) as cursor:
            cursor.execute(f"SELECT * FROM {table} WHERE {where}")
            return [dict(row) for row in cursor.fetchall()]

    def _write(self, table: str, rows: list[Row]) -> None:
        if not rows:
            return
        columns = [name for name in rows[0] if name != "id"]
        values = [tuple(row[name] for name in columns) for row in rows]
        with self._connection.cursor() as cursor:
            insert = f"INSERT INTO {table} ({', '.join(columns)}) VALUES %s"
            execute_values(cursor, insert, values, page_size=_PAGE)


def copy_data_docs(folder: Path, run: str, days: float) -> None:
    """One more validation of each suite, so many days after the recorded one."""
    recorded = sorted(folder.glob("results/*/*/*/*"), key=lambda found: found.name)
    first = recorded[0].parent.name
    for found in [*folder.glob(f"results/*/*/{first}/*"), *folder.glob(f"site/validations/*/*/{first}/*")]:
        at = dt.datetime.strptime(found.name, "%Y%m%dT%H%M%S.%fZ") + dt.timedelta(days=days)
        shutil.copytree(found, found.parents[1] / run / at.strftime("%Y%m%dT%H%M%S.%fZ"))


def _altered(row: Row, ids: dict[str, str] | None = None, shift: float = 0.0) -> Row:
    return {name: _value(value, ids or {}, shift) for name, value in row.items()}


def _value(value: Any, words: dict[str, str], shift: float) -> Any:
    if isinstance(value, dt.datetime):
        return value + dt.timedelta(seconds=shift)
    if isinstance(value, float):
        return value + shift
    if isinstance(value, str):
        for old, new in words.items():
            value = value.replace(old, new)
        return _TIME.sub(lambda found: f"{found[1]}{float(found[2]) + shift}", value) if value[:1] == "{" else value
    return value


def _of(row: Row) -> float:
    """When an event or a check's result was told."""
    return _seconds(row.get("timestamp") or row["evaluation_event_timestamp"])


def _seconds(at: dt.datetime) -> float:
    return at.replace(tzinfo=dt.UTC).timestamp()


def _ids(rows: list[Row]) -> str:
    return ",".join(str(row["evaluation_event_storage_id"]) for row in rows)


def _name(row: Row) -> str:
    return re.search(r'"job_name": "(\w+)"', row["tick_body"])[1]  # type: ignore[index]


def _digest(text: str) -> str:
    return hashlib.sha1(text.encode()).hexdigest()
