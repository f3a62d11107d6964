"""Entity: the declaration of one thing to keep in step. One file an entity; no I/O at import."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal, get_args

from sync_pipeline.errors import DeclarationError
from sync_pipeline.ledger.sinks import DeclaredSink
from sync_pipeline.partitions import Partitions
from sync_pipeline.sinks.outer import OuterSink, outer
from sync_pipeline.sinks.placing import PlacingSink, placing
from sync_pipeline.sinks.sink import Sink
from sync_pipeline.sinks.table import RelationalTable, tables_of
from sync_pipeline.sources.outbox import Outbox
from sync_pipeline.sources.source import Capture
from sync_pipeline.sources.table import Table
from sync_pipeline.sources.watermark import Watermark

# reports read declarations and adapt nothing: they do not wait a second for pandas
if TYPE_CHECKING:
    import pandas as pd

Adapter = Callable[["pd.DataFrame"], "Mapping[str, pd.Series] | pd.DataFrame"]
# what becomes of a row that an outer sink refuses for good: it stays, or it is put back as it was before
OnRefused = Literal["forward", "compensate"]


# columns of the ledger's tables, and of those in which batches are staged
_LEDGER_NAMES = frozenset(
    {
        *("n", "action", "held", "seen", "written", "digest", "basis", "target_digest", "overtaken", "found", "kept"),
        *("held_before", "digest_before", "basis_before", "seen_before", "written_before", "_digest", "_elsewise"),
    }
)


@dataclass(frozen=True)
class LegacyQuery:
    """The legacy rows of an entity: any SELECT whose output columns are all that adapter and digest see.

    `key` names the output columns that identify a row. What is filtered out by the query does not exist.
    Where a legacy row comes as none, one or several rows here, its parts, `root` names the first of the key's columns,
    those that identify the legacy row.
    """

    sql: str
    key: tuple[str, ...]
    root: tuple[str, ...] = ()


@dataclass(frozen=True)
class Entity:
    """One thing to keep in step.

    `adapt` takes legacy columns (Arrow-backed, one row per key) and returns read-side columns by name with the same
    index, or a frame of them: each row on its own, no I/O. `tables` are those whose changes change a row, `capture`
    says how they are caught. Raise `version` when `adapt` or a sink's columns change: rows written by an older version
    count as outdated until they are synced again.

    `on_refused="compensate"` is for objects that readers must see whole: where the index refuses a document for good,
    row and files' references are put back as they were before (ADR 16). By default what is done stays.

    `comments` say in plain words what columns of the adapted frame mean, where their names do not.
    """

    name: str
    owner: str
    origin: LegacyQuery
    tables: tuple[Table, ...]
    adapt: Adapter
    sinks: tuple[Sink, ...]
    partitions: Partitions
    capture: Capture = field(default_factory=Watermark)
    version: int = 1
    on_refused: OnRefused = "forward"
    description: str = ""
    comments: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", self.name):
            raise DeclarationError(f"entity {self.name!r}: a name is lower-case letters, digits and underscores")
        if self.version < 1:
            raise DeclarationError(f"entity {self.name}: version counts from 1")
        if not self.origin.key:
            raise DeclarationError(f"entity {self.name}: origin.key names no column")
        if self.on_refused not in get_args(OnRefused):
            raise DeclarationError(f"entity {self.name}: on_refused is one of {', '.join(get_args(OnRefused))}")
        self._check_sinks()
        self._check_compensation()
        self._check_keys()
        self._check_facts()
        unknown = self.comments.keys() - self.declared
        if unknown:
            raise DeclarationError(f"entity {self.name}: comments name {min(unknown)!r}, which no sink declares")

    def _check_sinks(self) -> None:
        """Sinks are told apart by their names; only the first table may refer to other rows, or have an own key."""
        names = [sink.id for sink in self.sinks]
        for sink in self.sinks:
            if names.count(sink.id) > 1:
                raise DeclarationError(
                    f"entity {self.name}: two sinks are named {sink.id!r}: give one of them a label, such as"
                    f" {type(sink).__name__}(…, label='{sink.id}_2')"
                )
            if not re.fullmatch(r"[a-z][a-z0-9_]{0,40}", sink.id):
                raise DeclarationError(
                    f"entity {self.name}: the label {sink.label!r} of a sink must be lower-case letters, digits and"
                    " underscores"
                )
        for table in tables_of(self.sinks)[1:]:
            if table.references or table.primary_key:
                raise DeclarationError(
                    f"entity {self.name}: {table.name} is not the first table, so it has no references and no"
                    " primary_key: declare them in the first one, or make it an entity of its own"
                )
            if len(table.key) != len(self.origin.key):
                raise DeclarationError(f"entity {self.name}: {table.name} and the origin differ in key columns")

    def _check_compensation(self) -> None:
        if not self.compensates:
            return
        if not self.outer_sinks:
            raise DeclarationError(f"entity {self.name}: on_refused='compensate' needs a SearchIndex, which refuses")
        if len(self.outer_sinks) > 1 or len(self.placing_sinks) > 1:
            raise DeclarationError(
                f"entity {self.name}: on_refused='compensate' puts back one outer sink and one MediaBucket, and it has"
                f" {', '.join(sink.id for sink in (*self.outer_sinks, *self.placing_sinks))}: leave it out, or leave"
                " out sinks"
            )
        (sink,) = self.outer_sinks
        if not sink.can_restore:
            raise DeclarationError(
                f"entity {self.name}: on_refused='compensate' puts former objects back, which {sink.id} cannot: leave"
                " it out"
            )

    def _check_facts(self) -> None:
        for sink in self.placing_sinks:
            for fact, name in sink.filled:
                if name not in self.declared:
                    raise DeclarationError(
                        f"entity {self.name}: {type(sink).__name__}({fact}=…) fills {name!r}, which no sink declares"
                    )

    def _check_keys(self) -> None:
        for column in self.origin.key:
            if column in _LEDGER_NAMES or "%" in column:
                raise DeclarationError(
                    f"entity {self.name}: a key column cannot be named {column!r}, because the ledger keeps keys beside"
                    f" columns and statements of its own: select it in the query under another name"
                )
        if len(self.table.key) != len(self.origin.key):
            raise DeclarationError(f"entity {self.name}: {self.table.name} and the origin differ in key columns")
        root = self.origin.root or self.origin.key
        if root != self.origin.key[: len(root)]:
            raise DeclarationError(f"entity {self.name}: origin.root must be the first columns of origin.key")
        if len(root) < len(self.origin.key) and self.version_column:
            raise DeclarationError(f"entity {self.name}: events' versions need one row for each root")
        self._check_primary_key(root)
        for table in self.tables:
            if len(table.key) != len(root):
                raise DeclarationError(f"entity {self.name}: Table({table.name!r}).key must give the root's key")

    def _check_primary_key(self, root: tuple[str, ...]) -> None:
        """A table may leave a root out of its key where rows are parts of it, and nothing else."""
        if not self.table.outer_key:
            return
        named = f"entity {self.name}: {self.table.name} has primary_key ({', '.join(self.table.primary_key)})"
        if root == self.origin.key:
            raise DeclarationError(
                f"{named}, which is for parts only: name the legacy row in LegacyQuery(root=…), or leave it out"
            )
        if not {*self.table.identity} - {*self.table.key[: len(root)]}:
            raise DeclarationError(
                f"{named}, by which the parts of one root are all the same row: name the part's own column"
            )

    def refuse_reference_from(self, name: str) -> str:
        """Says why the entity `name` cannot refer to this one's rows; empty where it can."""
        if not self.table.outer_key:
            return ""
        return (
            f"entity {name} refers to {self.name} by ({', '.join(self.origin.key)}), and {self.table.name} has"
            f" primary_key ({', '.join(self.table.primary_key)}): a part could not move, because its former row waits"
            f" for rows that wait for the new one. Leave out that reference, or primary_key"
        )

    @property
    def table(self) -> RelationalTable:
        """The table that is written in the ledger's transaction: the first one.

        Raises DeclarationError when there is none.
        """
        for table in tables_of(self.sinks):
            return table
        raise DeclarationError(f"entity {self.name}: a RelationalTable is required; documents and media follow it")

    @property
    def outer_sinks(self) -> list[OuterSink]:
        """The sinks that are owed what a batch wrote, and are sent it afterwards: all but the first table and files."""
        return [sink for sink in outer(self.sinks) if sink is not self.table]

    @property
    def placing_sinks(self) -> list[PlacingSink]:
        """The sinks that are written before the rows, which name what is there."""
        return placing(self.sinks)

    @property
    def other_sinks(self) -> list[Sink]:
        """All sinks but the first table, those that are written last first.

        They are opened in this order, so that where one belongs to another deployment nothing is marked before it.
        """
        others = [sink for sink in self.sinks if sink is not self.table]
        return sorted(others, key=lambda sink: sink.stage, reverse=True)

    @property
    def sinks_with_bits(self) -> list[str]:
        """The names of its sinks that hold objects of keys, the first table before all others."""
        return [self.table.id, *(sink.id for sink in self.outer_sinks)]

    @property
    def sink_names(self) -> list[str]:
        """The names of all its sinks."""
        return [sink.id for sink in self.sinks]

    @property
    def documented(self) -> frozenset[str]:
        """The columns of adapted rows that outer sinks other than tables keep."""
        tables = tables_of(self.sinks)
        return frozenset[str]().union(*(sink.declared for sink in self.outer_sinks if sink not in tables))

    @property
    def known_sinks(self) -> list[DeclaredSink]:
        """Its sinks as the ledger is to know them, the first table before all others."""
        sinks, bits = [self.table, *(sink for sink in self.sinks if sink is not self.table)], self.sinks_with_bits
        return [DeclaredSink(sink.id, sink.id in bits, sink.recovery_parts, sink.place.shown) for sink in sinks]

    def sink(self, name: str) -> Sink | None:
        """Return the sink of a name; None where the file declares it no longer."""
        return next((sink for sink in self.sinks if sink.id == name), None)

    @property
    def declared(self) -> frozenset[str]:
        """The columns of adapted rows that a sink keeps."""
        return frozenset[str]().union(*(sink.declared for sink in self.sinks))

    @property
    def is_filtered(self) -> bool:
        """Whether row-level security may leave rows out of what is read, because a table says that this is meant."""
        return any(table.policies == "complete" for table in self.tables)

    @property
    def version_column(self) -> str:
        """The query's column that events' versions are compared with; empty where they are not."""
        return self.capture.version if isinstance(self.capture, Outbox) else ""

    @property
    def compensates(self) -> bool:
        """Whether a revision that an outer sink refuses for good is undone."""
        return self.on_refused == "compensate"
