"""What asset pages show of a sink, in values that know no UI."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ColumnPage:
    """A column or field: its type, and what its values must be."""

    name: str
    type: str
    nullable: bool = True
    unique: bool = False
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class SinkPage:
    """A sink: what kinds of store it is, a sentence, its columns and what binds several."""

    kinds: frozenset[str]
    description: str
    columns: tuple[ColumnPage, ...] = ()
    constraints: tuple[str, ...] = ()
    table: str = ""  # the name by which a catalogue of tables knows it
