"""What commands share: their common options, the entities they name, and how they report."""

from __future__ import annotations

import enum
import json
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import is_dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from sync_pipeline.cli.lazy import deferred
from sync_pipeline.errors import SettingError

# help needs none of these
if TYPE_CHECKING:
    import pyarrow as pa

    from sync_pipeline.entities.context import EntityContext
    from sync_pipeline.entity import Entity
    from sync_pipeline.stores.stores import Stores


class Output(enum.StrEnum):
    """How a command reports."""

    TEXT = "text"
    JSON = "json"


Name = Annotated[str | None, typer.Argument(help="The entity; or say --all.", show_default=False)]
AnyName = Annotated[str | None, typer.Argument(help="The entity; all of them when left out.", show_default=False)]
All = Annotated[bool, typer.Option("--all", help="Every entity.")]
Format = Annotated[Output, typer.Option("--format", help="text for people, json for programs.")]


# faults of entity files that a command over all entities had to leave out: it ends with an error then
unused_files: list[str] = []


@contextmanager
def opened(name: str | None, everything: bool, *, adapts: bool = True) -> Iterator[tuple[Stores, list[Entity]]]:
    """Stores and the entities a command names. Raises SettingError, DeclarationError.

    A command that never adapts rows works in one thread. It waits neither for pandas, which entity files import, nor
    for a pool of connections.
    """
    if name and everything:
        raise SettingError(f"name an entity ({name}) or say --all, not both")
    if not name and not everything:
        raise SettingError("name an entity, or say --all")
    from sync_pipeline.entities.files import pick, read_entity_files
    from sync_pipeline.settings import Settings
    from sync_pipeline.stores.stores import Stores

    settings = Settings.from_env()
    with nullcontext() if adapts else deferred("pandas"):
        files = read_entity_files(settings.entities)
        entities = pick(files.entities, [name] if name else [], files.faults)
    for fault in files.faults:
        typer.echo(f"Entity file not used: {fault}", err=True)
    if everything:
        unused_files.extend(files.faults)
    with closing(Stores(settings, pooled=adapts)) as stores:
        yield stores, entities


def parsed(context: EntityContext, keys: Iterable[str]) -> pa.Table:
    """Keys as they were typed. Raises SettingError naming what a key of this entity is."""
    try:
        return context.origin.key.parse(keys)
    except SettingError as error:
        columns = ", ".join(
            f"{n} {t}" for n, t in zip(context.origin.key.columns, context.origin.key.types, strict=True)
        )
        raise SettingError(f"a key of entity {context.entity.name} is {columns}: {error}") from error


def spelled(context: EntityContext, keys: Iterable[str] | None) -> list[str]:
    """Keys as they were typed, as the ledger writes them. Raises SettingError as `parsed` does."""
    return context.origin.key.texts(parsed(context, keys)).to_pylist() if keys else []


def partitions(entity: Entity, wanted: list[str] | None) -> list[str]:
    """The partitions a command names, or all. Raises SettingError naming what there is."""
    there = entity.partitions.names()
    for name in wanted or ():
        if name not in there:
            near = get_close_matches(name, there, 3)
            there_are = f"nearest are {', '.join(near)}" if near else f"there are {there[0]} to {there[-1]}"
            raise SettingError(f"entity {entity.name} has no partition {name!r}; {there_are}")
    return list(dict.fromkeys(wanted or there))


def _plain(value: object) -> object:
    """A value that JSON does not know: a dataclass by its fields, anything else as text."""
    return vars(value) if is_dataclass(value) else str(value)


def show(report: Any, output: Output, text: Callable[[], None]) -> None:
    """Print a report: as one line of JSON, or by `text`."""
    if output is Output.JSON:
        typer.echo(json.dumps(report, default=_plain, ensure_ascii=False))
    else:
        text()
