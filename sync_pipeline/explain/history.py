"""The story of one object: what batches did with it, what was exceptional, which requests took its document."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sync_pipeline.db.sql import Cursor, named
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.explain.facts import Facts, facts_of
from sync_pipeline.ledger.ledger import DOUBT, KEEP, PARK, UNDO, WITHDRAW, WRITE
from sync_pipeline.ledger.log import TAKEN_FOR_APPLIED, chain
from sync_pipeline.ledger.sinks import HeldBits

_EVENTS = """
    SELECT id, at, kind, step, said, revision FROM sync.event
    WHERE (entity, key) = (%(entity)s, %(key)s) AND kind <> %(silent)s ORDER BY id DESC LIMIT %(limit)s
"""
_REQUEST = """
    SELECT at, opaque_id, documents FROM sync.request
    WHERE entity = %(entity)s AND at BETWEEN %(at)s AND %(at)s + interval '1 day' AND %(revision)s = ANY(revisions)
    ORDER BY at LIMIT 1
"""
_FILES = """
    SELECT m.copied_at AS at, r.source_key, r.target_key FROM sync.media_ref r JOIN sync.media m USING (target_key)
    WHERE (r.entity, r.key) = (%(entity)s, %(key)s)
"""
_SAID = {
    KEEP: "looked at, and unchanged",
    PARK: "looked at, and set aside",
    WITHDRAW: "private now, and set aside: its document goes",
    DOUBT: "tried again, and set aside",
    UNDO: "undone: as it was before",
}


@dataclass(frozen=True)
class Happening:
    """One line of a story; `revision`, `cause`, `worker` and `position` are of the batch, where one did it."""

    at: dt.datetime
    what: str
    revision: int | None = None
    cause: str = ""
    worker: str = ""
    position: str = ""


@dataclass(frozen=True)
class Story:
    """What happened to an object, oldest first; `whole` tells whether the log reaches back to its beginning."""

    facts: Facts
    happenings: list[Happening]
    whole: bool

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "entity": self.facts.entity,
            "key": self.facts.key,
            "state": self.facts.state,
            "whole": self.whole,
            "history": [vars(happening) for happening in self.happenings],
        }


def history(context: EntityContext, key: str, limit: int) -> Story:
    """The last `limit` batches and events of an object. Raises UnreachableError, LegacySchemaError."""
    facts = facts_of(context, key)
    name, seen = context.entity.name, facts.entry.seen if facts.entry else 0
    with context.stores.target() as cursor:
        batches = list(islice(chain(cursor, name, key, seen), limit))
        values = {"entity": name, "key": key, "limit": limit, "silent": TAKEN_FOR_APPLIED}
        events = named(cursor, _EVENTS, values)
        nouns = {sink.id: sink.label or sink.noun for sink in context.entity.sinks}
        found = [
            *(_of_batch(row, context.bits, nouns) for row in batches),
            *map(_of_event, events),
            *_requests(cursor, name, batches),
        ]
        found += [_of_file(file) for file in named(cursor, _FILES, values)]
    # what a batch found is written down before the batch itself, and told after it
    began = {row["revision"]: row["at"] for row in batches}
    found.sort(key=lambda h: (max(h.at, began.get(h.revision or 0, h.at)), not h.cause))
    whole = not seen or bool(batches and not batches[-1]["before"])
    return Story(facts, found[-limit:], whole)


def _of_batch(row: dict[str, Any], bits: HeldBits, nouns: Mapping[str, str]) -> Happening:
    return Happening(
        row["at"], _became(row, bits, nouns), row["revision"], row["cause"], row["worker"], row["position"]
    )


def _became(row: dict[str, Any], bits: HeldBits, nouns: Mapping[str, str]) -> str:
    if row["action"] != WRITE:
        return _SAID[row["action"]]
    if row["digest"] is None:
        return "deleted: gone from the monolith"
    wanted = [nouns[name] for name in bits.names(row["held"]) if name in nouns]
    return f"written: {' and '.join(wanted)}" if wanted else "taken note of: no sink wants it"


def _of_event(event: dict[str, Any]) -> Happening:
    step = f" at step {event['step']}" if event["step"] else ""
    message = f": {event['said']}" if event["said"] else ""
    return Happening(event["at"], f"{event['kind']}{step}{message}", event["revision"] or None)


def _of_file(file: dict[str, Any]) -> Happening:
    return Happening(file["at"], f"file {file['source_key']} copied to {file['target_key']}")


def _requests(cursor: Cursor, entity: str, batches: list[dict[str, Any]]) -> Iterator[Happening]:
    """The answered request that held the document of each write."""
    for row in batches:
        if row["action"] in {WRITE, WITHDRAW} and row["documents"]:
            values = {"entity": entity, "revision": row["revision"], "at": row["at"]}
            for found in named(cursor, _REQUEST, values):
                what = f"bulk request {found['opaque_id']} answered ({found['documents']:,} documents)"
                yield Happening(found["at"], what, row["revision"])
