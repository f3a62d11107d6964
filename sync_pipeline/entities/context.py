"""An entity in its context: its stores open, its legacy columns known, its ledger there."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass

from sync_pipeline.entities.origin import Origin
from sync_pipeline.entity import Entity
from sync_pipeline.errors import DeclarationError, UnreachableError
from sync_pipeline.ledger.gate import Gate
from sync_pipeline.ledger.ledger import Ledger, migrate
from sync_pipeline.ledger.sinks import HeldBits, register
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.table.before_images import forget_all
from sync_pipeline.sinks.table.present import target_tables
from sync_pipeline.sinks.table.references import register as register_references
from sync_pipeline.stores.stores import Stores


@dataclass(frozen=True)
class EntityContext:
    """An entity ready to move."""

    entity: Entity
    stores: Stores
    origin: Origin
    ledger: Ledger
    bits: HeldBits
    gate: Gate | None = None  # where rows are parts of roots

    @property
    def of_sinks(self) -> SinkContext:
        """What its sinks are given of it."""
        table = self.entity.table.quoted
        return SinkContext(self.entity.name, self.origin.key, self.stores, self.ledger, table, self.bits)

    def as_written(self, adapted: Adapted) -> Adapted:
        """Adapted rows as the sinks have them written: with files named by their new keys, for example."""
        for sink in self.entity.sinks:
            adapted = sink.as_written(self.of_sinks, adapted)
        return adapted

    @classmethod
    def open(cls, entity: Entity, stores: Stores, *, shadow: bool = False) -> EntityContext:
        """Look at the legacy query; make ledger, table and, if the cluster answers, index where they are not there.

        Columns that the table lacks may come with another table: a `shadow`, or where one is being filled. Raises
        UnreachableError, OtherServerError, LegacySchemaError, DeclarationError.
        """
        migrate(stores)
        stores = stores.of_entity(entity.name, filtered=entity.is_filtered)
        stores.ledger_id()  # sessions bear it from now on
        stores.confirm_servers()
        origin = Origin.open(entity, stores)
        if entity.version_column and entity.version_column not in origin.schema.names:
            raise DeclarationError(
                f"entity {entity.name}: the legacy query returns no column {entity.version_column!r},"
                " which its Outbox names as version"
            )
        with stores.target() as cursor:
            versions = origin.digest_version, origin.former_version, origin.digest
            ledger = Ledger.open(cursor, entity.name, origin.key, entity.version, *versions)
            gate = Gate(ledger, origin.root) if origin.has_parts else None
            if gate:
                gate.ensure(cursor)
            entity.table.open_in(cursor, entity.name)
            target_tables(cursor, entity.name, entity.table, shadow=shadow)
            if not entity.compensates:
                forget_all(cursor, entity.name)
            register_references(cursor, entity.name, entity.table)
            bits = register(cursor, entity.name, ledger.table, entity.known_sinks)
        context = cls(entity, stores, origin, ledger, bits, gate)
        for sink in entity.other_sinks:  # rows do not wait for their stores; what goes there looks again
            with suppress(UnreachableError):
                sink.open(stores, entity.name)
        return context


def open_contexts(stores: Stores, entities: Iterable[Entity]) -> tuple[list[EntityContext], dict[str, Exception]]:
    """Contexts of the entities that can be opened, and what stops the others. Raises UnreachableError."""
    contexts: list[EntityContext] = []
    stopped: dict[str, Exception] = {}
    for entity in entities:
        try:
            contexts.append(EntityContext.open(entity, stores))
        except DeclarationError as error:
            stopped[entity.name] = error
    return contexts, stopped
