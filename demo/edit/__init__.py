"""Plays the monolith's editors: real, overlapping transactions at a held rate."""

from demo.edit.editors import Editors
from demo.edit.tally import Tally

__all__ = ["Editors", "Tally"]
