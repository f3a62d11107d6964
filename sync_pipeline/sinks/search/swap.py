"""Swaps a new index for the one behind an alias: makes the new one, and moves all aliases to it in one step."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.sinks.search.declaration import IndexDeclaration
from sync_pipeline.sinks.search.requests import reaching
from sync_pipeline.stores.index_state import data_stream_fault

if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

# an index's own, not to be given to another one
_PRIVATE = re.compile(
    r"index\.(uuid|version\..*|creation_date.*|provided_name|history.*|blocks\..*|resize\..*|shrink\..*"
    r"|routing\.allocation\.initial_recovery\..*|lifecycle\.indexing_complete|verified_.*)"
)
_ALIAS_FIELDS = ("filter", "index_routing", "search_routing", "is_write_index", "is_hidden")


@dataclass(frozen=True)
class AliasSwap:
    """A new index, and the one behind the alias of a sink, whose place it takes."""

    sink: IndexDeclaration
    name: str
    former: str

    def make(self, client: Elasticsearch) -> None:
        """Make it as declared today, otherwise with the former one's settings and marks; empty, whatever was there.

        Raises UnreachableError; DeclarationError where the cluster refuses mapping or settings.
        """
        from elasticsearch import BadRequestError

        with reaching():
            client.indices.delete(index=self.name, ignore_unavailable=True)
            try:
                client.indices.create(
                    index=self.name,
                    settings=self._inherited(client) | _flat(self.sink.settings),
                    mappings={**self.sink.mappings, "_meta": self._inherited_meta(client)},
                    aliases={self.sink.next_alias: {}},
                )
            except BadRequestError as error:
                fault = data_stream_fault(client, self.name)
                raise DeclarationError(str(fault or f"index {self.name} cannot be made: {error}")) from error

    def follows(self, client: Elasticsearch) -> bool:
        """Whether it is behind the alias by now."""
        return behind(client, self.sink.alias) == [self.name]

    @contextmanager
    def standstill(self, client: Elasticsearch) -> Iterator[None]:
        """The former index takes no writes, and none is on its way any more; it does again if the block raises."""
        with reaching():
            client.indices.add_block(index=self.former, block="write")
        try:
            yield
        except BaseException:
            self.let_go(client)
            raise

    def let_go(self, client: Elasticsearch) -> None:
        """Have the former index take writes."""
        with reaching():
            client.indices.put_settings(
                index=self.former, settings={"index.blocks.write": None}, ignore_unavailable=True
            )

    def swap(self, client: Elasticsearch) -> None:
        """Put all aliases of the former index before this one, in one step; what was written to it shows by then."""
        with reaching():
            client.indices.refresh(index=self.name)
            found = client.indices.get_alias(index=self.former).body[self.former]["aliases"]
            removed = [{"remove": {"index": self.former, "alias": alias, "must_exist": True}} for alias in found]
            added = [{"add": {"index": self.name, "alias": alias, **_kept(how)}} for alias, how in found.items()]
            gone = {"remove": {"index": self.name, "alias": self.sink.next_alias}}
            client.indices.update_aliases(actions=[*removed, *added, gone])

    def remove(self, client: Elasticsearch) -> None:
        """Delete it, if it is there."""
        remove(client, self.sink, self.name)

    def _inherited_meta(self, client: Elasticsearch) -> dict[str, Any]:
        """What the former one's mapping says of it: whose it is, and what its owner has noted there."""
        found = client.indices.get_mapping(index=self.former).body[self.former]["mappings"]
        return dict(found.get("_meta", {}))

    def _inherited(self, client: Elasticsearch) -> dict[str, Any]:
        found = client.indices.get_settings(index=self.former, flat_settings=True).body[self.former]["settings"]
        return {name: value for name, value in found.items() if not _PRIVATE.fullmatch(name)}


def behind(client: Elasticsearch, alias: str) -> list[str]:
    """The indices behind an alias."""
    with reaching():
        if not client.indices.exists_alias(name=alias):
            return []
        return sorted(client.indices.get_alias(name=alias).body)


def next_name(client: Elasticsearch, alias: str) -> str:
    """`ALIAS-00000N`, above all that are there."""
    with reaching():
        there = client.indices.get(index=f"{alias}-*", features="aliases", expand_wildcards="all").body
    numbers = [int(found[1]) for name in there if (found := re.fullmatch(rf"{re.escape(alias)}-(\d+)", name))]
    return f"{alias}-{max(numbers, default=0) + 1:06d}"


def remove(client: Elasticsearch, sink: IndexDeclaration, index: str) -> None:
    """Delete an index, if it is there. Raises SettingError while readers reach it by an alias."""
    with reaching():
        if not client.indices.exists(index=index):
            return
        aliases = client.indices.get_alias(index=index).body[index]["aliases"]
        if reached := sorted(aliases.keys() - {sink.next_alias}):
            raise SettingError(f"index {index} is not removed: it is behind the alias {', '.join(reached)}")
        client.indices.delete(index=index)


def _kept(alias: Mapping[str, Any]) -> dict[str, Any]:
    return {name: alias[name] for name in _ALIAS_FIELDS if name in alias}


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as the cluster lists them: `index.analysis.analyzer.…`."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{name}.")
        else:
            found[prefix + name] = value
    return found if prefix else {f"index.{name.removeprefix('index.')}": value for name, value in found.items()}
