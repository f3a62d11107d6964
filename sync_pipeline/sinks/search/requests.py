"""Requests to the cluster, and what its errors mean."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.errors import UnreachableError

# the client costs half a second to import; whoever only reads declarations does without
if TYPE_CHECKING:
    from elasticsearch import Elasticsearch
# a key that ran out is as good as a cluster that is down: what is owed waits
_UNKNOWN = 401
_LATER = {403, 429}
_SERVER = 500
# of UTF-8; a bulk that holds one longer id, or an empty one, is refused whole
_ID_BYTES = 512
UNFIT = "UnfitId", f"an id of a document is 1 to {_ID_BYTES} bytes long"


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


def innermost(body: Any) -> str:
    """The cause of an error that the cluster gives; those around it name less."""
    error = body.get("error", body) if isinstance(body, Mapping) else body
    while isinstance(error, Mapping) and "caused_by" in error:
        error = error["caused_by"]
    return str(error.get("reason", error)) if isinstance(error, Mapping) else str(error)


def is_single_node(client: Elasticsearch) -> bool:
    """Whether no other node could hold a replica."""
    return bool(client.cluster.health()["number_of_data_nodes"] == 1)
