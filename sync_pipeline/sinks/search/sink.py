"""The search sink: documents of an entity behind an alias."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import pyarrow as pa

from sync_pipeline.errors import DeclarationError
from sync_pipeline.model.findings import Finding
from sync_pipeline.model.notices import Notice
from sync_pipeline.model.places import Place
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext, Span
from sync_pipeline.sinks.operations import Operations, Sent
from sync_pipeline.sinks.outer import OuterSink, Seen
from sync_pipeline.sinks.ownership import Mark
from sync_pipeline.sinks.pages import ColumnPage, SinkPage
from sync_pipeline.sinks.search.declaration import FieldMapping, IndexDeclaration
from sync_pipeline.sinks.search.requests import reaching
from sync_pipeline.sinks.sink import PartPage, Sink, SinkSize
from sync_pipeline.stores.breaker import Breaker
from sync_pipeline.stores.stores import Stores


@dataclass(frozen=True)
class SearchIndex(IndexDeclaration, OuterSink):
    """Documents behind `alias`: `fields` maps each field (a column of the adapted frame) to its mapping.

    `json_fields` are text columns that hold JSON already. `where` names a boolean column of the adapted
    frame: only rows that have it true have a document. `settings` are the index's, where we make it; what they leave
    out, a rebuilt index takes from the one before it. `label` names the index among several of the entity.
    """

    noun: ClassVar[str] = "document"
    recovery_parts: ClassVar[tuple[str, ...]] = ("index", "filling index", "ledger")
    can_restore: ClassVar[bool] = True

    @property
    def place(self) -> Place:
        """Its alias."""
        return Place("index", self.alias, "give one of them another alias in its SearchIndex")

    @property
    def places(self) -> tuple[Place, ...]:
        """Its alias, and the one that a rebuild fills."""
        return self.place, replace(self.place, name=self.next_alias)

    @property
    def declared(self) -> frozenset[str]:
        """Its fields."""
        return frozenset(self.fields)

    def asset_path(self, entity: str) -> tuple[str, ...]:
        """By its alias."""
        return "search", f"{self.alias}_documents"

    def page(self, entity: str) -> SinkPage:
        """Documents behind an alias, with the mappings of their fields."""
        only = f", where `{self.where}` is true" if self.where else ""
        return SinkPage(
            frozenset({"elasticsearch"}),
            f"Documents of {entity} behind the alias `{self.alias}`{only}.",
            tuple(_field(name, mapping) for name, mapping in self.fields.items()),
        )

    def column_faults(self, adapted: pa.Table) -> Iterator[str]:
        """What of its fields adapted rows lack."""
        try:
            self.documents(adapted)
        except DeclarationError as error:
            yield str(error)

    def open(self, stores: Stores, entity: str) -> None:
        """Make the index where it is not there, and mark it as ours. Raises as `Sink.open` does."""
        from sync_pipeline.sinks.search import ownership

        try:
            self.ensure(stores.search, ownership.index_meta(stores, entity))
        except DeclarationError as error:
            raise DeclarationError(f"entity {entity}: {error}") from error
        ownership.claim_index(stores, entity, self.place)
        stores.ensured.add(self.alias)

    def preflight(self, stores: Stores, entity: str) -> Iterator[Notice]:
        """Whether the alias is free, or leads to one index that is mapped as declared."""
        from sync_pipeline.sinks.search.preflight import check_alias

        yield from check_alias(stores, entity, self)

    def marks(self, stores: Stores) -> list[Mark]:
        """The marks of the indices behind the alias."""
        from sync_pipeline.sinks.search import ownership

        return ownership.index_marks(stores, self.alias)

    def unmarked(self, stores: Stores, entity: str, mark: Mark) -> Iterator[Notice]:
        """An index that we may mark is marked when the entity is opened next."""
        from sync_pipeline.sinks.search import ownership

        yield from ownership.unmarked_index(stores, entity, mark)

    def take_over(self, stores: Stores, entity: str) -> list[Mark]:
        """Mark the indices behind the alias as ours."""
        from sync_pipeline.sinks.search import ownership

        return ownership.take_over_index(stores, entity, self.alias)

    def breaker(self, stores: Stores) -> Breaker:
        """The cluster's."""
        return stores.search_breaker

    def send(self, context: SinkContext, operations: Operations) -> Sent:
        """Send documents to the alias, in bulk requests. Raises as `OuterSink.send` does."""
        return self.send_with_shadow(context, operations, operations, "")

    def send_with_shadow(self, context: SinkContext, operations: Operations, shown: Operations, shadow: str) -> Sent:
        """Send documents to the shadow index first, then those that are shown to the alias."""
        from sync_pipeline.sinks.search.send import send

        if self.alias not in context.stores.ensured:
            self.open(context.stores, context.entity)
        return send(context, self, operations, shown, shadow)

    def read(self, context: SinkContext, ids: Sequence[str]) -> Mapping[str, Seen]:
        """The documents behind the alias, in real time."""
        from sync_pipeline.sinks.search.restore import documents_of

        return documents_of(context, self, ids)

    def delete_foreign(self, context: SinkContext, ids: Sequence[str]) -> None:
        """Delete documents that are no rows of the entity."""
        from sync_pipeline.sinks.search.requests import delete_documents

        delete_documents(context.stores.search, self.alias, ids)

    def restore(self, context: SinkContext, former: Mapping[str, tuple[int, str | None]], *, has_shadow: bool) -> None:
        """Write former documents to the alias, and to the shadow index before it."""
        from sync_pipeline.sinks.search.restore import restore

        restore(context, self, former, has_shadow=has_shadow)

    def compare_part(self, context: SinkContext, part: str, position: list[str] | None) -> PartPage:
        """Compare versions of documents with the ledger: of the index, of the shadow index, or of the ledger's rows."""
        from sync_pipeline.sinks.search.recovery import compare_index, compare_ledger

        if part == "ledger":
            self.open(context.stores, context.entity)
            return compare_ledger(context, self, position)
        return compare_index(context, self, position, self.alias if part == "index" else self.next_alias)

    def compare(self, context: SinkContext, expected: Adapted, span: Span) -> list[Finding]:
        """Documents that are missing, stale or corrupt, and those of rows that want none."""
        from sync_pipeline.sinks.search.compare import compare_documents

        return compare_documents(context, self, expected, span.asked)

    def compare_rest(self, context: SinkContext) -> list[Finding]:
        """Documents that the ledger does not know."""
        from sync_pipeline.sinks.search.compare import extra_documents

        return extra_documents(context, self)

    def measure(self, stores: Stores) -> SinkSize | None:
        """Its documents, and the bytes of its primary shards."""
        with reaching():
            if not stores.search.indices.exists_alias(name=self.alias):
                return None
            count = stores.search.count(index=self.alias)["count"]
            stats = stores.search.indices.stats(index=self.alias, metric="store")
        return SinkSize(count, stats["_all"]["primaries"]["store"]["size_in_bytes"])


def _field(name: str, mapping: FieldMapping) -> ColumnPage:
    notes = (f"{key}: {value}".lower() for key, value in mapping.items() if key not in {"type", "properties"})
    return ColumnPage(name, str(mapping.get("type", "object")), notes=tuple(notes))


def indices_of(sinks: Iterable[Sink]) -> list[SearchIndex]:
    """Return the search indices among some sinks."""
    return [sink for sink in sinks if isinstance(sink, SearchIndex)]
