"""The former name of `sync_pipeline.sinks.table`, for entity files of earlier versions."""

from sync_pipeline.sinks.table import Reference, RelationalTable

__all__ = ["Reference", "RelationalTable"]
