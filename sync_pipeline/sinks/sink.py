"""What all sinks have in common."""

from __future__ import annotations

import pyarrow as pa

from sync_pipeline.errors import DeclarationError


def select(adapted: pa.Table, columns: list[str], sink: str) -> pa.Table:
    """Columns of adapted rows by name. Raises DeclarationError naming the first that is not there."""
    there = set(adapted.column_names)
    missing = [name for name in columns if name not in there]
    if missing:
        raise DeclarationError(f"adapt returns no column {missing[0]!r}, which {sink} declares")
    return adapted.select(columns)
