"""The search sink: documents of an entity behind an alias of Elasticsearch."""

from sync_pipeline.sinks.search.sink import SearchIndex, indices_of

__all__ = ["SearchIndex", "indices_of"]
