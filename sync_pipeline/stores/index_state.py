"""The state of the index behind an alias: whether documents can be written there, and deletes reach what they delete.

A request that goes to an alias with two indices writes one of them. The document that it replaces or deletes may be in
the other one, which answers that there is none. So nothing is sent while an alias does not lead to exactly one index.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

_BLOCKS = ("write", "read_only", "read_only_allow_delete", "metadata")
# no right to look at this, or a cluster that does not have it
_NOT_SHOWN = {401, 403, 404, 405}


@dataclass(frozen=True)
class IndexFault:
    """What is wrong with an index, and what to do; `stops` says that no document may be sent to it."""

    message: str
    remedy: str
    stops: bool = True

    def __str__(self) -> str:
        return f"{self.message}: {self.remedy}"


def alias_faults(client: Elasticsearch, alias: str) -> list[IndexFault]:
    """What is wrong with where an alias leads; one request. A missing alias is not looked into. Raises ApiError."""
    found = client.options(ignore_status=404).indices.get_alias(name=alias)
    if found.meta.status == 404:
        return []
    behind: Mapping[str, Any] = found.body
    if len(behind) > 1:
        return [_several(alias, sorted(behind))]
    return [fault for index, how in behind.items() for fault in _of_alias(alias, index, how["aliases"].get(alias, {}))]


def _several(alias: str, indices: list[str]) -> IndexFault:
    return IndexFault(
        f"alias {alias} points to {len(indices)} indices: {', '.join(indices)}",
        f'POST _aliases {{"actions": [{{"remove": {{"index": "…", "alias": "{alias}"}}}}]}} for all but one,'
        " and take rollover out of its template",
    )


def _of_alias(alias: str, index: str, how: Mapping[str, Any]) -> Iterator[IndexFault]:
    again = f'POST _aliases {{"actions": [{{"add": {{"index": "{index}", "alias": "{alias}"'
    if how.get("is_write_index") is False:
        yield IndexFault(
            f"alias {alias} has no write index: {index} is excluded", f'{again}, "is_write_index": true}}}}]}}'
        )
    if "index_routing" in how or "search_routing" in how:
        anew = f"remove it and {again}}}}}]}}"
        yield IndexFault(f"alias {alias} to {index} has a routing, so documents are in shards of their own", anew)
    if "filter" in how:
        anew = f"remove it and {again}}}}}]}}"
        yield IndexFault(
            f"alias {alias} to {index} has a filter, which hides documents from readers", anew, stops=False
        )


def index_faults(client: Elasticsearch, alias: str) -> list[IndexFault]:
    """All that keeps documents out of the index behind an alias; some requests. Raises ApiError."""
    if found := alias_faults(client, alias):
        return found
    if not client.indices.exists_alias(name=alias):
        return [_no_alias(client, alias)]
    shown = client.indices.get(index=alias, features="settings", flat_settings=True, expand_wildcards="all").body
    return [fault for index, how in shown.items() for fault in _of_index(client, alias, index, how["settings"])]


def mapping_faults(client: Elasticsearch, alias: str, fields: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Fields that the index behind an alias maps otherwise than declared, or not at all. Raises ApiError."""
    found = client.indices.get_mapping(index=alias).body
    return [
        f"index {index} maps field {name} as {there.get(name, 'nothing')}, declared is {dict(wanted)}"
        for index, how in found.items()
        for there in [how["mappings"].get("properties", {})]
        for name, wanted in fields.items()
        if name not in there or not maps_as(wanted, there[name])
    ]


def maps_as(wanted: Mapping[str, Any], there: Mapping[str, Any]) -> bool:
    """Whether what is declared of a field holds; the cluster leaves out of a mapping what is its default."""
    kind = wanted.get("type", "object")
    return bool(there.get("type", "object") == kind) and all(
        there[name] == value for name, value in wanted.items() if name in there and name not in {"type", "properties"}
    )


def _no_alias(client: Elasticsearch, alias: str) -> IndexFault:
    if client.indices.exists(index=alias):
        return IndexFault(
            f"{alias} is an index of its own, so it cannot be an alias",
            f"give SearchIndex another alias, or rename the index: PUT {alias}/_clone/{alias}-000001, DELETE {alias}",
        )
    return IndexFault(f"there is no alias {alias}", f"PUT INDEX/_alias/{alias}, or start the entity again to make one")


def _of_index(client: Elasticsearch, alias: str, index: str, settings: Mapping[str, Any]) -> Iterator[IndexFault]:
    state = client.cluster.state(metric="metadata", index=index, filter_path="metadata.indices.*.state").body
    if any(each["state"] == "close" for each in state.get("metadata", {}).get("indices", {}).values()):
        yield IndexFault(f"index {index} is closed", f"POST {index}/_open")
    for block in _BLOCKS:
        if settings.get(f"index.blocks.{block}") == "true":
            yield IndexFault(
                f"index {index} is blocked ({block})", f'PUT {index}/_settings {{"index.blocks.{block}": null}}'
            )
    for name in ("index.default_pipeline", "index.final_pipeline"):
        pipeline = settings.get(name)
        if pipeline and pipeline != "_none" and not _has_pipeline(client, pipeline):
            yield IndexFault(
                f"index {index} sends documents through the pipeline {pipeline}, which is not there",
                f'make it, or PUT {index}/_settings {{"{name}": null}}',
            )


def _has_pipeline(client: Elasticsearch, pipeline: str) -> bool:
    found = client.options(ignore_status=list(_NOT_SHOWN)).ingest.get_pipeline(id=pipeline)
    return found.meta.status != 404


def data_stream_fault(client: Elasticsearch, index: str) -> IndexFault | None:
    """The template that keeps an index of this name from being made, as it makes data streams of such names.

    None where no template does, or where we may not ask.
    """
    found = client.options(ignore_status=list(_NOT_SHOWN)).indices.get_index_template(filter_path="index_templates")
    if found.meta.status in _NOT_SHOWN:
        return None
    matching = [
        (template["index_template"].get("priority", 0), template["name"], "data_stream" in template["index_template"])
        for template in found.body.get("index_templates", [])
        if any(fnmatchcase(index, pattern) for pattern in _listed(template["index_template"]["index_patterns"]))
    ]
    _, name, makes_stream = max(matching, default=(0, "", False))
    if not makes_stream:
        return None
    return IndexFault(
        f"index {index} cannot be made: template {name} makes data streams of such names",
        f"narrow the index_patterns of _index_template/{name}, or give the entity another alias",
    )


def _listed(patterns: str | list[str]) -> list[str]:
    return [patterns] if isinstance(patterns, str) else patterns
