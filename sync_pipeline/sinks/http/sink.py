"""The HTTP sink: objects of an entity, sent to the API of a service that owns its store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa

from sync_pipeline.errors import DeclarationError
from sync_pipeline.ledger import claims
from sync_pipeline.model.findings import Finding
from sync_pipeline.model.notices import Notice
from sync_pipeline.model.places import Place
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext, Span
from sync_pipeline.sinks.http.declaration import EndpointDeclaration
from sync_pipeline.sinks.operations import Operations, Sent
from sync_pipeline.sinks.outer import OuterSink, Seen
from sync_pipeline.sinks.pages import ColumnPage, SinkPage
from sync_pipeline.sinks.sink import PartPage
from sync_pipeline.stores.breaker import Breaker
from sync_pipeline.stores.stores import Stores


@dataclass(frozen=True)
class HttpEndpoint(EndpointDeclaration, OuterSink):
    """A service's own API: each row is sent to `url` as a JSON object of `fields`, and a row that is gone is deleted.

    `url` names the object's key: `https://catalog.example/items/{key}`. It is written with `method` and deleted with
    DELETE. With `batch=100`, up to as many are sent in one request with `method` to a url that names no key. A text
    such as `$SYNC_CATALOG_TOKEN` in `url`, `read_url`, `headers` and `ca_file` is replaced by that setting's value:
    `headers={"Authorization": "Bearer $SYNC_CATALOG_TOKEN"}`.

    Each request bears the revision of the row in `Sync-Revision`, and an `Idempotency-Key` of entity, key and revision.
    The receiver keeps the highest revision of each key, also of one that was deleted, and answers 409 to a lower one. A
    receiver that does not is declared `ordering="none"`, and may show an older object for a moment.

    `read_url`, such as `https://catalog.example/items/{key}`, is where reconciliation reads objects; without it the
    sink is not verifiable. `json_fields` are text columns that hold JSON already. `where` names a boolean column of the
    adapted frame: only rows that have it true are sent. A request may take `timeout_seconds`, on as many `connections`
    at once. `ca_file` holds the authorities (PEM) that sign its certificate, where the machine's own do not.
    """

    recovery_parts: ClassVar[tuple[str, ...]] = ("ledger",)

    @property
    def can_read(self) -> bool:
        """Whether it has a URL to read from."""
        return bool(self.read_url)

    @property
    def place(self) -> Place:
        """Its URL, as it is declared."""
        return Place("endpoint", self.url, "give one of them another url in its HttpEndpoint", description=self.url)

    @property
    def declared(self) -> frozenset[str]:
        """Its fields."""
        return frozenset(self.fields)

    def asset_path(self, entity: str) -> tuple[str, ...]:
        """By entity and sink."""
        return "http", f"{entity}_{self.id}_objects"

    def page(self, entity: str) -> SinkPage:
        """Objects of an API, with their fields."""
        only = f", where `{self.where}` is true" if self.where else ""
        return SinkPage(
            frozenset({"http"}),
            f"Objects of {entity}, sent to `{self.url}`{only}.",
            tuple(ColumnPage(name, "JSON") for name in self.fields),
        )

    def column_faults(self, adapted: pa.Table) -> Iterator[str]:
        """What of its fields adapted rows lack."""
        try:
            self.contents(adapted)
        except DeclarationError as error:
            yield str(error)

    def open(self, stores: Stores, entity: str) -> None:
        """Record the endpoint as the entity's. Raises OwnershipError where it is another entity's."""
        with stores.target() as cursor:
            claims.claim(cursor, entity, self.place, lambda: False)

    def preflight(self, stores: Stores, entity: str) -> Iterator[Notice]:
        """Whether the endpoint answers, and what its declaration gives up."""
        from sync_pipeline.sinks.http.preflight import check_endpoint

        yield from check_endpoint(stores, entity, self)

    def breaker(self, stores: Stores) -> Breaker:
        """The endpoint's own."""
        return stores.breaker(f"{self.kind} {self.url}")

    def send(self, context: SinkContext, operations: Operations) -> Sent:
        """Send objects. Raises as `OuterSink.send` does."""
        from sync_pipeline.sinks.http.send import send

        return send(context, self, operations)

    def read(self, context: SinkContext, ids: Sequence[str]) -> Mapping[str, Seen]:
        """The objects that the receiver holds, where it can be read."""
        from sync_pipeline.sinks.http.compare import read_objects

        if not self.read_url:
            return {}
        held = read_objects(context, self, ids)
        return {key: Seen(each.version or 0) for key, each in held.items()}

    def compare(self, context: SinkContext, expected: Adapted, span: Span) -> list[Finding]:
        """Objects that are missing, stale or corrupt, and those of rows that want none; nothing without a read_url."""
        from sync_pipeline.sinks.http.compare import compare_objects

        return compare_objects(context, self, expected, span.asked) if self.read_url else []

    def compare_part(self, context: SinkContext, part: str, position: list[str] | None) -> PartPage:
        """Compare the ledger's rows with what the receiver holds."""
        from sync_pipeline.sinks.http.compare import compare_ledger

        return compare_ledger(context, self, position)
