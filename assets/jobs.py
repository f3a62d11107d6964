"""Jobs that people start by hand or by schedule, each with a short form: backfill, sweep, repair, rebuild."""

import time
from collections import Counter
from dataclasses import asdict
from typing import Any

import dagster as dg
from pydantic import Field

from assets.history import POOL, fill_partitions, not_filled
from assets.resources import Engine
from sync_pipeline.batch.order import Outcome
from sync_pipeline.entities.context import EntityContext
from sync_pipeline.entities.files import pick
from sync_pipeline.entities.visibility import check_visibility
from sync_pipeline.entity import Entity
from sync_pipeline.model.findings import FindingKind
from sync_pipeline.operate.repair import Step, as_report, carry_out, plan, plan_keys
from sync_pipeline.rebuild.index import index_names
from sync_pipeline.rebuild.rebuild import Rebuilt, abandon, clear, rebuild_index, rebuild_table
from sync_pipeline.rebuild.report import Report
from sync_pipeline.reconcile.reconcile import reconcile
from sync_pipeline.run.sweep import sweep
from sync_pipeline.stores.stores import Stores

_MENDED = ("written", "deleted", "documents", "files", "parked")
# the queue starts these after runs of the live delta
_BEHIND_LIVE = {"dagster/priority": "-10"}
# a long step says so often how far it is
_TELL_SECONDS = 10.0
# of what differs, in a run's failure
_NAMED = 20


class Entities(dg.Config):
    """Which entities."""

    entities: list[str] = Field([], description="Names of entities; none: all.")


class Partitions(Entities):
    """Which partitions of which entities."""

    partitions: list[str] = Field([], description="Names of partitions; none: all from `first` to `last`.")
    first: str = Field("", description="The first partition of a range; empty: the entity's first.")
    last: str = Field("", description="The last partition of a range; empty: the entity's last.")


class Keys(dg.Config):
    """What to repair."""

    entities: list[str] = Field([], description="Names of entities; none: all.")
    keys: list[str] = Field([], description="Keys to write again, drifting or not; they go with one entity.")
    dry_run: bool = Field(False, description="Only list what would be done: place, key, action and reason.")


class Rebuilds(dg.Config):
    """Which indices or tables to rebuild, or what to do instead."""

    entities: list[str] = Field([], description="Names of entities; none: all that have an index.")
    sink: str = Field("", description="The name of the index, where an entity has several; none: all of them.")
    tables: bool = Field(False, description="Their tables, by the tables NAME_next that are there; not their indices.")
    abandon: bool = Field(False, description="Give up what is under way instead, with what it has filled.")
    clear: bool = Field(False, description="Delete the former ones afterwards; else they are kept.")


def jobs(entities: dict[str, Entity]) -> list[dg.JobDefinition]:
    """The jobs, over these entities."""
    return [_backfill(entities), _sweep(entities), _repair(entities), _rebuild(entities)]


def _backfill(entities: dict[str, Entity]) -> dg.JobDefinition:
    @dg.op(name="fill", pool=POOL, out=dg.Out(dg.Nothing))
    def fill(context: dg.OpExecutionContext, engine: Engine, config: Partitions) -> None:
        """Each partition is told as it is done; one that fails is named and left."""
        chosen = pick(entities, config.entities)
        parts = {entity.name: _parts(entity, config) for entity in chosen}
        failures = {}
        with engine.stores(context.run.run_id) as stores:
            for entity in chosen:
                whole = not (config.partitions or config.first or config.last)
                found = fill_partitions(context, EntityContext.open(entity, stores), parts[entity.name], whole=whole)
                failures.update({f"{entity.name} {part}": error for part, error in found.items()})
        if failures:
            raise not_filled(failures)

    @dg.job(
        name="backfill",
        description="Fill histories by partition, in one run. The same is started from the page of a history asset.",
        tags=_BEHIND_LIVE,
    )
    def backfill() -> None:
        fill()

    return backfill


def _parts(entity: Entity, config: Partitions) -> list[str]:
    names = entity.partitions.names()
    wanted = [*config.partitions, *filter(None, (config.first, config.last))]
    if unknown := [name for name in wanted if name not in names]:
        raise dg.Failure(
            f"entity {entity.name} has no partition {', '.join(unknown)}: they run from {names[0]} to {names[-1]}",
            allow_retries=False,
        )
    if config.partitions:
        return config.partitions
    first = names.index(config.first) if config.first else 0
    last = names.index(config.last) if config.last else len(names) - 1
    return names[first : last + 1]


def _sweep(entities: dict[str, Entity]) -> dg.JobDefinition:
    @dg.op(name="look_for_unreported", out=dg.Out(dg.Nothing))
    def look(context: dg.OpExecutionContext, engine: Engine, config: Entities) -> None:
        """What differs is owed in `due`, and applied by the run that follows."""
        with engine.stores(context.run.run_id) as stores:
            rows = [
                {"entity": entity.name, **asdict(sweep(EntityContext.open(entity, stores)))}
                for entity in pick(entities, config.entities)
            ]
        _show(context, rows)

    @dg.job(
        name="sweep",
        description="Compare keys and digests of both sides and owe what differs: hard deletes, bulk updates, files"
        " overwritten. The live delta does this by itself every SYNC_SWEEP_SECONDS.",
    )
    def sweeping() -> None:
        look()

    return sweeping


def _repair(entities: dict[str, Entity]) -> dg.JobDefinition:
    @dg.op(name="mend", out=dg.Out(dg.Nothing))
    def mend(context: dg.OpExecutionContext, engine: Engine, config: Keys) -> None:
        """Reconcile, then write again what drifts and nothing else."""
        if config.keys and len(config.entities) != 1:
            raise dg.Failure("keys go with one entity: name it", allow_retries=False)
        with engine.stores(context.run.run_id) as stores:
            entity_contexts = [EntityContext.open(entity, stores) for entity in pick(entities, config.entities)]
            if config.dry_run:
                _show(
                    context, [row for entity_context in entity_contexts for row in _steps(entity_context, config.keys)]
                )
                return
            rows = [
                {"entity": entity_context.entity.name, **_mended(entity_context, config.keys)}
                for entity_context in entity_contexts
            ]
        _show(context, rows)
        if unknown := [str(row["entity"]) for row in rows if row["unknown"]]:
            raise dg.Failure(f"{', '.join(unknown)}: something could not be looked at; the job reconcile says what.")

    @dg.job(name="repair", description="Write again what reconciliation finds drifting, or the keys you name.")
    def repairing() -> None:
        mend()

    return repairing


def _mended(entity_context: EntityContext, keys: list[str]) -> dict[str, int]:
    steps, unknown = _planned(entity_context, keys)
    check_visibility(entity_context.entity, entity_context.stores)
    outcomes = carry_out(entity_context, steps)
    return {"found": len(steps), "unknown": unknown} | {name: _sum(outcomes, name) for name in _MENDED}


def _steps(entity_context: EntityContext, keys: list[str]) -> list[dict[str, str]]:
    """What would be done, capped."""
    report = as_report(_planned(entity_context, keys)[0])
    counts = [{"key": f"{each['count']} in all", **each, "reason": ""} for each in report["counts"]]
    named = ("place", "key", "action", "reason")
    return [
        {"entity": entity_context.entity.name, **{name: str(row[name]) for name in named}}
        for row in [*counts, *report["steps"]]
    ]


def _planned(entity_context: EntityContext, keys: list[str]) -> tuple[list[Step], int]:
    """What is to be done, and how much could not be looked at."""
    if keys:
        return plan_keys(entity_context, entity_context.origin.key.parse(keys)), 0
    findings = reconcile(entity_context).findings
    return plan(entity_context, findings), sum(finding.kind == FindingKind.UNKNOWN for finding in findings)


def _sum(outcomes: list[Outcome], name: str) -> int:
    return sum(getattr(outcome, name) for outcome in outcomes)


def _rebuild(entities: dict[str, Entity]) -> dg.JobDefinition:
    @dg.op(name="fill_and_swap", pool=POOL, out=dg.Out(dg.Nothing))
    def fill_and_swap(context: dg.OpExecutionContext, engine: Engine, config: Rebuilds) -> None:
        """Readers move to a new index at once, or not at all; terminated, it goes on in the next run."""
        if config.tables and not config.entities:
            raise dg.Failure("tables are rebuilt of entities that are named", allow_retries=False)
        chosen = pick(entities, config.entities)
        if not config.tables:
            chosen = [entity for entity in chosen if _indices(entity, config)]
        with engine.stores(context.run.run_id) as stores:
            if config.abandon:
                _show(context, [{"entity": entity.name, "deleted": abandon(stores, entity)} for entity in chosen])
                return
            found = [
                rebuilt for entity in chosen for rebuilt in _rebuilt(entity, stores, config, _telling(context, entity))
            ]
            _show(context, [_row(rebuilt, config.clear, stores, entities) for rebuilt in found])
        if wrong := [rebuilt for rebuilt in found if rebuilt.findings]:
            raise _not_swapped(wrong)

    @dg.job(
        name="rebuild",
        description="Fill a new search index or table beside the one that readers use, as the entity's file says today;"
        " compare it with the ledger, and put it in the other's place. The live delta goes on meanwhile.",
        tags=_BEHIND_LIVE,
    )
    def rebuild() -> None:
        fill_and_swap()

    return rebuild


def _rebuilt(entity: Entity, stores: Stores, config: Rebuilds, report: Report) -> list[Rebuilt]:
    if config.tables:
        return [rebuild_table(EntityContext.open(entity, stores, shadow=True), report)]
    names = _indices(entity, config)
    return [rebuild_index(EntityContext.open(entity, stores), report, sink=name) for name in names]


def _indices(entity: Entity, config: Rebuilds) -> list[str]:
    """The names of the entity's indices that are to be rebuilt."""
    return index_names(entity, config.sink, is_named=bool(config.entities))


def _telling(context: dg.OpExecutionContext, entity: Entity) -> Report:
    """Says in the run's log how far a step is, now and then."""
    done: Counter[str] = Counter()
    reported_at = time.monotonic()

    def report(step: str, count: int) -> None:
        nonlocal reported_at
        first = step not in done
        done[step] += count
        if first or time.monotonic() - reported_at > _TELL_SECONDS:
            reported_at = time.monotonic()
            context.log.info(f"{entity.name}: {done[step]:,} {step}")

    return report


def _row(rebuilt: Rebuilt, clears: bool, stores: Stores, entities: dict[str, Entity]) -> dict[str, Any]:
    """What came of a rebuild, for a table."""
    row = asdict(rebuilt) | {"findings": len(rebuilt.findings)}
    if clears and not rebuilt.findings:
        row["deleted"] = ", ".join(clear(stores, entities[rebuilt.entity]))
    return row


def _not_swapped(wrong: list[Rebuilt]) -> dg.Failure:
    lines = [
        f"- {rebuilt.entity} {f.key}: {f.kind} {f.detail}"
        for rebuilt in wrong
        for f in sorted(rebuilt.findings)[:_NAMED]
    ]
    return dg.Failure(
        "\n".join(
            f"{each.name} differs from the ledger in {len(each.findings)} keys; readers stay with {each.former}"
            for each in wrong
        ),
        metadata={"differing": dg.MetadataValue.md("\n".join(lines))},
        allow_retries=False,
    )


def _show(context: dg.OpExecutionContext, rows: list[dict[str, Any]]) -> None:
    """A table with the step's output."""
    context.add_output_metadata({"entities": dg.MetadataValue.table([dg.TableRecord(row) for row in rows])})
