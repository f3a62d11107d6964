"""`sync-pipeline outbox …` and `sync-pipeline wal …`: what a source needs in the monolith, made and taken away."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Annotated

import psycopg2
import typer

from sync_pipeline.cli.opening import All, Name, opened
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SettingError, UnreachableError
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.origin import Origin
from sync_pipeline.sessions import connect_owner
from sync_pipeline.settings import Settings
from sync_pipeline.sources import outbox_tables, publication
from sync_pipeline.sources.ddl import Step, apply_steps, printed
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.source import Subject
from sync_pipeline.stores import Stores, first_line

outbox = typer.Typer(no_args_is_help=True, help="A table of events in the monolith, and triggers that fill it.")
wal = typer.Typer(no_args_is_help=True, help="A publication of the monolith's log.")

Apply = Annotated[bool, typer.Option("--apply", help="Carry the statements out, each entity's in one transaction.")]
Owner = Annotated[
    str,
    typer.Option("--owner-db", envvar="SYNC_LEGACY_OWNER_DB", help="The monolith's database as the tables' owner."),
]
Notify = Annotated[
    bool | None,
    typer.Option(
        "--notify/--no-notify",
        help="Have triggers wake us by NOTIFY: then PREPARE TRANSACTION fails for whoever changes these tables."
        " By default only while the server allows no prepared transactions (max_prepared_transactions = 0).",
        show_default=False,
    ),
]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="Even where publication and slot belong to another ledger, which is gone."),
]
_NEEDS_OWNER = "--apply needs the owner of the monolith's tables: --owner-db, or SYNC_LEGACY_OWNER_DB"
Statements = Callable[[Subject, Entity], list[str]]


@outbox.command("install")
def install_outbox(
    name: Name = None, everything: All = False, apply: Apply = False, owner: Owner = "", notify: Notify = None
) -> None:
    """Print what fills an outbox with an entity's changes; needed before the entity says `capture=Outbox()`."""
    _each(
        name, everything, lambda subject, entity: outbox_tables.install(subject, _outbox(entity), notify), apply, owner
    )


@outbox.command("uninstall")
def uninstall_outbox(name: Name = None, everything: All = False, apply: Apply = False, owner: Owner = "") -> None:
    """Print what takes triggers and functions away, and the table with the last entity that it served."""
    _each(name, everything, lambda subject, entity: outbox_tables.uninstall(subject, _outbox(entity)), apply, owner)


@wal.command("install")
def install_wal(
    name: Name = None, everything: All = False, apply: Apply = False, owner: Owner = "", take_over: TakeOver = False
) -> None:
    """Print what publishes an entity's tables, one table a transaction; needed before it says `capture=Wal()`."""
    _each_step(name, everything, partial(publication.install, take_over=take_over), apply, owner)


@wal.command("uninstall")
def uninstall_wal(
    name: Name = None, everything: All = False, apply: Apply = False, owner: Owner = "", take_over: TakeOver = False
) -> None:
    """Print what takes publication and slot away and puts replica identities back, one table a transaction."""
    _each_step(name, everything, partial(publication.uninstall, take_over=take_over), apply, owner)


def _each_step(
    name: str | None, everything: bool, plan: Callable[[Subject], list[Step]], apply: bool, owner: str
) -> None:
    """Print each entity's steps and carry them out before the next entity is planned, which finds what they made."""
    if apply and not owner:
        raise SettingError(_NEEDS_OWNER)
    with opened(name, everything) as (stores, entities):
        migrate(stores)  # what is made bears the ledger's id
        for entity in entities:
            steps = plan(_subject(stores, entity))
            for line in printed(steps) or [f"-- {entity.name}: nothing is missing"]:
                typer.echo(line)
            if apply:
                apply_steps(owner, steps, partial(typer.echo, err=True))


def _outbox(entity: Entity) -> Outbox:
    return entity.capture if isinstance(entity.capture, Outbox) else Outbox()


def _each(name: str | None, everything: bool, statements: Statements, apply: bool, owner: str) -> None:
    if apply and not owner:
        raise SettingError(_NEEDS_OWNER)
    with opened(name, everything) as (stores, entities):
        for entity in entities:
            # one after the other: what the first one makes, the next one finds
            found = statements(_subject(stores, entity), entity)
            for statement in found:
                typer.echo(f"{statement};")
            if apply:
                _carry_out(owner, found, stores.settings)


def _subject(stores: Stores, entity: Entity) -> Subject:
    return Subject(entity.name, Origin.open(entity, stores).root, entity.tables, stores)


def _carry_out(owner: str, statements: list[str], settings: Settings) -> None:
    try:
        with closing(connect_owner(owner, settings)) as connection, connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
    except psycopg2.OperationalError as error:
        raise UnreachableError(f"SYNC_LEGACY_OWNER_DB: {first_line(error)}") from error
    except psycopg2.Error as error:
        raise SettingError(f"SYNC_LEGACY_OWNER_DB: {first_line(error)}; nothing was changed") from error
