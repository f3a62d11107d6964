"""SQL statements that live in a file beside the module that runs them.

Each begins with a line `-- name: NAME`; lines of comment below it say what it does. For example, `claim` of
`ledger/queue_table.sql` is `statements("sync_pipeline.ledger.queue_table")["claim"]`.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Mapping
from types import MappingProxyType

_NAME = "-- name: "


def statements(module: str) -> Mapping[str, str]:
    """Return the statements of the SQL file that bears a module's name, by their names, without comments.

    Raises FileNotFoundError, and ValueError where a name comes twice or a statement has none.
    """
    package, _, stem = module.rpartition(".")
    file = importlib.resources.files(package).joinpath(f"{stem}.sql")
    before, *parts = f"\n{file.read_text(encoding='utf-8')}".split(f"\n{_NAME}")
    if _code(before):
        raise ValueError(f"{file}: a statement stands before the first line '{_NAME}NAME'")
    found: dict[str, str] = {}
    for part in parts:
        name, _, text = part.partition("\n")
        if name in found:
            raise ValueError(f"{file}: the name {name!r} comes twice")
        found[name] = _code(text)
    return MappingProxyType(found)


def _code(text: str) -> str:
    """The lines that are not comments, as one statement."""
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("--")]
    return "\n".join(lines).strip().removesuffix(";")
