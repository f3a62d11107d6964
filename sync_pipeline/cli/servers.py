"""`sync-pipeline servers …`: which servers both sides are on, and the acceptance of another one."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from sync_pipeline.cli import tables
from sync_pipeline.cli.common import Format, Output, opened, show
from sync_pipeline.ledger.ledger import migrate
from sync_pipeline.ledger.servers import Change, Side, change_of, read_server, recorded
from sync_pipeline.stores.stores import Stores

app = typer.Typer(no_args_is_help=True, help="The servers of both sides: recorded, and accepted where they change.")
_HEADS = ("side", "database", "system", "timeline", "recorded", "since")


@app.command("list")
def listed(output: Format = Output.TEXT) -> None:
    """Compare the servers that the settings lead to with what the ledger has recorded. Exit 1 where one differs."""
    with opened(None, everything=True) as (stores, _):
        found = _read_servers(stores)
    show(found, output, partial(_print, found))
    raise typer.Exit(1 if any(side["change"] == Change.OTHER for side in found.values()) else 0)


@app.command()
def accept(
    side: Annotated[Side | None, typer.Option("--side", help="Only this side.")] = None,
    again: Annotated[bool, typer.Option("--again", help="The recorded server too: it was set back.")] = False,
    output: Format = Output.TEXT,
) -> None:
    """Record the servers that the settings lead to now, after a restore or an upgrade: all entities sweep then.

    Of a new side's server, indices and files are compared with its ledger as well.
    """
    wanted = [side] if side else [Side.NEW_SIDE, Side.MONOLITH]
    with opened(None, everything=True) as (stores, _):
        stores.servers.accepts_all = True
        migrate(stores)
        accepted = {each.value: _accept(stores, each, again) for each in wanted}
        found = _read_servers(stores)
    show({"accepted": accepted, "servers": found}, output, partial(_print, found))


def _accept(stores: Stores, side: Side, again: bool) -> bool:
    with stores.legacy() if side is Side.MONOLITH else stores.target_at_once() as cursor:
        server = read_server(cursor)
    return stores.servers.accept(side, server, again=again)


def _read_servers(stores: Stores) -> dict[str, Any]:
    """Each side's server, as it is and as it is recorded."""
    stores.servers.accepts_all = True
    found: dict[str, Any] = {}
    for side in Side:
        with stores.target_at_once() as cursor:
            before = recorded(cursor, side)
        with stores.legacy() if side is Side.MONOLITH else stores.target_at_once() as cursor:
            server = read_server(cursor)
        change = change_of(before, server) if before else Change.NONE
        found[side.value] = {
            "server": asdict(server),
            "recorded": asdict(before) if before else None,
            "change": change.value,
        }
    return found


def _print(found: dict[str, Any]) -> None:
    rows = []
    for side, each in found.items():
        server, before = each["server"], each["recorded"]
        change = "not yet" if before is None else "the same" if each["change"] == Change.NONE else each["change"]
        since = before["changed_at"] if before else ""
        rows.append((side, server["name"], server["system"], str(server["timeline"]), change, since))
    tables.table(_HEADS, rows, left=6)
