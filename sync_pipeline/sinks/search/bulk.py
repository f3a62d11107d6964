"""Documents sent to an alias in bulk requests, and what became of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import characters, json_of
from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.faults import guarded
from sync_pipeline.sinks.search.bulk_faults import Fault, fault_of
from sync_pipeline.sinks.search.requests import innermost, reaching
from sync_pipeline.stores.index_state import index_faults, mapping_faults

# the client costs half a second to import; whoever only reads declarations does without
if TYPE_CHECKING:
    from elasticsearch import Elasticsearch

_BULK_BYTES = 4 << 20
_LEAST_BYTES = 64 << 10
_LIMIT_SECONDS = 600.0
# a connection that breaks under a smaller body is no sign of a body that is too large
_SUSPECT_BYTES = 8 << 20
# by transport: bytes of a body, and until when (monotonic)
_LIMITS: WeakKeyDictionary[Any, tuple[int, float]] = WeakKeyDictionary()
# so many documents, and such a share, that are refused alike for no known reason: the index is at fault
Brake = tuple[int, float]
DEFAULT_BRAKE = 20, 0.5
_EACH = "errors,items.*.status,items.*.error.type,items.*.error.reason"
_CONFLICT = 409
_BAD = 400
_TOO_LARGE = 413


@dataclass(frozen=True)
class BulkResult:
    """What became of the documents that were not simply taken; positions count in the order they were sent."""

    conflicts: list[int] = field(default_factory=list)  # a higher version is there
    retriable: list[int] = field(default_factory=list)
    rejected: dict[int, tuple[str, str]] = field(default_factory=dict)  # position -> error class, message
    unknown: dict[int, tuple[str, str]] = field(default_factory=dict)  # whose fault it is, is still to be found
    faults: list[str] = field(default_factory=list)  # why the index takes no documents

    @property
    def is_clean(self) -> bool:
        """Whether all were taken."""
        return not (self.conflicts or self.retriable or self.rejected)


@dataclass
class Bulk:
    """Documents on their way to an alias, in bodies that the cluster takes; `places` are their positions."""

    client: Elasticsearch
    alias: str
    places: list[int]
    result: BulkResult
    refusing: bool = False

    def send(self, ids: pa.Array, versions: pa.Array, documents: pa.Array, first: int = 0) -> None:
        """Send them in as few bodies as may be; those that are too large go in halves. Raises UnreachableError."""
        sent = 0
        for body, count in _bodies(ids, versions, documents, _limit_of(self.client)):
            are_deletes = documents.slice(sent, count).null_count == count
            items = self._sent_deletes(body, ids.slice(sent, 1)) if are_deletes and guarded(143) else self._sent(body)
            if isinstance(items, list):
                _classify(items, self.places[first + sent : first + sent + count], self.result)
            elif count == 1:
                self._refuse(self.places[first + sent], items, len(body))
            else:
                if items.is_too_large:
                    _lower_limit(self.client, len(body) // 2)
                half = count // 2
                for at, length in ((sent, half), (sent + half, count - half)):
                    part = ids.slice(at, length), versions.slice(at, length), documents.slice(at, length)
                    self.send(*part, first=first + at)
            sent += count

    def _sent_deletes(self, body: bytes, first_id: pa.Array) -> list[dict[str, Any]] | _Refusal:
        """Send a body of deletes alone, and return what `_sent` does; `first_id` holds the id of its first one.

        The cluster requires the alias of writes only. Where there is none, a delete that bears a version of ours makes
        an index of the alias's name, unless a write is in its request. So an update that changes nothing goes along.
        """
        name: str = json_of(first_id)[0].as_py()
        items = self._sent(body + f'{{"update":{{"_id":{name}}}}}\n{{"doc":{{}}}}\n'.encode(), refusing=True)
        return items[:-1] if isinstance(items, list) else items

    def _sent(self, body: bytes, *, refusing: bool = False) -> list[dict[str, Any]] | _Refusal:
        """What became of a body's operations, or why the cluster takes none of it. Raises UnreachableError."""
        from elastic_transport import ConnectionError as BrokenError
        from elasticsearch import ApiError

        send = partial(self.client.bulk, operations=body, require_alias=True, index=self.alias)  # type: ignore[arg-type]
        try:
            return _outcomes(send, refusing or self.refusing)
        except ApiError as error:
            if error.status_code in {_BAD, _TOO_LARGE} and guarded(97):
                return _Refusal(error.status_code == _TOO_LARGE, innermost(error.body))
            raise UnreachableError(f"SYNC_SEARCH_URL: {error}") from error
        except UnreachableError as error:
            # some servers cut the connection of a request that is too large instead of answering it
            if len(body) > _SUSPECT_BYTES and isinstance(error.__cause__, BrokenError) and self.client.ping():
                return _Refusal(True, str(error))
            raise

    def _refuse(self, place: int, refusal: _Refusal, size: int) -> None:
        if refusal.is_too_large:
            message = (
                f"its request has {size:,} bytes, which the cluster, or a proxy before it, does not take (413): shorten"
                " the document, or raise http.max_content_length or the proxy's limit"
            )
            self.result.rejected[place] = "DocumentTooLarge", message
        else:
            self.result.unknown[place] = "BadRequest", refusal.reason


@dataclass(frozen=True)
class _Refusal:
    """Why the cluster takes nothing of a body."""

    is_too_large: bool
    reason: str


_OF_MAPPING = {"document_parsing_exception", "mapper_parsing_exception", "strict_dynamic_mapping_exception"}


def blame_mapping(
    client: Elasticsearch, alias: str, fields: Mapping[str, Mapping[str, Any]], result: BulkResult
) -> None:
    """Documents that do not fit the index's mapping are owed where that is not the declared one."""
    from elasticsearch import ApiError

    refused = [place for place, (kind, _) in result.rejected.items() if kind in _OF_MAPPING]
    if not refused:
        return
    with reaching():
        try:
            faults = mapping_faults(client, alias, fields)
        except ApiError as error:
            faults = [f"the mapping of the index behind {alias} cannot be read: {error}"]
    if faults:
        result.faults.extend(faults)
        result.retriable.extend(refused)
        for place in refused:
            del result.rejected[place]


def decide(client: Elasticsearch, alias: str, result: BulkResult, sent: int, brake: Brake) -> None:
    """Whose fault unknown refusals are: the index's where something is wrong with it, or most documents fail alike."""
    from elasticsearch import ApiError

    with reaching():
        try:
            faults = [str(fault) for fault in index_faults(client, alias) if fault.stops]
        except ApiError as error:
            faults = [f"the state of the index behind {alias} cannot be read: {error}"]
    rows, fraction = brake
    ((kind, reason), *_) = result.unknown.values()
    if not faults and len(result.unknown) > rows and len(result.unknown) > fraction * sent:
        faults = [f"{alias} refuses {len(result.unknown)} of {sent} documents alike: {kind}: {reason}"]
    if faults:
        result.faults.extend(faults)
        result.retriable.extend(result.unknown)
    else:
        result.rejected.update(result.unknown)


def _limit_of(client: Elasticsearch) -> int:
    """Bytes of a body that a cluster takes, as far as is known."""
    limit, until = _LIMITS.get(client.transport, (_BULK_BYTES, 0.0))
    return limit if time.monotonic() < until else _BULK_BYTES


def _lower_limit(client: Elasticsearch, size: int) -> None:
    """Send smaller bodies for a while: a proxy before the cluster may take less than we do."""
    limit = max(_LEAST_BYTES, min(size, _limit_of(client)))
    _LIMITS[client.transport] = limit, time.monotonic() + _LIMIT_SECONDS


def _bodies(
    ids: pa.Array, versions: pa.Array, documents: pa.Array, limit: int | None = None
) -> Iterator[tuple[bytes, int]]:
    """Bulk bodies of about 4 MB each, or of `limit` bytes, with the number of their operations."""
    limit = _BULK_BYTES if limit is None else limit
    verb = pc.if_else(documents.is_valid(), '{"index":', '{"delete":')
    head = pc.binary_join_element_wise(
        verb, '{"_id":', json_of(ids), ',"version_type":"external_gte","version":', pc.cast(versions, pa.string()), ""
    )
    body = pc.fill_null(pc.binary_join_element_wise("\n", documents, ""), "")
    lines = pc.binary_join_element_wise(head, "}}", body, "\n", "")
    sizes = pc.cumulative_sum(pc.cast(pc.binary_length(lines), pa.int64()))
    first, spent = 0, 0
    while first < len(lines):
        over = pc.index(pc.greater(sizes, spent + limit), True).as_py()
        end = len(lines) if over == -1 else max(over, first + 1)
        yield characters(lines.slice(first, end - first)).to_pybytes(), end - first
        first, spent = end, sizes[end - 1].as_py()


def _outcomes(send: Callable[..., Any], refusing: bool) -> list[dict[str, Any]]:
    """Send a bulk; what became of each operation, or nothing where all were taken.

    To read what became of each takes half of a request's CPU here, and nearly always all are taken. So unless some are
    likely to be refused it is asked only when they were, by sending all once more: by their versions that is harmless.
    """
    with reaching():
        if not refusing and not send(filter_path="errors")["errors"]:
            return []
        answer = send(filter_path=_EACH)
    return list(answer["items"]) if answer["errors"] else []


def _classify(items: Sequence[Mapping[str, Any]], places: Sequence[int], result: BulkResult) -> None:
    if not items or not guarded(25):
        return
    for n, item in zip(places, items, strict=True):
        (outcome,) = item.values()
        status = outcome["status"]
        if status == _CONFLICT:
            result.conflicts.append(n)
        elif "error" in outcome:
            _blame(n, outcome, result)


def _blame(n: int, outcome: Mapping[str, Any], result: BulkResult) -> None:
    fault = fault_of(outcome) if guarded(98) else Fault.DOCUMENT
    why = str(outcome["error"].get("type")), str(outcome["error"].get("reason"))
    if fault is Fault.INDEX or (not guarded(98) and outcome["status"] != _BAD):
        # no alias yet while the cluster starts, closed, blocked by a full disk, too busy
        result.retriable.append(n)
        if (message := ": ".join(why)) not in result.faults:
            result.faults.append(message)
    elif fault is Fault.DOCUMENT:
        result.rejected[n] = why
    else:
        result.unknown[n] = why
