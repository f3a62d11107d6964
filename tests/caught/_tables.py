"""Tables of the demo's entities, and the sources."""

import os
from dataclasses import replace

from sync_pipeline.entity import Entity
from sync_pipeline.sources.table import Table
from tests.installed import SOURCES

TABLES = (
    Table("content", key=("id",), stamp="updated_at"),
    Table("media_files", key=("content_id",), stamp="updated_at"),
    Table("content_tags", key=("content_id",)),
    Table("authors", key=("content.id",), join="JOIN content ON content.author_id = authors.id"),
)


def caught(entity: Entity) -> Entity:
    """The entity with another source."""
    return replace(entity, tables=TABLES, capture=SOURCES[os.environ["TEST_CAPTURE"]])
