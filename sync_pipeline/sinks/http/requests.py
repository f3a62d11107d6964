"""Requests to an endpoint, and what its answers mean."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from http import HTTPStatus
from typing import TYPE_CHECKING, NamedTuple

from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.json_values import JsonValue
from sync_pipeline.sinks.http.declaration import EndpointDeclaration
from sync_pipeline.stores.stores import Stores

# the client takes a moment to import, and a report of declarations does not need it
if TYPE_CHECKING:
    from urllib3 import BaseHTTPResponse, PoolManager

REVISION = "Sync-Revision"
IDEMPOTENCY = "Idempotency-Key"
# no URL names an object under such a key: it would name what is above it
NAMELESS = frozenset({"", ".", ".."})
_LATER = {408, 425, 429}
_OURS = {401, 403, 407}
_SUPERSEDED = {409, 412}
GONE = {404, 410}
_SHOWN = 500
_READ_BYTES = 64 * 1024
_MOST_BYTES = 16 * 1024 * 1024
_NAMES = ("message", "detail", "title", "error")


class Verdict(Enum):
    """What an answer says of an object."""

    TAKEN = "taken"
    SUPERSEDED = "superseded"  # the receiver holds a later revision
    LATER = "later"  # not now
    REFUSED = "refused"  # for good
    OURS = "ours"  # no object is at fault: a right, or an address that has moved


class Answer(NamedTuple):
    """An answer: its status, the revision that it names (None: none), its body as JSON where it is some, and a text."""

    status: int
    revision: int | None
    body: JsonValue
    text: str


@dataclass(frozen=True)
class _Connections:
    """What stays open between requests."""

    pool: PoolManager

    def close(self) -> None:
        """Close all of it."""
        self.pool.clear()


@dataclass(frozen=True)
class Client:
    """Connections to one endpoint."""

    endpoint: EndpointDeclaration
    pool: PoolManager

    @classmethod
    def of(cls, endpoint: EndpointDeclaration, stores: Stores) -> Client:
        """Return the process's client of an endpoint. Raises SettingError."""
        name = f"http {endpoint.url} {endpoint.ca_file} {endpoint.connections}"
        return cls(endpoint, stores.client(name, lambda: _Connections(_pool(endpoint))).pool)

    def ask(self, method: str, url: str, body: bytes | None = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Send a request. Raises UnreachableError where no answer comes, or not in time."""
        from urllib3.exceptions import HTTPError

        limit = self.endpoint.timeout_seconds
        own = {"Content-Type": "application/json", **self.endpoint.filled_headers(), **(headers or {})}
        try:
            answer = self.pool.request(
                method,
                url,
                body=body,
                headers=own,
                redirect=False,
                retries=False,
                timeout=limit,
                pool_timeout=limit,
                preload_content=False,
            )
            data = _read(answer, limit)
        except (HTTPError, OSError) as error:
            reason = getattr(error, "reason", None) or error
            raise UnreachableError(f"{self.endpoint.url}: no answer: {reason}") from error
        return _answer(answer.status, answer.headers.get(REVISION, ""), data)


def _read(answer: BaseHTTPResponse, seconds: float) -> bytes:
    """The body of an answer. Raises OSError where it is too large, or does not come in time."""
    ends_at, parts, size = time.monotonic() + seconds, [], 0
    try:
        while part := answer.read1(_READ_BYTES):
            parts.append(part)
            size += len(part)
            if size > _MOST_BYTES:
                raise OSError(f"the answer has more than {_MOST_BYTES:,} bytes")
            if time.monotonic() > ends_at:
                raise TimeoutError(f"the answer does not end within {seconds:g} s")
    except BaseException:
        answer.close()
        raise
    answer.release_conn()
    return b"".join(parts)


def _pool(endpoint: EndpointDeclaration) -> PoolManager:
    from urllib3 import PoolManager

    authorities = endpoint.setting(endpoint.ca_file) if endpoint.ca_file else None
    return PoolManager(num_pools=4, maxsize=endpoint.connections, block=True, ca_certs=authorities)


def _answer(status: int, revision: str, data: bytes) -> Answer:
    text = data.decode("utf-8", "replace")[:_SHOWN]
    try:
        body = json.loads(data) if data else None  # keeps whole numbers of any length
    except (ValueError, RecursionError):
        body = None
    if isinstance(body, dict):
        reason = next((str(body[name]) for name in _NAMES if body.get(name)), "")
        text = reason[:_SHOWN] or text
        revision = revision or str(body.get("revision", ""))
    return Answer(status, int(revision) if revision.isdecimal() else None, body, text)


def verdict_of(status: int, *, is_delete: bool) -> Verdict:
    """Return what a status says of an object that is written or deleted."""
    if HTTPStatus.OK <= status < HTTPStatus.MULTIPLE_CHOICES or (is_delete and status in GONE):
        return Verdict.TAKEN
    if status in _SUPERSEDED:
        return Verdict.SUPERSEDED
    if status in _LATER or status >= HTTPStatus.INTERNAL_SERVER_ERROR:
        return Verdict.LATER
    if status in _OURS or status < HTTPStatus.BAD_REQUEST:
        return Verdict.OURS
    return Verdict.REFUSED


def reason_of(status: int, text: str) -> str:
    """Return a status as people know it, with what the receiver says: `422 Unprocessable Entity: title is empty`."""
    try:
        known = f"{status} {HTTPStatus(status).phrase}"
    except ValueError:
        known = str(status)
    return f"{known}: {text}" if text else known
