"""The former name of `sync_pipeline.sinks.media`, for entity files of earlier versions."""

from sync_pipeline.sinks.media import MediaBucket

__all__ = ["MediaBucket"]
