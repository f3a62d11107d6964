"""The search cluster: does it answer, in a version we speak, and is each alias ours to write to?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, cast

from elasticsearch import ApiError, Elasticsearch

from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.notices import Notice
from sync_pipeline.sinks.search.requests import reaching
from sync_pipeline.stores.index_state import data_stream_fault, index_faults, maps_as
from sync_pipeline.stores.stores import Stores

if TYPE_CHECKING:
    from sync_pipeline.sinks.search.declaration import IndexDeclaration

ABOUT = "search"
_MAJOR = "9"


def check_cluster(stores: Stores) -> Iterator[Notice]:
    """The cluster and its versions. Raises UnreachableError."""
    try:
        with reaching():
            status = stores.search.cluster.health()["status"]
            yield from _cluster(status)
            yield from _versions(stores.search)
    except ApiError as error:
        raise UnreachableError(f"SYNC_SEARCH_URL: {error}") from error


def check_alias(stores: Stores, entity: str, index: IndexDeclaration) -> Iterator[Notice]:
    """An entity's alias, and the index behind it. Raises UnreachableError."""
    try:
        with reaching():
            yield from _alias(stores.search, entity, index)
    except ApiError as error:
        raise UnreachableError(f"SYNC_SEARCH_URL: {error}") from error


def _cluster(status: str) -> Iterator[Notice]:
    if status == "red":
        remedy = "GET _cluster/allocation/explain says why"
        yield Notice("error", ABOUT, "the cluster is red: some documents are not there", remedy)
    else:
        yield Notice("ok", ABOUT, f"reached, the cluster is {status}")


def _versions(client: Elasticsearch) -> Iterator[Notice]:
    nodes = client.nodes.info(filter_path="nodes.*.version")["nodes"]
    versions = sorted({str(node["version"]) for node in nodes.values()})
    other = [version for version in versions if version.split(".")[0] != _MAJOR]
    if other:
        yield Notice("error", ABOUT, f"Elasticsearch {', '.join(other)}: we speak {_MAJOR}", "upgrade the cluster")
    else:
        yield Notice("ok", ABOUT, f"Elasticsearch {', '.join(versions)}")


def _alias(client: Elasticsearch, entity: str, index: IndexDeclaration) -> Iterator[Notice]:
    name = index.alias
    if client.indices.exists_alias(name=name):
        found = index_faults(client, name)
        yield from (Notice("error", ABOUT, fault.message, fault.remedy) for fault in found)
        behind = client.indices.get_alias(name=name).body
        if len(behind) == 1:
            yield from _mapping(client, entity, index, next(iter(behind)), well=not found)
    elif client.indices.exists(index=name):
        yield from (Notice("error", ABOUT, fault.message, fault.remedy) for fault in index_faults(client, name))
    elif client.indices.exists(index=index.first_index):
        remedy = f"PUT {index.first_index}/_alias/{name}, or DELETE {index.first_index}"
        yield Notice("error", ABOUT, f"index {index.first_index} is there without alias {name}", remedy)
    elif fault := data_stream_fault(client, index.first_index):
        yield Notice("error", ABOUT, fault.message, fault.remedy)
    elif faults := index.faults(client):
        for refused in faults:
            what = f"index {index.first_index} could not be made: {refused}"
            yield Notice("error", ABOUT, what, f"mend the SearchIndex of entity {entity}")
    else:
        yield Notice("ok", ABOUT, f"alias {name} is free: its index will be made")


def _mapping(
    client: Elasticsearch, entity: str, index: IndexDeclaration, concrete: str, *, well: bool
) -> Iterator[Notice]:
    rebuild = f"sync-pipeline rebuild index {entity}"
    there: dict[str, Any] = client.indices.get_mapping(index=concrete).body[concrete]["mappings"].get("properties", {})
    found = {field: mapped for field in index.fields if (mapped := _field(there, field)) is not None}
    missing = {field: dict(wanted) for field, wanted in index.fields.items() if field not in found}
    if missing:
        remedy = (
            f"raise the entity's version, then {rebuild}; or PUT {concrete}/_mapping with these fields, and backfill"
        )
        yield Notice("error", ABOUT, f"index {concrete} has no field {', '.join(missing)}", remedy)
    other = [field for field, wanted in index.fields.items() if field in found and not maps_as(wanted, found[field])]
    for field in other:
        what = f"{concrete}: field {field} is {found[field]}, declared is {dict(index.fields[field])}"
        yield Notice("error", ABOUT, what, f"a field's mapping cannot be changed, a new index can be filled: {rebuild}")
    if well and not missing and not other:
        yield Notice("ok", ABOUT, f"alias {index.alias} points to {concrete}, mapped as declared")


def _field(properties: Mapping[str, Any], name: str) -> Mapping[str, Any] | None:
    """The mapping of a field, None where it is not there. The cluster keeps `meta.lang` as `lang` within `meta`."""
    if name in properties:
        return cast(Mapping[str, Any], properties[name])
    first, _, rest = name.partition(".")
    while rest:
        if found := _field(properties.get(first, {}).get("properties", {}), rest):
            return found
        more, _, rest = rest.partition(".")
        first = f"{first}.{more}"
    return None
