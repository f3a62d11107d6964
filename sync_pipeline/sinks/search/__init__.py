"""The search sink: documents of an entity behind an alias of Elasticsearch."""

from sync_pipeline.sinks.search.sink import SearchIndex

__all__ = ["SearchIndex"]
