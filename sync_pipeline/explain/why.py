"""Why an object is, or is not, in each sink: one verdict, and a sentence for each sink."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.explain.facts import Facts, facts_of, wants
from sync_pipeline.model.reasons import Reason
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.queue import dead_letters
from sync_pipeline.sinks.outer import OuterSink
from sync_pipeline.sinks.placing import PlacingSink

_OWED = {
    Reason.DOCUMENTS: "its document is owed: the cluster has not taken it yet",
    Reason.COMPENSATION: "its document is refused, and it is to be put back as it was before",
    Reason.MEDIA: "its files are still to be copied",
    Reason.OVERTAKEN: "it is to be read and written again, because another batch came between",
    Reason.FUTURE: "an event told a version that its row does not show yet",
    Reason.RELEASED: "the row that it waited for has come, and it is next",
    Reason.MOVED: "another row holds its id in the table: both are to be read together",
    Reason.FANOUT: "a row that it is made of has changed, and it waits behind fresh edits",
    Reason.SWEEP: "the sweep found that it differs, and it waits behind fresh edits",
}
# what explains why a sink is behind
_BEHIND = frozenset({"parked", "discarded", "waits", "owed", "on its way", "outdated"})


@dataclass(frozen=True)
class Answer:
    """`word` is the kind of verdict, `sinks` a sentence for each sink, `to_do` what a person can do, if anything."""

    facts: Facts
    label: str
    verdict: str
    sinks: Mapping[str, str]
    nouns: Mapping[str, str]  # what each sink holds, for people
    to_do: str = ""

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        facts = self.facts
        return {
            "entity": facts.entity,
            "key": facts.key,
            "state": facts.state,
            "word": self.label,
            "verdict": self.verdict,
            "sinks": dict(self.sinks),
            "to_do": self.to_do,
            "monolith": facts.legacy.there,
            "ledger": vars(facts.entry) if facts.entry else None,
            "due": facts.owed,
            "document": facts.document,
            "files": facts.files,
            "source": facts.cursor,
        }


@dataclass(frozen=True)
class _Cause:
    """Why an object stands where it stands."""

    label: str
    message: str
    to_do: str = ""


def why(context: EntityContext, key: str) -> Answer:
    """Look everywhere, and say why. Raises UnreachableError where monolith or ledger do not answer."""
    return explain(context, facts_of(context, key))


def explain(context: EntityContext, facts: Facts) -> Answer:
    """The answer that follows from what is known."""
    cause = _cause(context, facts)
    entity = context.entity
    sinks = {entity.table.id: _of_table(context, facts, cause)}
    sinks |= {sink.id: _of_outer(context, facts, cause, sink) for sink in entity.outer_sinks}
    sinks |= {sink.id: _of_files(facts, cause, sink) for sink in entity.placing_sinks}
    nouns = {sink.id: sink.label or sink.noun for sink in entity.sinks}
    return Answer(facts, cause.label, f"{facts.entity} {facts.key} {cause.message}.", sinks, nouns, cause.to_do)


def _cause(context: EntityContext, facts: Facts) -> _Cause:
    return (
        _set_aside(facts) or _owed(facts) or (_there(context, facts) if facts.legacy.there else _gone(context, facts))
    )


def _set_aside(facts: Facts) -> _Cause | None:
    """A dead letter, or a row that waits for another one."""
    dead_letter, name = facts.owing(Reason.REJECTED), f"{facts.entity} --key {facts.key}"
    if dead_letter:
        remedy = dead_letters.remedy(dead_letter.step, dead_letter.error)
        tries = f"{dead_letter.attempts:,} attempts" if dead_letter.attempts != 1 else "1 attempt"
        message = f"is parked at step {dead_letter.step} since {_instant(dead_letter.first_at)} ({tries})"
        return _Cause(
            "parked",
            f"{message}: {dead_letter.error}: {dead_letter.message}{_reverted(facts)}",
            f"{remedy}; then sync-pipeline dead-letters replay {name}",
        )
    if waiting := facts.owing(Reason.PARENT, Reason.CHILDREN):
        who = f"{waiting.waits_for} {waiting.waits_key}"
        return _Cause(
            "waits", f"waits since {_instant(waiting.first_at)}: {waiting.message}", f"sync-pipeline why {who}"
        )
    if discarded := facts.owing(Reason.DISCARDED):
        message = f"was discarded by {discarded.discarded_by} on {_instant(discarded.discarded_at)}"
        undo = f"sync-pipeline dead-letters replay {name}"
        if facts.changed and discarded.step != BatchStep.DOCUMENT:
            return None
        message += f": {discarded.discarded_why}{_reverted(facts)}"
        return _Cause("discarded", message, f"{undo} takes it back")
    return None


def _owed(facts: Facts) -> _Cause | None:
    found = facts.owing(*_OWED)
    if not found:
        return None
    message = f"is owed since {_instant(found.first_at)}: {_OWED[Reason(found.reason)]}"
    if found.error:
        message += f" ({found.error}: {found.message}; next try {_instant(found.next_at)})"
    return _Cause("owed", message, _nobody(facts))


def _gone(context: EntityContext, facts: Facts) -> _Cause:
    entry = facts.entry
    if entry is None or (entry.digest is None and not entry.written):
        there = facts.row or facts.objects
        if there:
            return _Cause("drift", "is not in the monolith, and we never wrote it: somebody else did", _repair(facts))
        return _Cause("never existed", "never existed, as far as we know: it is in neither side, nor in the ledger")
    if entry.digest is None:
        message = f"is gone from the monolith; {_revision(facts)} deleted it"
        if facts.row or facts.objects:
            return _Cause("drift", f"{message}, and somebody has put it back", _repair(facts))
        return _Cause("gone", message)
    return _Cause(
        "on its way", f"is gone from the monolith, which nobody has noticed yet: {_position(facts)}", _nobody(facts)
    )


def _there(context: EntityContext, facts: Facts) -> _Cause:
    entry = facts.entry
    if entry is None or (facts.changed and not entry.written):
        late = "its history is not all in" if facts.cursor["filled_at"] is None else _position(facts)
        return _Cause("on its way", f"is in the monolith, and nobody has looked at it yet: {late}", _nobody(facts))
    if entry.bears_former_digest:
        message = f"bears a former digest since {_revision(facts)}: the next sweep compares it with the new side"
        return _Cause("outdated", message, _nobody(facts))
    if facts.changed:
        message = f"has changed in the monolith since {_revision(facts)}: {_position(facts)}"
        return _Cause("on its way", message, _nobody(facts))
    if not entry.current:
        to_do = f"sync-pipeline backfill {facts.entity}"
        return _Cause("outdated", "was written by an older version of the entity", to_do)
    return _applied(context, facts)


def _applied(context: EntityContext, facts: Facts) -> _Cause:
    """The ledger has the row as it is now."""
    since = f"is up to date since {_revision(facts)}"
    wrong = _drift(context, facts)
    if wrong:
        return _Cause(
            "drift", f"{since} for the ledger, but {wrong}: somebody else changed the new side", _repair(facts)
        )
    if not wants(context, facts, context.entity.table):
        return _Cause("filtered", f"{since}, and has no row: {_filter(context.entity.table.where)}")
    for sink in context.entity.outer_sinks:
        if not wants(context, facts, sink):
            return _Cause("filtered", f"{since}, and is not in {sink.id}: {_filter(sink.where)}")
    return _Cause("up to date", since)


def _drift(context: EntityContext, facts: Facts) -> str:
    """What is, or is not, in a sink against what the ledger believes."""
    if facts.row != wants(context, facts, context.entity.table):
        return "its row is gone" if not facts.row else "there is a row"
    for sink in context.entity.outer_sinks:
        is_there = sink.id in facts.objects
        if sink.can_read and sink.id not in facts.unknown and is_there != wants(context, facts, sink):
            where = f" in {sink.id}" if sink.label else ""
            return f"there is a {sink.noun}{where}" if is_there else f"its {sink.noun} is gone{where}"
    if lost := [file["target_key"] for file in facts.files if file.get("there") is False]:
        return f"the file {lost[0]} is gone"
    return ""


def _of_table(context: EntityContext, facts: Facts, cause: _Cause) -> str:
    name = context.entity.table.name
    written = f"as revision {facts.entry.written} wrote it" if facts.entry and facts.entry.written else ""
    if not facts.row:
        return f"not in {name}: {_absence(context, facts, cause, context.entity.table)}"
    behind = (
        cause.label in _BEHIND
        and not (cause.label == "owed" and facts.owing(Reason.DOCUMENTS))
        and not _of_document(facts)
    )
    return f"in {name}, {written or 'though we never wrote it'}" + (
        f", and behind: it {cause.message}" if behind else ""
    )


def _of_outer(context: EntityContext, facts: Facts, cause: _Cause, sink: OuterSink) -> str:
    place, seen = sink.place.name, facts.objects.get(sink.id)
    if not sink.can_read:
        return f"{place} cannot be asked what it holds"
    if sink.id in facts.unknown:
        return f"unknown: {facts.unknown[sink.id]}"
    if seen is None:
        return f"not in {place}: {_absence(context, facts, cause, sink)}"
    behind = f", and behind: it {cause.message}" if cause.label in _BEHIND else ""
    return f"in {place}{f', of revision {seen.version}' if seen.version else ''}{behind}"


def _of_files(facts: Facts, cause: _Cause, sink: PlacingSink) -> str:
    if sink.id in facts.unknown:
        return f"unknown: {facts.unknown[sink.id]}"
    files = [file for file in facts.files if file["sink"] == sink.id]
    behind = (
        f"; it {cause.message}"
        if cause.label in _BEHIND and (facts.owing(Reason.MEDIA) or _step(facts) == BatchStep.MEDIA)
        else ""
    )
    if not files:
        return f"names no file on the new side{behind}"
    lost = [file["target_key"] for file in files if not file["there"]]
    if lost:
        return f"{len(lost)} of {len(files)} files are not there, such as {lost[0]}{behind}"
    return f"{len(files)} files, all there{behind}"


def _absence(context: EntityContext, facts: Facts, cause: _Cause, sink: OuterSink) -> str:
    """Why a sink holds nothing."""
    if (
        facts.legacy.held is not None
        and not wants(context, facts, sink)
        and cause.label not in {"on its way", "parked"}
    ):
        return _filter(sink.where) if sink.where else "it has no row"
    return f"it {cause.message}"


def _filter(where: str | None) -> str:
    return f"{where} is not true, and only rows that have it true are there"


def _revision(facts: Facts) -> str:
    """The revision that wrote it last, and when that was."""
    number = facts.entry.written if facts.entry else 0
    return f"revision {number} of {_instant(facts.written_at)}" if facts.written_at else f"revision {number}"


def _step(facts: Facts) -> str:
    dead_letter = facts.owing(Reason.REJECTED, Reason.DISCARDED)
    return str(dead_letter.step) if dead_letter else ""


def _of_document(facts: Facts) -> bool:
    """Whether only its document is refused: its row is up to date."""
    return _step(facts) == BatchStep.DOCUMENT and not facts.undone


def _reverted(facts: Facts) -> str:
    return "; so row, files and document were put back as they were before" if facts.undone else ""


def _position(facts: Facts) -> str:
    """How far the source has been applied."""
    through = facts.cursor["applied_through"]
    if through is None:
        return "the live delta was never followed"
    return f"the source {facts.cursor['source']} is applied through {_instant(through)}"


def _nobody(facts: Facts) -> str:
    return "" if facts.cursor["followed"] else f"nobody follows {facts.entity}: sync-pipeline sync {facts.entity}"


def _repair(facts: Facts) -> str:
    return f"sync-pipeline repair {facts.entity} --key {facts.key}"


def _instant(at: dt.datetime | None) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}" if at else "on replay"
