"""Changes of a shape's tables, each of a kind that the table of claims in docs/howto/source.md names."""

from dataclasses import dataclass

from tests.claims import (
    CHILD_MOVED,
    CHILD_REMOVED,
    CHILD_STAMPED,
    CHILD_UNSTAMPED,
    DELETED,
    EMPTIED,
    MEMBER_EMPTIED,
    PARTITION_ATTACHED,
    PARTITION_DETACHED,
    STAMPED,
    UNSTAMPED,
)
from tests.matrix.shapes.shapes import Shape

# rows that are there before anything is installed: five roots with two parts each
FIRST, LAST = 1_000, 1_004
ROWS = f"""
    INSERT INTO {{item}} (id, code, title) SELECT n, 'c' || n, 'title ' || n FROM generate_series({FIRST}, {LAST}) n;
    INSERT INTO {{part}} (id, item_id, n) SELECT 2 * n + k, n, k FROM generate_series({FIRST}, {LAST}) n,
        generate_series(0, 1) k;
"""


@dataclass(frozen=True)
class Change:
    """A committed change, and its kind."""

    kind: str
    sql: str


def changes_of(shape: Shape) -> list[Change]:
    """Every kind of change, through the root and, where the shape has one, through a leaf."""
    through_root = ("item", "part")
    through_leaf = (shape.leaves.get("item", "item"), shape.leaves.get("part", "part"))
    found = _changes(*through_root, 0)
    if through_leaf != through_root:
        found += _changes(*through_leaf, 1)
    for table, leaf in shape.leaves.items():
        if "PARTITION" in shape.sql:
            found += _attached(table)
        if table == "part":
            found.append(Change(MEMBER_EMPTIED, f"TRUNCATE {leaf}"))
    return [*found, Change(EMPTIED, "TRUNCATE part")]


def _attached(table: str) -> list[Change]:
    """A partition that comes with a row, and goes again."""
    row = "60001, 'c', 'attached'" if table == "item" else f"60001, {FIRST}, 9"
    made = f"CREATE TABLE {table}_c (LIKE {table} INCLUDING DEFAULTS); INSERT INTO {table}_c VALUES ({row});"
    attach = f"ALTER TABLE {table} ATTACH PARTITION {table}_c FOR VALUES FROM (60000) TO (70000)"
    return [
        Change(PARTITION_ATTACHED, f"{made} {attach}"),
        Change(PARTITION_DETACHED, f"ALTER TABLE {table} DETACH PARTITION {table}_c; DROP TABLE {table}_c"),
    ]


def _changes(item: str, part: str, n: int) -> list[Change]:
    root, other, new = FIRST + n, FIRST + 2 + n, 5_000 + 10 * n
    return [
        Change(STAMPED, f"UPDATE {item} SET title = 'edited {n}', updated_at = now() WHERE id = {root}"),
        Change(STAMPED, f"INSERT INTO {item} (id, code, title) VALUES ({new}, 'new{n}', 'new')"),
        Change(UNSTAMPED, f"UPDATE {item} SET title = 'bulk {n}' WHERE id = {root}"),
        Change(CHILD_STAMPED, f"INSERT INTO {part} (id, item_id, n) VALUES ({new}, {root}, 7)"),
        Change(CHILD_UNSTAMPED, f"UPDATE {part} SET n = 8 WHERE id = {new}"),
        Change(CHILD_MOVED, f"UPDATE {part} SET item_id = {other} WHERE id = {new}"),
        Change(CHILD_REMOVED, f"DELETE FROM {part} WHERE id = {new}"),
        Change(DELETED, f"DELETE FROM {item} WHERE id = {new}"),
    ]
