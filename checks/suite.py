"""A suite: what is expected of an entity's rows, at the new side and in the monolith."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

from checks.expect import Expectation, HasType, NotNull, Rows, Unique
from sync_pipeline.entities.files import describe_import
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError
from sync_pipeline.sinks.table.definitions import split_definition

NEW, LEGACY = "new", "legacy"


@dataclass(frozen=True)
class LegacyRows:
    """What an adapter relies on: expectations of a legacy table's rows, or of some of them."""

    table: str
    expectations: tuple[Expectation, ...]
    where: str = "true"
    key: tuple[str, ...] = ("id",)


@dataclass(frozen=True)
class Suite:
    """The last line of a suite's file: `suite = Suite(…)`.

    Types, NOT NULL and the key follow from the entity's declared columns and need not be said again.
    """

    new: tuple[Expectation, ...] = ()
    legacy: LegacyRows | None = None


@dataclass(frozen=True)
class Side:
    """All that is expected of an entity's rows on one side."""

    entity: str
    side: str  # NEW or LEGACY
    table: str
    rows: Rows
    expectations: tuple[Expectation, ...]
    is_filtered: bool = False  # row-level security may leave rows out, as the entity declares


def sides(entity: Entity, package: str) -> list[Side]:
    """The new side, and the legacy one if changes are read from a table of it.

    The suite is the module of `package` that bears the entity's name; without one, what the declaration says
    is expected. Raises DeclarationError naming the file at fault.
    """
    suite = _suite_of(entity.name, package) or Suite()
    new = Rows(f"SELECT * FROM {entity.table.quoted}", entity.table.key)
    expected = (*declared(entity), *suite.new)
    found = [Side(entity.name, NEW, entity.table.name, new, expected)]
    if suite.legacy:
        found.append(_legacy(entity, suite.legacy))
    elif entity.tables:
        rows = Rows(entity.origin.sql, entity.origin.key)
        key = tuple(_key(entity.origin.key))
        found.append(Side(entity.name, LEGACY, entity.tables[0].name, rows, key, entity.is_filtered))
    return found


def declared(entity: Entity) -> Iterator[Expectation]:
    """What an entity's declared columns say: types, columns without NULL, and a key that is unique."""
    required = set(entity.table.key)
    for name, definition in entity.table.columns.items():
        kind, constraints = split_definition(definition)
        yield HasType(name, kind)
        if "not null" in constraints.lower():
            required.add(name)
    yield from (NotNull(name) for name in entity.table.columns if name in required)
    yield Unique(entity.table.identity)


def _key(columns: tuple[str, ...]) -> Iterator[Expectation]:
    yield from map(NotNull, columns)
    yield Unique(columns)


def _legacy(entity: Entity, legacy: LegacyRows) -> Side:
    rows = Rows(f"SELECT * FROM {legacy.table} WHERE {legacy.where}", legacy.key)
    return Side(entity.name, LEGACY, legacy.table, rows, legacy.expectations, entity.is_filtered)


def _suite_of(entity: str, package: str) -> Suite | None:
    try:
        spec = importlib.util.find_spec(f"{package}.{entity}")
    except Exception as error:
        raise DeclarationError(f"SYNC_SUITES={package}: {describe_import(error)}") from error
    if spec is None:
        return None
    try:
        suite = getattr(importlib.import_module(f"{package}.{entity}"), "suite", None)
    except (Exception, SystemExit) as error:
        raise DeclarationError(f"{package}.{entity}: {describe_import(error)}") from error
    if not isinstance(suite, Suite):
        raise DeclarationError(f"{package}.{entity}: a suite's file ends with `suite = Suite(…)`")
    return suite
