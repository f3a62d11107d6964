"""What may change in the monolith under an outbox that is read: tables, partitions, triggers, columns, other readers.

Nothing of ours runs when a partition is attached, dropped or made, and a new one has no triggers. So whoever reads an
outbox compares once a minute, and at its start, what there is with what there was. Any difference asks for a sweep.
"""

from __future__ import annotations

import datetime as dt
import time
from dataclasses import dataclass, field

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import SettingError
from sync_pipeline.model.faults import guarded
from sync_pipeline.sources.outbox_catalogue import (
    ACTS,
    MEMBERS,
    Events,
    Function,
    functions,
    is_made_by_us,
    locate_outbox,
)
from sync_pipeline.sources.outbox_claim import refuse_readers, refuse_rivals
from sync_pipeline.sources.outbox_columns import Columns, columns_of, reading_faults
from sync_pipeline.sources.outbox_reports import belonging, reports_of
from sync_pipeline.sources.source import Subject

LOOK_SECONDS = 60.0
_SHOWN = 5
# pg_inherits' xmin tells a partition that was detached and attached again from one that stayed
_COVERAGE = f"""
    WITH RECURSIVE wanted (name, function) AS (SELECT * FROM unnest(%(names)s::text[], %(functions)s::text[])),
    roots (r) AS (SELECT DISTINCT to_regclass(name)::oid FROM wanted WHERE to_regclass(name) IS NOT NULL), {MEMBERS},
    seen AS (
        SELECT w.name, w.function, m.member,
               (SELECT string_agg(concat_ws('.', i.inhparent, i.xmin, i.inhdetachpending), ',' ORDER BY i.inhparent)
                FROM pg_inherits i WHERE i.inhrelid = m.member) AS links,
               w.function = '' OR 4 = (
                   SELECT count(DISTINCT t.tgtype) FROM pg_trigger t
                   WHERE t.tgrelid = m.member AND t.tgfoid = to_regprocedure(w.function || '()')
                     AND t.tgenabled IN ('O', 'A') AND t.tgqual IS NULL AND t.tgtype = ANY(%(acts)s)) AS covered
        FROM wanted w LEFT JOIN members m ON m.root = to_regclass(w.name)::oid)
    SELECT md5(concat(to_regclass(%(outbox)s)::oid, string_agg(
               concat_ws(' ', name, function, member, links, covered), E'\\n' ORDER BY name, function, member))),
           array_agg(DISTINCT coalesce(member::regclass::text, name)) FILTER (WHERE NOT covered), clock_timestamp()
    FROM seen
"""


@dataclass
class Watch:
    """Compares what an outbox's events depend on with what it was when `digest` was taken."""

    subject: Subject
    events: Events
    digest: str | None
    blind: str | None = None  # why the source misses changes, until that is mended
    gap_at: dt.datetime | None = None  # what was committed before it may have been missed
    columns: Columns = field(default_factory=dict)
    located: str = ""
    _next_check: float = 0.0
    _shared: bool = False

    def check(self) -> None:
        """Compare, when a minute is over. Raises SettingError for an outbox that cannot be read, or is another's."""
        if time.monotonic() < self._next_check:
            return
        with self.subject.stores.legacy() as cursor:
            found = self._examine(cursor)
            digest, uncovered, now = self._cover(cursor, found)
        self.blind = _blind(self.subject.entity, uncovered)
        if (self.digest != digest or self._shared) and guarded(62):
            self.gap_at = now
        self._shared = False
        self.digest = digest
        self._next_check = time.monotonic() + LOOK_SECONDS

    def suspect(self, what: str) -> None:
        """Report another reader until the next look, which then asks for a sweep."""
        self.blind = f"{what}: what it took before we saw it waits for the sweep. One reader alone may acknowledge"
        self._shared = True

    def _examine(self, cursor: Cursor) -> list[Function]:
        """Look at the outbox itself and at who acknowledges its events; returns all functions of ours."""
        entity, ledger = self.subject.entity, self.subject.stores.ledger_id()
        self.located, there = locate_outbox(cursor, self.events.table)
        if not there:
            raise SettingError(
                f"entity {entity}: there is no table {self.events.table} in the monolith:"
                f" sync-pipeline outbox install {entity}"
            )
        self.columns = columns_of(cursor, self.located)
        for what, remedy in reading_faults(self.located, self.columns):
            raise SettingError(f"entity {entity}: {what}: {remedy}")
        found = functions(cursor)
        refuse_rivals(self.subject, self.events, self.located, found, ledger)
        refuse_readers(cursor, self.subject, self.located, self.events.aggregate, ledger)
        return found

    def _cover(self, cursor: Cursor, found: list[Function]) -> tuple[str, list[str], dt.datetime]:
        """A digest of tables and triggers, tables that lack a trigger, and when that was so."""
        names = [(table.name, "") for table in dict.fromkeys(self.subject.tables)]
        faults = []
        entity, ledger = self.subject.entity, self.subject.stores.ledger_id()
        if is_made_by_us(cursor, self.located) or belonging(found, entity, self.events, self.located, ledger):
            reports = reports_of(cursor, self.subject, self.events, self.located)
            names = [(report.tracked.table.name, report.name) for report in reports]
            faults = [report.table for report in reports if report.fault]
        cursor.execute(
            _COVERAGE,
            {
                "names": [name for name, _ in names],
                "functions": [function for _, function in names],
                "acts": [*ACTS.values()],
                "outbox": self.located,
            },
        )
        digest, uncovered, now = cursor.fetchone()
        return digest, sorted({*faults, *(uncovered or ())}), now


def _blind(entity: str, uncovered: list[str]) -> str | None:
    if not uncovered:
        return None
    more = f" and {len(uncovered) - _SHOWN} more" if len(uncovered) > _SHOWN else ""
    return (
        f"no triggers report all changes of {', '.join(uncovered[:_SHOWN])}{more}: they wait for the sweep;"
        f" sync-pipeline check {entity} names what is missing, outbox install {entity} makes it"
    )
