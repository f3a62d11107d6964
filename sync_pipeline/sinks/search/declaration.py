"""The search sink: documents of an entity behind an Elasticsearch alias.

Every document carries the ledger's revision as its external version, so that a late request of a dead worker
is refused. A delete's tombstone lives only for `index.gc_deletes` and dies with its node: whoever sends a bulk
looks afterwards whether its keys were overtaken meanwhile, and owes those again (documents.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import document_columns, json_objects
from sync_pipeline.errors import DeclarationError, IndexFaultError
from sync_pipeline.model.faults import guarded
from sync_pipeline.sinks.named import Named
from sync_pipeline.sinks.search.bulk import DEFAULT_BRAKE, Brake, Bulk, BulkResult, blame_mapping, decide
from sync_pipeline.sinks.search.requests import UNFIT, has_fit_id, innermost, is_single_node, reaching
from sync_pipeline.sinks.sink import select
from sync_pipeline.stores.index_state import alias_faults, data_stream_fault

# the client costs half a second to import; whoever only reads declarations does without
if TYPE_CHECKING:
    from elasticsearch import Elasticsearch
# no right to manage templates, or a cluster that simulates none
_NOT_ASKED = {403, 404, 405}
# no template of anybody's: two that match one name must differ in it
_OWN_PRIORITY = 987_654_321

# of a field, as Elasticsearch takes it: {"type": "keyword"}
FieldMapping = Mapping[str, Any]


@dataclass(frozen=True)
class IndexDeclaration(Named):
    """What a `SearchIndex` says: its fields are explained there."""

    kind: ClassVar[str] = "search"
    alias: str
    fields: Mapping[str, FieldMapping]
    json_fields: frozenset[str] = frozenset()
    where: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    label: str = ""

    @property
    def first_index(self) -> str:
        """The index that is made behind a free alias."""
        return f"{self.alias}-000001"

    @property
    def next_alias(self) -> str:
        """The name of an index that is filled to be the next one behind the alias, until it is."""
        return f"{self.alias}-next"

    @property
    def mappings(self) -> dict[str, Any]:
        """As an index is made with."""
        return {"dynamic": False, "properties": {name: dict(mapping) for name, mapping in self.fields.items()}}

    def ensure(self, client: Elasticsearch, meta: Mapping[str, Any] | None = None) -> None:
        """Make an index behind the alias where there is none, with `meta` as its mapping's `_meta`.

        Raises UnreachableError, also where the alias leads to no single index; DeclarationError naming what of it the
        cluster refuses.
        """
        from elasticsearch import BadRequestError

        with reaching():
            if client.indices.exists_alias(name=self.alias):
                if faults := [str(fault) for fault in alias_faults(client, self.alias) if fault.stops]:
                    raise IndexFaultError(f"SYNC_SEARCH_URL: {'; '.join(faults)}")
                return
            settings = {"number_of_replicas": 0} if is_single_node(client) else {}
            try:
                client.indices.create(
                    index=self.first_index,
                    settings={**settings, **self.settings},
                    mappings={**self.mappings, "_meta": dict(meta or {})},
                    aliases={self.alias: {}},
                )
            except BadRequestError as error:
                if error.error == "resource_already_exists_exception":
                    return
                if fault := data_stream_fault(client, self.first_index):
                    raise DeclarationError(str(fault)) from error
                faults = self.faults(client) or [innermost(error.body)]
                raise DeclarationError(
                    f"index {self.first_index} cannot be made: {'; '.join(faults)}: mend the entity's SearchIndex"
                ) from error

    def faults(self, client: Elasticsearch) -> list[str]:
        """What of its settings and fields the cluster would refuse, and why. Makes nothing; [] where we may not ask.

        Raises UnreachableError.
        """
        if why := _refusal(client, self, []):
            return [f"settings: {why}"]
        if why := _refusal(client, self, [*self.fields]):
            each = {name: _refusal(client, self, [name]) for name in self.fields}
            return [f"field {name!r}: {why}" for name, why in each.items() if why] or [why]
        return []

    def contents(self, adapted: pa.Table) -> pa.Table:
        """What of adapted rows goes into documents. Raises DeclarationError naming a column adapt does not return."""
        select(adapted, list(self.fields), f"index {self.alias}")
        return document_columns(adapted, list(self.fields))

    def documents(self, adapted: pa.Table) -> pa.Array:
        """Each adapted row's document, as JSON text. Raises as `contents` does."""
        return json_objects(self.contents(adapted), self.json_fields)

    def write(
        self,
        client: Elasticsearch,
        ids: pa.Array,
        versions: pa.Array,
        documents: pa.Array,
        alias: str = "",
        *,
        refusing: bool = False,
        unmade: Mapping[int, tuple[str, str]] | None = None,
        brake: Brake = DEFAULT_BRAKE,
    ) -> BulkResult:
        """Index each document under its id and version, or delete where the document is NULL.

        `alias` is another one than the readers'; `refusing` says that some are likely to be refused; `unmade` are
        positions without a document to send, and why. Raises UnreachableError when the cluster does not answer; what it
        has taken by then may be sent again.
        """
        unmade = unmade or {}
        fit = has_fit_id(ids)
        misfits = pc.indices_nonzero(pc.and_(pc.invert(fit), documents.is_valid())).to_pylist()
        result = BulkResult(rejected={**dict.fromkeys(misfits, UNFIT), **unmade})
        if unmade:
            positions = pa.array(range(len(ids)), pa.int64())
            fit = pc.and_(fit, pc.invert(pc.is_in(positions, value_set=pa.array([*unmade], pa.int64()))))
        places = pc.indices_nonzero(fit).to_pylist()
        bulk = Bulk(client, alias or self.alias, places, result, refusing=refusing)
        bulk.send(ids.filter(fit), versions.filter(fit), documents.filter(fit))
        if guarded(98):
            blame_mapping(client, alias or self.alias, self.fields, result)
        if result.unknown:
            decide(client, alias or self.alias, result, len(places), brake)
        return result


def _refusal(client: Elasticsearch, index: IndexDeclaration, fields: list[str]) -> str:
    """Why the cluster would make no index with its settings and these fields: it looks at them as at a template's."""
    from elasticsearch import ApiError, BadRequestError

    template = {"settings": index.settings, "mappings": {"properties": {name: index.fields[name] for name in fields}}}
    with reaching():
        try:
            client.indices.simulate_template(
                index_patterns=[index.first_index], priority=_OWN_PRIORITY, template=template
            )
        except BadRequestError as error:
            return innermost(error.body)
        except ApiError as error:
            if error.status_code not in _NOT_ASKED:
                raise
    return ""
