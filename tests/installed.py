"""What a source needs in the monolith, made and taken away, and the catalogue that must be as it was afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from demo.fleet import Fleet
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entity import Entity
from sync_pipeline.run.capture import subject_of
from sync_pipeline.sources import outbox_tables, publication
from sync_pipeline.sources.ddl import Step
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.source import Capture
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.wal import Wal
from sync_pipeline.sources.watermark import Watermark
from tests.world import World, opened

SOURCES: dict[str, Capture] = {"watermark": Watermark(), "outbox": Outbox(), "wal": Wal(), "sweep": SweepOnly()}


@contextmanager
def world_of_parts(fleet: Fleet, name: str, monolith: str, entity: Entity) -> Iterator[World]:
    """A world whose monolith has these tables and what the source needs, with small chunks and no sweep by itself."""
    settings = {"SYNC_SWEEP_SECONDS": "1e9", "SYNC_MARGIN_SECONDS": "0", "SYNC_POLL_SECONDS": "0.02"}
    with opened(fleet, name, SYNC_RECHECK_SECONDS="0", SYNC_CHUNK_ROWS="3", **settings) as world:
        world.legacy(monolith)
        for statement in made(EntityContext.open(entity, world.stores)):
            world.legacy(statement)
        world.target("UPDATE sync.cursor SET swept_at = now(), filled_at = now()")
        yield world


def made(context: EntityContext, notify: bool = False) -> list[str]:
    """Statements that make what the source of the context's entity needs; `notify` as `outbox install` has it."""
    return flat(install_steps(context, notify))


def unmade(context: EntityContext) -> list[str]:
    """Statements that take it away again."""
    return flat(uninstall_steps(context))


def install_steps(context: EntityContext, notify: bool = False) -> list[Step]:
    """The same as steps, which are carried out one by one."""
    capture = context.entity.capture
    if isinstance(capture, Outbox):  # versions are told by the monolith's own code
        return [] if capture.version else outbox_tables.install(subject_of(context), capture, notify)
    return publication.install(subject_of(context)) if isinstance(capture, Wal) else []


def uninstall_steps(context: EntityContext) -> list[Step]:
    """What takes it away again, as steps."""
    capture = context.entity.capture
    if isinstance(capture, Outbox):
        return [] if capture.version else outbox_tables.uninstall(subject_of(context), capture)
    return publication.uninstall(subject_of(context)) if isinstance(capture, Wal) else []


def flat(steps: list[Step]) -> list[str]:
    """The statements of all steps."""
    return [statement for step in steps for statement in step.statements]


def catalogue(world: World) -> list[list[tuple[object, ...]]]:
    """Everything in the monolith that an installation could leave behind."""
    mine = "nspname !~ '^pg_' AND nspname <> 'information_schema'"
    return [
        world.legacy(query)
        for query in (
            "SELECT nspname, relname, relkind, relreplident, relacl::text, reloptions::text"
            f" FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace WHERE {mine} ORDER BY 1, 2",
            "SELECT tgname, tgrelid::regclass::text FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2",
            "SELECT proname, proacl::text FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace"
            f" WHERE {mine} ORDER BY 1",
            f"SELECT nspname, nspacl::text FROM pg_namespace WHERE {mine} ORDER BY 1",
            "SELECT pubname FROM pg_publication",
            "SELECT slot_name FROM pg_replication_slots WHERE database = current_database()",
            "SELECT rolname, rolreplication FROM pg_roles WHERE rolname !~ '^pg_' ORDER BY 1",
        )
    ]
