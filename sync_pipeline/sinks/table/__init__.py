"""The table sink: rows of an entity in a table of the new PostgreSQL."""

from sync_pipeline.sinks.table.declaration import Reference
from sync_pipeline.sinks.table.sink import RelationalTable, tables_of

__all__ = ["Reference", "RelationalTable", "tables_of"]
