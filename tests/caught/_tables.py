"""Tables of the demo's entities, and the sources."""

import os
from dataclasses import replace

from sync_pipeline.capture import subject_of
from sync_pipeline.entity import Entity
from sync_pipeline.lane import Lane
from sync_pipeline.sources import outbox_tables, publication
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.wal import Wal
from sync_pipeline.sources.watermark import Watermark

TABLES = (
    Table("content", key=("id",), stamp="updated_at"),
    Table("media_files", key=("content_id",), stamp="updated_at"),
    Table("content_tags", key=("content_id",)),
    Table("authors", key=("content.id",), join="JOIN content ON content.author_id = authors.id"),
)
SOURCES = {"watermark": Watermark(), "outbox": Outbox(), "wal": Wal(), "sweep": SweepOnly()}


def made(lane: Lane) -> list[str]:
    """What the lane's source needs in the monolith."""
    capture = lane.entity.capture
    if isinstance(capture, Outbox):
        return outbox_tables.install(subject_of(lane), capture)
    return publication.install(subject_of(lane)) if isinstance(capture, Wal) else []


def unmade(lane: Lane) -> list[str]:
    """What takes it away again."""
    capture = lane.entity.capture
    if isinstance(capture, Outbox):
        return outbox_tables.uninstall(subject_of(lane), capture)
    return publication.uninstall(subject_of(lane)) if isinstance(capture, Wal) else []


def caught(entity: Entity) -> Entity:
    """The entity with another source."""
    return replace(entity, tables=TABLES, capture=SOURCES[os.environ["TEST_CAPTURE"]])
