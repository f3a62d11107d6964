"""The former name of `sync_pipeline.sinks.search`, for entity files of earlier versions."""

from sync_pipeline.sinks.search import SearchIndex

__all__ = ["SearchIndex"]
