"""Repair: a plan of what is to be done about each finding, and carrying it out; nothing else is touched.

What neither the monolith nor the ledger accounts for is deleted only where the place is the entity's alone. A table
that held rows before the entity came, or a prefix with files of another program, may hold what belongs to another:
repair leaves that, and says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import pyarrow as pa

from sync_pipeline.batch.order import Order, Outcome
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.visibility import check_visibility
from sync_pipeline.ledger.claims import is_ours_alone
from sync_pipeline.ledger.media import abandon, rows_naming
from sync_pipeline.model.findings import KNOWN, Finding, FindingKind
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.run.garbage import collect
from sync_pipeline.sinks.table import tables_of

# the cause of its batches, in the log
CAUSE = "repair"
_CHUNK = 2_000
# of a plan, in JSON
_SAMPLES = 100
_SHOWN = ("place", "key", "action", "reason")
_NOT_OURS = "the ledger does not know it, and {} held something before entity {} came"


class Action(StrEnum):
    """What repair does about a finding."""

    WRITE = "write"  # row and document, as the monolith has them now
    DELETE = "delete"
    COPY = "copy"  # the file anew, and the rows that name it with it
    LEAVE = "leave"


@dataclass(frozen=True, order=True)
class Step:
    """One thing that repair does, or leaves: in which place, to which key, and why."""

    place: str
    key: str
    action: Action
    reason: str
    sink: str = ""
    kind: str = ""


def plan(context: EntityContext, findings: Iterable[Finding]) -> list[Step]:
    """What repair would do about a reconciliation's findings; unknown ones need a look first, and are left out."""
    shown = [finding for finding in findings if finding.kind != FindingKind.UNKNOWN]
    extra = [finding for finding in shown if finding.kind == FindingKind.EXTRA]
    left = _not_ours(context, extra)
    return sorted(_step(context, finding, left) for finding in shown)


def plan_keys(context: EntityContext, keys: pa.Table) -> list[Step]:
    """What repair would do about keys that a person names, drifting or not."""
    there = set(context.origin.key.texts(context.origin.by_keys(keys).table).to_pylist())
    texts = context.origin.key.texts(keys).to_pylist()
    table = context.entity.table.id
    absent = [Finding(table, FindingKind.EXTRA, text) for text in texts if text not in there]
    left = _not_ours(context, absent)
    named = "asked for by its key"
    steps = [Step(_place(context, table), text, Action.WRITE, named, table) for text in texts]
    return [_left(context, step, left) if (step.sink, step.key) in left else step for step in steps]


def repair(context: EntityContext, findings: Iterable[Finding]) -> list[Outcome]:
    """Mend what a reconciliation found. Findings that are pending, discarded or unknown are left alone.

    Raises HiddenRowsError where the monolith may hide rows that would be deleted for it.
    """
    check_visibility(context.entity, context.stores)
    return carry_out(context, plan(context, findings))


def carry_out(context: EntityContext, steps: Iterable[Step]) -> list[Outcome]:
    """Do what a plan says. Raises as `sync_keys` does."""
    todo = [step for step in steps if step.action is not Action.LEAVE]
    files = {sink.id for sink in context.entity.placing_sinks}
    _remove_files(context, [step.key for step in todo if step.sink in files and step.action is Action.DELETE])
    objects = [step for step in todo if step.sink not in files]
    foreign: set[str] = set()
    for sink in context.entity.outer_sinks:
        own = [step.key for step in objects if step.sink == sink.id and not context.origin.key.is_text(step.key)]
        if own:
            sink.delete_foreign(context.of_sinks, own)
        foreign.update(own)
    keys = context.origin.key.parse({step.key for step in objects} - foreign)
    keys = pa.concat_tables([keys, _renewed(context, [step for step in todo if step.action is Action.COPY])])
    keys = keys.group_by(keys.column_names).aggregate([])
    chunks = (keys.slice(first, _CHUNK) for first in range(0, keys.num_rows, _CHUNK))
    return [sync_keys(context, chunk, Order(force=True, cause=CAUSE)) for chunk in chunks]


def count(steps: Iterable[Step]) -> dict[tuple[str, str], int]:
    """How many steps there are, by place and action."""
    return dict(sorted(Counter((step.place, step.action.value) for step in steps).items()))


def as_report(steps: list[Step]) -> dict[str, Any]:
    """A plan for JSON: counts by place and action, and the first steps."""
    counts = [{"place": place, "action": action, "count": n} for (place, action), n in count(steps).items()]
    shown = [{name: getattr(step, name) for name in _SHOWN} for step in steps[:_SAMPLES]]
    return {"counts": counts, "steps": shown}


def _step(context: EntityContext, finding: Finding, left: Mapping[tuple[str, str], str]) -> Step:
    message = f"{finding.kind}: {finding.message}" if finding.message else finding.kind
    is_file = finding.sink in {sink.id for sink in context.entity.placing_sinks}
    action = Action.DELETE if finding.kind == FindingKind.EXTRA else Action.COPY if is_file else Action.WRITE
    tables = {table.id for table in tables_of(context.entity.sinks)}
    if finding.kind in KNOWN or (finding.sink in tables and not context.origin.key.is_text(finding.key)):
        action = Action.LEAVE  # a row that cannot be named cannot be written either
    step = Step(_place(context, finding.sink), finding.key, action, message, finding.sink, finding.kind)
    return _left(context, step, left) if (finding.sink, finding.key) in left else step


def _left(context: EntityContext, step: Step, left: Mapping[tuple[str, str], str]) -> Step:
    why = _NOT_OURS.format(left[step.sink, step.key], context.entity.name)
    return Step(step.place, step.key, Action.LEAVE, why, step.sink, step.kind)


def _not_ours(context: EntityContext, extra: list[Finding]) -> dict[tuple[str, str], str]:
    """Those of the extra things (sink and key) that may belong to another, with the place that they are in.

    A row's document and the row itself are deleted together, so that one that is left keeps the other.
    """
    alone = _alone(context)
    files, table = {sink.id for sink in context.entity.placing_sinks}, context.entity.table.id
    keys = {f.key for f in extra if f.sink not in files and context.origin.key.is_text(f.key)}
    known = _known(context, keys)
    left = {
        (finding.sink, finding.key): _place(context, finding.sink)
        for finding in extra
        if not alone[finding.sink] and finding.key not in known
    }
    kept = {key: place for (sink, key), place in left.items() if sink == table}
    documents = {(f.sink, f.key): kept[f.key] for f in extra if f.sink not in files and f.key in kept}
    return documents | left


def _alone(context: EntityContext) -> dict[str, bool]:
    """By sink, whether all that lies there is the entity's."""
    with context.stores.target() as cursor:
        return {sink.id: is_ours_alone(cursor, context.entity.name, sink.place) for sink in context.entity.sinks}


def _known(context: EntityContext, texts: Iterable[str]) -> set[str]:
    """Those of the keys that the ledger has written once: what is there of them is ours."""
    keys = context.origin.key.parse(sorted(texts))
    if not keys.num_rows:
        return set()
    with context.stores.target() as cursor:
        return set(context.origin.key.texts(context.ledger.prior(cursor, keys)).to_pylist())


def _place(context: EntityContext, sink: str) -> str:
    return next(each.place.shown for each in context.entity.sinks if each.id == sink)


def _renewed(context: EntityContext, copies: list[Step]) -> pa.Table:
    """Keys of the rows whose files must be copied anew; of damaged objects the ledger must not believe it has them.

    A stale one is whole: rows may go back to it until it is garbage.
    """
    with context.stores.target() as cursor:
        sinks = {step.sink for step in copies}
        named = [rows_naming(cursor, context.entity.name, sink, _keys(copies, sink)) for sink in sinks]
        damaged = [step.key for step in copies if step.kind != FindingKind.STALE]
        cursor.execute("DELETE FROM sync.media WHERE target_key = ANY(%s)", (damaged,))
    return context.origin.key.parse(sorted(set().union(*(rows for naming in named for rows in naming.values()))))


def _keys(steps: list[Step], sink: str) -> list[str]:
    return [step.key for step in steps if step.sink == sink]


def _remove_files(context: EntityContext, extra: list[str]) -> None:
    """Objects that we never put there, under our own prefix; but for those that were, or are about to be, by now."""
    if extra:
        with context.stores.target() as cursor:
            abandon(cursor, extra)
        while collect(context.stores):
            pass
