"""Opening an entity's source: for the first time, where it stood, or anew with a gap that a sweep must close."""

from __future__ import annotations

import logging

from sync_pipeline.entities.context import EntityContext
from sync_pipeline.errors import GapError
from sync_pipeline.ledger.cursor import open_at, reopen_at, state_of
from sync_pipeline.model.positions import SourcePosition
from sync_pipeline.sources.source import Source, Subject

log = logging.getLogger(__name__)


def subject_of(context: EntityContext) -> Subject:
    """Whose changes are caught."""
    return Subject(context.entity.name, context.origin.root, context.entity.tables, context.stores)


def open_cursor(context: EntityContext) -> None:
    """Begin the source before the first snapshot of history, so that nothing falls between the two."""
    if state_of(context.stores, context.entity.name) is None:
        capture = context.entity.capture
        position = _began(capture.open(subject_of(context), None))
        open_at(context.stores, context.entity.name, capture.name, position)


def resumed(context: EntityContext) -> Source:
    """The source where it stood, for who holds the lease.

    Where that is no longer possible, or the entity has another source now, it begins anew, and a sweep is asked for:
    what was committed in between shows in the digests.
    """
    capture, subject = context.entity.capture, subject_of(context)
    stood = state_of(context.stores, context.entity.name)
    if stood and stood[0] == capture.name:
        try:
            return capture.open(subject, stood[1])
        except GapError as error:
            log.error("gap", extra={"entity": context.entity.name, "error": str(error)})
    position = _began(capture.open(subject, None))
    reopen_at(context.stores, context.entity.name, capture.name, position, context.stores.legacy_now())
    return capture.open(subject, position.state)


def _began(source: Source) -> SourcePosition:
    try:
        return source.begin()
    finally:
        source.close()
