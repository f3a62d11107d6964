"""Notices: what a preflight saw, how bad it is, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass

LEVELS = ("ok", "warning", "error")


@dataclass(frozen=True)
class Notice:
    """One thing looked at: `remedy` is what to do, as SQL where SQL does it; empty where nothing is to be done."""

    level: str
    about: str
    what: str
    remedy: str = ""


def worst(notices: list[Notice]) -> str:
    """The level of the worst notice."""
    return max((notice.level for notice in notices), key=LEVELS.index, default="ok")
