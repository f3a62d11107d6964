"""The states of an object and what leads from one to another; docs/states.md draws the same.

No state is stored: it is read from what the ledger holds of the key, what is owed of it, and what the monolith holds.
Row, files and document of an object go through one batch; it is committed when nothing of it is owed any more.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from sync_pipeline.model.reasons import Reason


class State(StrEnum):
    """Where an object stands."""

    ABSENT = "absent"  # in neither side, as far as anybody looked
    PENDING = "pending"  # the monolith has moved on, or it waits in `due`
    COPIED = "media copied"  # its files are in the new bucket, no row names them yet
    WRITTEN = "row written"  # the row is committed, and its document is owed
    INDEXED = "document indexed"  # the cluster has it, and that is not noted yet
    COMMITTED = "committed"
    FAILED = "failed"  # a step refuses it: a dead letter
    COMPENSATED = "compensated"  # its document is refused, and row, files and document are as before: a dead letter
    DISCARDED = "discarded"  # a person has set the dead letter aside
    DELETED = "deleted"  # gone from the monolith, and from all sinks


class Transition(NamedTuple):
    """One arrow."""

    before: State
    after: State
    by: str


TRANSITIONS = frozenset(
    Transition(before, after, by)
    for before, after, by in (
        (State.ABSENT, State.PENDING, "noticed"),
        (State.PENDING, State.COPIED, "files copied"),
        (State.PENDING, State.WRITTEN, "row written"),
        (State.PENDING, State.COMMITTED, "row written, no document"),
        (State.PENDING, State.DELETED, "gone"),
        (State.PENDING, State.FAILED, "read, adapt, media or row refuses"),
        (State.COPIED, State.PENDING, "changed meanwhile"),
        (State.COPIED, State.WRITTEN, "row written"),
        (State.COPIED, State.COMMITTED, "row written, no document"),
        (State.COPIED, State.FAILED, "row refuses"),
        (State.WRITTEN, State.INDEXED, "document taken"),
        (State.WRITTEN, State.FAILED, "document refused"),
        (State.WRITTEN, State.PENDING, "changed"),
        (State.INDEXED, State.COMMITTED, "noted"),
        (State.INDEXED, State.DELETED, "document's removal noted"),
        (State.INDEXED, State.PENDING, "changed"),
        (State.COMMITTED, State.PENDING, "changed"),
        (State.FAILED, State.PENDING, "mended, or replayed"),
        (State.FAILED, State.WRITTEN, "document sent again"),
        (State.FAILED, State.DISCARDED, "discarded"),
        (State.FAILED, State.COMPENSATED, "undone, where the entity says so"),
        (State.COMPENSATED, State.PENDING, "mended, or replayed"),
        (State.COMPENSATED, State.DISCARDED, "discarded"),
        (State.DISCARDED, State.PENDING, "changed"),
        (State.DISCARDED, State.FAILED, "replayed"),
        (State.DISCARDED, State.COMPENSATED, "replayed"),
        (State.DELETED, State.PENDING, "there again"),
    )
)


@dataclass(frozen=True)
class Signs:
    """What an object's state is read from."""

    in_monolith: bool
    digest: int | None = None  # of the row the ledger takes for applied; None: a tombstone, or never written
    written: int = 0  # the revision that wrote it last; 0: none
    changed: bool = False  # the monolith's row is another than the ledger's
    owed: frozenset[str] = frozenset()  # reasons in `due`
    copied: bool = False  # files that its row is to name are there, and no row names them yet
    undone: bool = False  # the dead letter's row was put back as it was before
    document: int | None = None  # version of its document in the cluster


def state_of(signs: Signs) -> State:
    """The state that the signs tell."""
    if Reason.REJECTED in signs.owed:
        return State.COMPENSATED if signs.undone else State.FAILED
    pending = State.COPIED if signs.copied else State.PENDING
    if signs.owed - {Reason.DOCUMENTS, Reason.DISCARDED}:
        return pending
    if Reason.DISCARDED in signs.owed:
        return State.DISCARDED
    if Reason.DOCUMENTS in signs.owed:
        return State.INDEXED if signs.document == signs.written else State.WRITTEN
    if signs.digest is None:
        return pending if signs.in_monolith else State.DELETED if signs.written else State.ABSENT
    return pending if signs.changed else State.COMMITTED
