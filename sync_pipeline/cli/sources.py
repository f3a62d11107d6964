"""`sync-pipeline outbox …` and `sync-pipeline wal …`: what a source needs in the monolith, made and taken away."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from typing import Annotated

import typer

from sync_pipeline.cli.common import All, Name, opened
from sync_pipeline.entities.files import load_entities
from sync_pipeline.entities.origin import Origin
from sync_pipeline.entity import Entity
from sync_pipeline.errors import SettingError
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.settings import Settings
from sync_pipeline.sources import outbox_tables, publication
from sync_pipeline.sources.ddl import Step, apply_steps, printed
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.source import Subject
from sync_pipeline.stores.stores import Stores

outbox = typer.Typer(no_args_is_help=True, help="A table of events in the monolith, and triggers that fill it.")
wal = typer.Typer(no_args_is_help=True, help="A publication of the monolith's log.")

Apply = Annotated[bool, typer.Option("--apply", help="Carry the statements out, one table's in one transaction.")]
Owner = Annotated[
    str,
    typer.Option("--owner-db", envvar="SYNC_LEGACY_OWNER_DB", help="The monolith's database as the tables' owner."),
]
Notify = Annotated[
    bool,
    typer.Option(
        help="Have triggers wake the follower by NOTIFY. The monolith's commits then queue behind each other, and"
        " PREPARE TRANSACTION fails for transactions that change these tables.",
    ),
]
TakeOver = Annotated[
    bool, typer.Option("--take-over", help="Make what another ledger installed ours: only where that ledger is gone.")
]
Gone = Annotated[bool, typer.Option("--gone", help="Of all entities of this ledger that have no file any more.")]
Plan = Callable[[Subject, Entity], Sequence[Step]]


@outbox.command("install")
def install_outbox(
    name: Name = None,
    everything: All = False,
    apply: Apply = False,
    owner: Owner = "",
    notify: Notify = False,
    take_over: TakeOver = False,
) -> None:
    """Print what fills an outbox with an entity's changes; needed before the entity says `capture=Outbox()`."""

    def plan(subject: Subject, entity: Entity) -> Sequence[Step]:
        if subject.stores.ledger_id() is None:  # the triggers bear its id
            migrate(subject.stores)
        return outbox_tables.install(subject, _outbox(entity), notify, take_over=take_over)

    _each(name, everything, plan, apply, owner)


@outbox.command("uninstall")
def uninstall_outbox(
    name: Name = None,
    everything: All = False,
    apply: Apply = False,
    owner: Owner = "",
    take_over: TakeOver = False,
    gone: Gone = False,
) -> None:
    """Print what takes triggers and functions away, and the table with the last entity that it served."""
    if gone:
        _uninstall_gone(apply, owner)
        return
    _each(
        name,
        everything,
        lambda subject, entity: outbox_tables.uninstall(subject, _outbox(entity), take_over=take_over),
        apply,
        owner,
    )


@wal.command("install")
def install_wal(
    name: Name = None, everything: All = False, apply: Apply = False, owner: Owner = "", take_over: TakeOver = False
) -> None:
    """Print what publishes an entity's tables, one table a transaction; needed before it says `capture=Wal()`."""

    def plan(subject: Subject, _: Entity) -> Sequence[Step]:
        migrate(subject.stores)  # the publication bears the ledger's id
        return publication.install(subject, take_over=take_over)

    _each(name, everything, plan, apply, owner)


@wal.command("uninstall")
def uninstall_wal(
    name: Name = None, everything: All = False, apply: Apply = False, owner: Owner = "", take_over: TakeOver = False
) -> None:
    """Print what takes publication and slot away and puts replica identities back, one table a transaction."""
    _each(name, everything, lambda subject, _: publication.uninstall(subject, take_over=take_over), apply, owner)


def _outbox(entity: Entity) -> Outbox:
    return entity.capture if isinstance(entity.capture, Outbox) else Outbox()


def _each(name: str | None, everything: bool, plan: Plan, apply: bool, owner: str) -> None:
    _require_owner(apply, owner)
    with opened(name, everything) as (stores, entities):
        for entity in entities:
            # one after the other: what the first one makes, the next one finds
            steps = plan(_subject(stores, entity), entity)
            if not steps:
                typer.echo(f"-- {entity.name}: nothing is missing")
            _carry_out(steps, apply, owner)


def _uninstall_gone(apply: bool, owner: str) -> None:
    _require_owner(apply, owner)
    settings = Settings.from_env()
    known = load_entities(settings.entities)
    with closing(Stores(settings)) as stores, stores.legacy() as cursor:
        _carry_out(outbox_tables.uninstall_gone(cursor, stores.ledger_id(), known), apply, owner)


def _require_owner(apply: bool, owner: str) -> None:
    if apply and not owner:
        raise SettingError("--apply needs the owner of the monolith's tables: --owner-db, or SYNC_LEGACY_OWNER_DB")


def _carry_out(steps: Sequence[Step], apply: bool, owner: str) -> None:
    for line in printed(steps):
        typer.echo(line)
    if apply and steps:
        apply_steps(owner, steps, lambda line: typer.echo(line, err=True))


def _subject(stores: Stores, entity: Entity) -> Subject:
    return Subject(entity.name, Origin.open(entity, stores).root, entity.tables, stores)
