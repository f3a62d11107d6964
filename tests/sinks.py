"""Sinks of entities, for tests."""

from sync_pipeline.sinks.media import MediaBucket
from sync_pipeline.sinks.search import SearchIndex


def index_of(entity) -> SearchIndex | None:
    """Return the first search index; None where there is none."""
    return next((sink for sink in entity.sinks if isinstance(sink, SearchIndex)), None)


def bucket_of(entity) -> MediaBucket | None:
    """Return the first media sink; None where there is none."""
    return next((sink for sink in entity.sinks if isinstance(sink, MediaBucket)), None)
