"""The name of a sink."""

from __future__ import annotations

from typing import ClassVar


class Named:
    """What has a kind, and a label where an entity has several of the kind."""

    kind: ClassVar[str]
    label: str

    @property
    def id(self) -> str:
        """Its name in the ledger, in verdicts and in reports: its label, or its kind."""
        return self.label or self.kind
