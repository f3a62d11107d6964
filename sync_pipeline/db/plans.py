"""Plans of the monolith's planner: how many rows a query gives, and whether an index gives them in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from sync_pipeline.db.sql import Cursor

# rows alike in the first columns of an order, which are sorted by the others
GROUP_ROWS = 10_000


def estimated_rows(cursor: Cursor, query: str) -> int:
    """Ask the planner how many rows a query gives."""
    cursor.execute(f"EXPLAIN (FORMAT JSON) {query}")
    return int(cursor.fetchone()[0][0]["Plan"]["Plan Rows"])


def sort_of(cursor: Cursor, query: str, columns: int) -> dict[str, Any] | None:
    """Find the node of a query's plan that sorts all rows by so many columns, although sorting is disabled.

    The query has its ORDER BY and a LIMIT. The node holds the nodes below it. Returns None if an index gives the order.
    """
    cursor.execute("BEGIN")
    try:
        cursor.execute("SET LOCAL enable_sort = off")
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN (VERBOSE, FORMAT JSON) {query}")
        plan: dict[str, Any] = cursor.fetchone()[0][0]["Plan"]
    finally:
        cursor.execute("ROLLBACK")
    return next((node for node in nodes_of(plan) if _sorts(node) and len(node["Sort Key"]) == columns), None)


def nodes_of(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields a plan's nodes, the outer ones first."""
    yield plan
    for part in plan.get("Plans", ()):
        yield from nodes_of(part)


def _sorts(node: dict[str, Any]) -> bool:
    """Tells a node that sorts all rows, or so many rows alike in the first columns that their index does not help."""
    if node["Node Type"] != "Incremental Sort":
        return bool(node["Node Type"] == "Sort")
    below = node["Plans"][0]
    # the first group is read and sorted before the first row comes
    share = (node["Startup Cost"] - below["Startup Cost"]) / max(1e-9, below["Total Cost"] - below["Startup Cost"])
    return bool(share * below["Plan Rows"] > GROUP_ROWS)
