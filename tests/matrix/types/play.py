"""Plays a type: its values arrive as a history and as changes, and both servers are asked for their texts."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

from sync_pipeline.batch.order import Order
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.pipeline import sync_keys
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.backfill import backfill
from sync_pipeline.run.capture import open_cursor
from sync_pipeline.run.sweep import sweep
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table
from tests.matrix.matrix import FAILS, HOLDS, Outcome
from tests.matrix.types.kinds import Kind

_COLUMN = {"value": "v", "array": "a", "composite": "c", "domain": "d"}


def play_values(world, kind: Kind) -> Outcome:
    """All places of a type in one table, each value in a row of its own."""
    name = _name("value", kind)
    _make(world, kind, name)
    places = {place: _type_of(kind, place, name) for place in kind.places}
    columns = {"id": "bigint", **{_COLUMN[place]: made for place, made in places.items()}}
    listed = ", ".join(f"{column} {made}" for column, made in columns.items())
    world.legacy(f"CREATE TABLE {name} ({listed}, PRIMARY KEY (id)); GRANT SELECT ON {name} TO sync_reader")
    rows = [(n, *(_place(kind, place, name, value) for place in kind.places)) for n, value in enumerate(kind.values)]
    for row in rows:
        world.legacy(f"INSERT INTO {name} VALUES ({', '.join(map(str, row))})")
    with _opened(world, name, columns, ("id",)) as context:
        backfill(context, "range-0001")
        found = {place: _differing(world, name, _COLUMN[place]) for place in kind.places}
        before = _texts(world.legacy, name, "id", columns)
        for (n, *_), (_, *values) in zip(rows, [*rows[1:], rows[0]], strict=True):
            assigned = zip(kind.places, values, strict=True)
            sets = ", ".join(f"{_COLUMN[place]} = {value}" for place, value in assigned)
            world.legacy(f"UPDATE {name} SET {sets} WHERE id = {n}")
        changed = {key for key, row in _texts(world.legacy, name, "id", columns).items() if before[key] != row}
        stale = {finding.key for finding in reconcile(context).findings}
        unseen = sorted((changed - stale) | (changed - _swept(world, context)))
        for place in kind.places:
            found[place] = found[place] or _differing(world, name, _COLUMN[place])
        clean = not reconcile(context).findings
    figures = {place: "differs" if found[place] else "carried" for place in kind.places}
    note = "; ".join(f"{place}: {texts}" for place, texts in found.items() if texts)
    note += f"; changes unseen: {', '.join(unseen)}" if unseen else ""
    holds = clean and not note
    return Outcome(HOLDS if holds else FAILS, note[:300] or ("" if clean else "not clean"), figures)


def play_key(world, kind: Kind) -> Outcome:
    """A type as the key: rows come, change, go, and change their key."""
    name, values = _name("key", kind), [value for value in _distinct(world, kind) if value is not None]
    _make(world, kind, name)
    world.legacy(f"CREATE TABLE {name} (k {kind.name} PRIMARY KEY, n integer); GRANT SELECT ON {name} TO sync_reader")
    for n, value in enumerate(values[:-1]):
        world.legacy(f"INSERT INTO {name} VALUES (%s, %s)", (value, n))
    with _opened(world, name, {"k": kind.name, "n": "integer"}, ("k",)) as context:
        backfill(context, "range-0001")
        history = _differing(world, name, "k", "n")
        world.legacy(f"UPDATE {name} SET n = n + 100")
        world.legacy(f"UPDATE {name} SET k = %s WHERE n = 100", (values[-1],))
        if len(values) > 2:
            world.legacy(f"DELETE FROM {name} WHERE n = 101")
        world.target("UPDATE sync.cursor SET filled_at = now() WHERE entity = %s", (name,))
        _swept(world, context)
        live = _differing(world, name, "k", "n")
        verdict = reconcile(context).findings
        world.legacy(f"DELETE FROM {name}")
        _swept(world, context)
        left = world.target(f"SELECT count(*) FROM matrix.{name}")[0][0]
    faults = [f"history: {history}"] * bool(history) + [f"live: {live}"] * bool(live) + [str(verdict)] * bool(verdict)
    faults += [f"{left} rows left"] * bool(left)
    return Outcome(FAILS if faults else HOLDS, "; ".join(faults)[:300], {"value": "as key"})


@contextmanager
def _opened(world, name: str, columns: dict[str, str], key: tuple[str, ...]) -> Iterator[EntityContext]:
    entity = Entity(
        name=name,
        owner="team:tests",
        origin=LegacyQuery(f"SELECT * FROM {name}", key=key),
        tables=(Table(name, key=key),),
        adapt=lambda legacy: legacy,
        sinks=(RelationalTable(f"matrix.{name}", key=key, columns=columns),),
        partitions=KeyRanges(1),
        capture=SweepOnly(),
    )
    settings = replace(world.stores.settings, recheck_seconds=0.0, brake_rows=10_000)
    world.stores.settings = settings
    context = EntityContext.open(entity, world.stores)
    open_cursor(context)
    yield context


def _swept(world, context: EntityContext) -> set[str]:
    """Keys that a sweep finds, which are synced."""
    sweep(context)
    found = world.target(
        "SELECT DISTINCT unnest(coalesce(keys, ARRAY[key])) FROM sync.due WHERE entity = %s AND reason = 'sweep'",
        (context.entity.name,),
    )
    keys = sorted(key for (key,) in found)
    world.target("DELETE FROM sync.due WHERE entity = %s AND reason = 'sweep'", (context.entity.name,))
    if keys:
        sync_keys(context, context.origin.key.parse(keys), Order(acknowledge=True))
    return set(keys)


def _make(world, kind: Kind, name: str) -> None:
    """The type, a composite and a domain of it, in both databases, each with a schema of the cell's own."""
    for side in (world.legacy, world.target):
        for statement in filter(None, (kind.setup,)):
            if not side("SELECT to_regtype(%s)", (kind.name,))[0][0]:
                side(statement)
        if "composite" in kind.places:
            side(f"CREATE TYPE {name}_c AS (v {kind.name}, t text)")
        if "domain" in kind.places:
            side(f"CREATE DOMAIN {name}_d AS {kind.name}")


def _type_of(kind: Kind, place: str, name: str) -> str:
    return {"value": kind.name, "array": f"{kind.name}[]", "composite": f"{name}_c", "domain": f"{name}_d"}[place]


def _literal(value: str | None) -> str:
    return "NULL" if value is None else "'" + value.replace("'", "''").replace("%", "%%") + "'"


def _place(kind: Kind, place: str, name: str, value: str | None) -> str:
    literal = f"{_literal(value)}::{kind.name}"
    if place == "array":
        return f"ARRAY[{literal}, NULL, {literal}]::{kind.name}[]"
    if place == "composite":
        return f"ROW({literal}, 'x')::{name}_c"
    return literal


def _distinct(world, kind: Kind) -> list[str | None]:
    """Values of which no two are one key."""
    if kind.setup and not world.legacy("SELECT to_regtype(%s)", (kind.name,))[0][0]:
        world.legacy(kind.setup)
    found: list[str | None] = []
    for value in kind.values:
        if value is None:
            continue
        equal = world.legacy(
            f"SELECT EXISTS (SELECT FROM unnest(%s::text[]) t WHERE t::{kind.name} = %s::{kind.name})", (found, value)
        )
        if not equal[0][0]:
            found.append(value)
    return found


def _texts(side, table: str, key: str, columns: dict[str, str], schema: str = "public") -> dict[str, tuple]:
    listed = ", ".join(f"{column}::text" for column in columns)
    return {row[0]: row[1:] for row in side(f"{_PINS} SELECT {key}::text, {listed} FROM {schema}.{table}")}


_PINS = "SET extra_float_digits = 1; SET timezone = 'UTC';"


def _differing(world, name: str, *columns: str) -> str:
    """What the two servers write differently, as text; empty where all is one."""
    key = "id" if "id" not in columns and columns[0] != "k" else columns[0]
    listed = dict.fromkeys(columns, "")
    legacy = _texts(world.legacy, name, key, listed)
    target = _texts(world.target, name, key, listed, "matrix")
    wrong = [f"{n}: {legacy.get(n)} <> {target.get(n)}" for n in {*legacy, *target} if legacy.get(n) != target.get(n)]
    return ", ".join(sorted(wrong))


def _name(use: str, kind: Kind) -> str:
    plain = "".join(letter if letter.isalnum() else "_" for letter in kind.name).strip("_")
    return f"{use}_{plain[:20]}_{hashlib.sha256(kind.name.encode()).hexdigest()[:4]}".lower()
