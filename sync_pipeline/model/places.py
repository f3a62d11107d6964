"""Places: what an entity writes to or takes away from, such as a table, an alias or a prefix of a bucket."""

from __future__ import annotations

import re
from dataclasses import dataclass

# how messages name a place of each kind; one of any other kind is `kind name`
_SHOWN = {"table": "table {}", "index": "alias {}", "prefix": "prefix {}/"}
# names of these kinds have parts, separated by a slash
_WITH_PARTS = {"prefix", "outbox"}
_NUMBERED = re.compile(r"(?P<alias>.+)-\d{6}")


@dataclass(frozen=True)
class Place:
    """Something that one entity writes to alone.

    `description` is how messages name it, where that is not told by its kind; `remedy` says what to do where two
    entities name it. Entities that both say `shared` have it together.
    """

    kind: str
    name: str
    remedy: str = ""
    shared: bool = False
    description: str = ""

    @property
    def shown(self) -> str:
        """How messages name it: `prefix clips/`."""
        return self.description or _SHOWN.get(self.kind, f"{self.kind} {{}}").format(self.name)

    def overlaps(self, other: Place) -> bool:
        """Whether both are the same place, or one lies within the other. Places that both share do not overlap."""
        if self.kind != other.kind or (self.shared and other.shared):
            return False
        return self.name == other.name or self.is_within(other) or other.is_within(self)

    def is_within(self, other: Place) -> bool:
        """Whether this is a part of the other: a prefix within a prefix, or a numbered index of an alias."""
        if self.kind == "index":
            numbered = _NUMBERED.fullmatch(self.name)
            return numbered is not None and numbered["alias"] == other.name
        return self.kind in _WITH_PARTS and self.name.startswith(f"{other.name}/")
