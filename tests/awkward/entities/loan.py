"""A loan: any of three stamps moves with it, and its own code tells its versions; a reminder, a branch is stamped."""

import pandas as pd

from sync_pipeline.entity import Entity, LegacyQuery
from sync_pipeline.partitions import KeyRanges
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table import RelationalTable
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.table import Table
from tests.awkward.entities._tables import capture

QUERY = """
    SELECT n.branch, n.number, n.borrower, n.fee, n.version, b.name AS branch_name,
           ARRAY(SELECT r.note FROM reminder r WHERE (r.branch, r.loan) = (n.branch, n.number) ORDER BY r.id)
               AS reminders
    FROM loan n LEFT JOIN branch b ON b.code = n.branch"""
KEY = ("branch", "number")
TURN = '"Old Vault"."Turn"'


def adapt(legacy: pd.DataFrame) -> pd.DataFrame:
    """As it is."""
    return legacy


entity = Entity(
    name="aw_loan",
    owner="team:awkward",
    origin=LegacyQuery(QUERY, key=KEY),
    tables=(
        Table("loan", key=KEY, stamp=("lent", "back", "turn"), zone="UTC", sequence=TURN),
        Table("reminder", key=("branch", "loan"), stamp="sent"),
        Table("branch", key=("n.branch", "n.number"), join="JOIN loan n ON n.branch = branch.code", stamp="turn"),
    ),
    capture=capture(Outbox(table='"Old Vault"."Told"', version="version")),
    adapt=adapt,
    sinks=(
        RelationalTable(
            "awkward.loan",
            key=KEY,
            columns={
                "branch": "text",
                "number": "integer",
                "borrower": "text",
                "fee": "numeric(12, 2)",
                "version": "bigint not null",
                "branch_name": "text",
                "reminders": "text[] not null",
            },
        ),
        SearchIndex(
            "aw_loan",
            fields={
                "branch": {"type": "keyword"},
                "number": {"type": "long"},
                "borrower": {"type": "keyword"},
                "fee": {"type": "double"},
                "version": {"type": "long"},
                "branch_name": {"type": "keyword"},
                "reminders": {"type": "keyword"},
            },
        ),
    ),
    partitions=KeyRanges(2),
)
