"""The media sink: files of an entity, copied to the new bucket."""

from sync_pipeline.sinks.media.sink import MediaBucket

__all__ = ["MediaBucket"]
