"""The search sink: documents of an entity behind an Elasticsearch alias.

Every document carries the ledger's revision as its external version, so that a late request of a dead worker
is refused. A delete's tombstone lives only for `index.gc_deletes` and dies with its node: whoever sends a bulk
looks afterwards whether its keys were overtaken meanwhile, and owes those again (documents.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import characters, document_columns, json_objects, json_of
from sync_pipeline.errors import DeclarationError, IndexFaultError, UnreachableError
from sync_pipeline.model.faults import guarded
from sync_pipeline.sinks.bulk_faults import Fault, fault_of
from sync_pipeline.sinks.index_state import alias_faults, data_stream_fault, index_faults, mapping_faults
from sync_pipeline.sinks.relational import select

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
_BRAKE = 20, 0.5
_EACH = "errors,items.*.status,items.*.error.type,items.*.error.reason"
_CONFLICT = 409
# a key that ran out is as good as a cluster that is down: what is owed waits
_UNKNOWN = 401
_LATER = {403, 429}
_BAD = 400
_TOO_LARGE = 413
_SERVER = 500
# no right to manage templates, or a cluster that simulates none
_NOT_ASKED = {403, 404, 405}
# no template of anybody's: two that match one name must differ in it
_OWN_PRIORITY = 987_654_321
# of UTF-8; a bulk that holds one longer id, or an empty one, is refused whole
_ID_BYTES = 512
_UNFIT = "UnfitId", f"an id of a document is 1 to {_ID_BYTES} bytes long"


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


@dataclass(frozen=True)
class SearchIndex:
    """Documents behind `alias`: `fields` maps each field (a column of the adapted frame) to its mapping.

    `json_fields` are text columns that hold JSON already. `where` names a boolean column of the adapted
    frame: only rows that have it true have a document. `settings` are the index's, where we make it; what they leave
    out, a rebuilt index takes from the one before it.
    """

    alias: str
    fields: Mapping[str, Mapping[str, Any]]
    json_fields: frozenset[str] = frozenset()
    where: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)

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
            settings = {"number_of_replicas": 0} if _single_node(client) else {}
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
                faults = self.faults(client) or [_innermost(error.body)]
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
        brake: Brake = _BRAKE,
    ) -> BulkResult:
        """Index each document under its id and version, or delete where the document is NULL.

        `alias` is another one than the readers'; `refusing` says that some are likely to be refused; `unmade` are
        positions without a document to send, and why. Raises UnreachableError when the cluster does not answer; what it
        has taken by then may be sent again.
        """
        unmade = unmade or {}
        fit = has_fit_id(ids)
        misfits = pc.indices_nonzero(pc.and_(pc.invert(fit), documents.is_valid())).to_pylist()
        result = BulkResult(rejected={**dict.fromkeys(misfits, _UNFIT), **unmade})
        if unmade:
            positions = pa.array(range(len(ids)), pa.int64())
            fit = pc.and_(fit, pc.invert(pc.is_in(positions, value_set=pa.array([*unmade], pa.int64()))))
        places = pc.indices_nonzero(fit).to_pylist()
        bulk = Bulk(client, alias or self.alias, places, result, refusing=refusing)
        bulk.send(ids.filter(fit), versions.filter(fit), documents.filter(fit))
        if guarded(98):
            _blame_mapping(client, alias or self.alias, self.fields, result)
        if result.unknown:
            _decide(client, alias or self.alias, result, len(places), brake)
        return result


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
                return _Refusal(error.status_code == _TOO_LARGE, _innermost(error.body))
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


def _blame_mapping(
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


def _decide(client: Elasticsearch, alias: str, result: BulkResult, sent: int, brake: Brake) -> None:
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


def has_fit_id(ids: pa.Array) -> pa.Array:
    """Whether a document can have each id."""
    octets = pc.binary_length(ids)
    return pc.and_(pc.greater(octets, 0), pc.less_equal(octets, _ID_BYTES))


_DELETED = 200


def look_up(client: Elasticsearch, index: str, ids: Sequence[str], *, source: bool = True) -> list[dict[str, Any]]:
    """Documents as they are now, as `mget` gives them; what no document can bear as its id is not there.

    Raises UnreachableError, also where only a shard did not answer: not known is not the same as not there.
    """
    texts = pa.array(ids, pa.string())
    fit = has_fit_id(texts)
    docs: list[dict[str, Any]] = []
    if asked := texts.filter(fit).to_pylist():
        docs = _asked(client, index, asked, source=source)
    if unseen := [doc["error"] for doc in docs if "error" in doc]:
        reason = unseen[0].get("reason")
        raise UnreachableError(f"SYNC_SEARCH_URL: {len(unseen)} documents could not be looked at: {reason}")
    return docs + [{"_id": text, "found": False} for text in texts.filter(pc.invert(fit)).to_pylist()]


def delete_documents(client: Elasticsearch, index: str, ids: Sequence[str]) -> int:
    """Delete documents as they are now, whatever version they bear; one that is written meanwhile stays. How many.

    Raises UnreachableError.
    """
    there = [doc for doc in look_up(client, index, ids, source=False) if doc.get("found")]
    actions = [
        {"delete": {"_id": doc["_id"], "if_seq_no": doc["_seq_no"], "if_primary_term": doc["_primary_term"]}}
        for doc in there
    ]
    if not actions:
        return 0
    with reaching():
        answer = client.bulk(index=index, operations=actions, refresh="wait_for")
    return sum(item["delete"]["status"] == _DELETED for item in answer["items"])


def _asked(client: Elasticsearch, index: str, ids: list[str], *, source: bool) -> list[dict[str, Any]]:
    from elasticsearch import ApiError

    with reaching():
        try:
            return list(client.mget(index=index, ids=ids, source=source)["docs"])
        except ApiError as error:
            raise UnreachableError(f"SYNC_SEARCH_URL: {index} could not be looked at: {error}") from error


class reaching:  # noqa: N801 - reads as a phrase
    """Turns the client's connection errors, and a cluster that lets us do nothing, into UnreachableError."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            return
        from elastic_transport import TlsError
        from elasticsearch import ApiError, TransportError

        if isinstance(error, TlsError):
            raise UnreachableError(f"SYNC_SEARCH_URL, SYNC_SEARCH_CA_FILE: {error.message}") from error
        if isinstance(error, ApiError) and error.status_code == _UNKNOWN:
            raise UnreachableError(f"SYNC_SEARCH_URL, SYNC_SEARCH_API_KEY: {error}") from error
        if isinstance(error, TransportError) or (
            isinstance(error, ApiError) and (error.status_code >= _SERVER or error.status_code in _LATER)
        ):
            raise UnreachableError(f"SYNC_SEARCH_URL: {error}") from error


def _refusal(client: Elasticsearch, index: SearchIndex, fields: list[str]) -> str:
    """Why the cluster would make no index with its settings and these fields: it looks at them as at a template's."""
    from elasticsearch import ApiError, BadRequestError

    template = {"settings": index.settings, "mappings": {"properties": {name: index.fields[name] for name in fields}}}
    with reaching():
        try:
            client.indices.simulate_template(
                index_patterns=[index.first_index], priority=_OWN_PRIORITY, template=template
            )
        except BadRequestError as error:
            return _innermost(error.body)
        except ApiError as error:
            if error.status_code not in _NOT_ASKED:
                raise
    return ""


def _innermost(body: Any) -> str:
    """The cause of an error that the cluster gives; those around it name less."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    while isinstance(error, Mapping) and "caused_by" in error:
        error = error["caused_by"]
    return str(error.get("reason", error)) if isinstance(error, Mapping) else str(error)


def _single_node(client: Elasticsearch) -> bool:
    return bool(client.cluster.health()["number_of_data_nodes"] == 1)


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
