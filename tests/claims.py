"""What each source claims to catch: the table of docs/howto/source.md, to which both monoliths' tests hold it."""

import re
from pathlib import Path

_HOWTO = Path(__file__).parents[1] / "docs" / "howto" / "source.md"
_COLUMNS = ("watermark", "outbox", "wal", "sweep")

YES, ASKS, NO = "yes", "asks for a sweep", ""

STAMPED = "a row inserted or updated, and stamped (a soft delete, too)"
UNSTAMPED = "a row inserted or updated, and no stamp moved on"
DELETED = "a row deleted"
REKEYED = "a row under another key"
CHILD_STAMPED = "a child inserted or updated, and stamped"
CHILD_UNSTAMPED = "a child inserted or updated, and no stamp moved on"
CHILD_REMOVED = "a child removed"
CHILD_MOVED = "a child moved to another root"
PARENT_STAMPED = "a parent inserted or updated, and stamped"
PARENT_UNSTAMPED = "a parent inserted or updated, and no stamp moved on"
PARENT_GONE = "a parent deleted or renumbered that roots still name"
EMPTIED = "a table emptied by TRUNCATE"
MEMBER_STAMPED = "a row inserted or updated by a statement that names a partition or an heir, and stamped"
MEMBER_UNSTAMPED = "a row inserted or updated by a statement that names a partition or an heir, and no stamp moved on"
MEMBER_DELETED = "a row deleted by a statement that names a partition or an heir"
MEMBER_EMPTIED = "a partition or an heir emptied by TRUNCATE"
PARTITION_ATTACHED = "a partition with rows attached"
PARTITION_DETACHED = "a partition detached or dropped"
# of tables that have others below them: made by integration/test_outbox_shapes.py, failure/test_publication_hazards.py
# and, for each source, by `make matrix`
OF_TREES = {MEMBER_STAMPED, MEMBER_UNSTAMPED, MEMBER_DELETED, MEMBER_EMPTIED, PARTITION_ATTACHED, PARTITION_DETACHED}


def _claims() -> dict[str, dict[str, str]]:
    section = _HOWTO.read_text(encoding="utf-8").split("## What each of them catches")[1].split("\n## ")[0]
    lines = [line.strip("|").split("|") for line in re.findall(r"^\|.*\|$", section, re.MULTILINE)][2:]
    return {
        kind.strip(): {source: cell.strip() for source, cell in zip(_COLUMNS, cells, strict=True)}
        for kind, *cells in lines
    }


# by the kind of change, by the source
CLAIMS = _claims()


def claim(source: str, *kinds: str) -> str:
    """What a source says of a change that is of all these kinds: the weakest word counts."""
    return min((CLAIMS[kind][source] for kind in kinds), key=(NO, ASKS, YES).index)
