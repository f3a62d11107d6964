"""The HTTP sink: objects of an entity, sent to the API of a service that owns its store."""

from sync_pipeline.sinks.http.sink import HttpEndpoint

__all__ = ["HttpEndpoint"]
