"""Reports: a row for each, by month, whose changes only sweeps catch."""

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import Monthly
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.sweep_only import SweepOnly
from sync_pipeline.sources.table import Table


def adapt(legacy):
    return {"id": legacy["id"], "title": legacy["title"]}


def reports(kind=None):
    return Entity(
        name="reports",
        owner="team:tests",
        origin=LegacyQuery("SELECT id, title, created_at FROM reports", key=("id",)),
        tables=(Table("reports", key=("id",)),),
        capture=SweepOnly(),
        adapt=adapt,
        sinks=(RelationalTable("catalog.reports", key=("id",), columns={"id": "bigint", "title": "text"}),),
        partitions=kind or Monthly("created_at", start="2026-10"),
    )


entity = reports()
