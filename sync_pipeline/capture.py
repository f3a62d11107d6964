"""Opening an entity's source: for the first time, where it stood, or anew with a gap that a sweep must close."""

from __future__ import annotations

import logging

from sync_pipeline.errors import GapError
from sync_pipeline.lane import Lane
from sync_pipeline.ledger.cursor import open_at, reopen_at, state_of
from sync_pipeline.sources.source import Source, Standing, Subject

log = logging.getLogger(__name__)


def subject_of(lane: Lane) -> Subject:
    """Whose changes are caught."""
    return Subject(lane.entity.name, lane.origin.root, lane.entity.tables, lane.stores)


def open_cursor(lane: Lane) -> None:
    """Begin the source before the first snapshot of history, so that nothing falls between the two."""
    if state_of(lane.stores, lane.entity.name) is None:
        capture = lane.entity.capture
        standing = _began(capture.open(subject_of(lane), None))
        open_at(lane.stores, lane.entity.name, capture.name, standing)


def resumed(lane: Lane) -> Source:
    """The source where it stood, for who holds the lease.

    Where that is no longer possible, or the entity has another source now, it begins anew, and a sweep is asked for:
    what was committed in between shows in the digests.
    """
    capture, subject = lane.entity.capture, subject_of(lane)
    stood = state_of(lane.stores, lane.entity.name)
    if stood and stood[0] == capture.name:
        try:
            return capture.open(subject, stood[1])
        except GapError as error:
            log.error("gap", extra={"entity": lane.entity.name, "error": str(error)})
    standing = _began(capture.open(subject, None))
    reopen_at(lane.stores, lane.entity.name, capture.name, standing, lane.stores.legacy_now())
    return capture.open(subject, standing.state)


def _began(source: Source) -> Standing:
    try:
        return source.begin()
    finally:
        source.close()
