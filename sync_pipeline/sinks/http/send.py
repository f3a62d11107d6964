"""Sends objects to an endpoint: one a request, or several, on a few connections at once."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from urllib.parse import quote

import orjson
import pyarrow as pa
import pyarrow.compute as pc

from sync_pipeline.db.columns import json_objects
from sync_pipeline.errors import IndexFaultError, SettingError, UnreachableError
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.http.declaration import EndpointDeclaration
from sync_pipeline.sinks.http.requests import (
    IDEMPOTENCY,
    NAMELESS,
    REVISION,
    Answer,
    Client,
    Verdict,
    reason_of,
    verdict_of,
)
from sync_pipeline.sinks.operations import Operations, Sent
from sync_pipeline.sinks.overwritten import overwritten

# so many requests in a row without an answer, or so long: the others are not tried now, since their records are claimed
# for two minutes
_GIVES_UP = 3
_BUDGET_SECONDS = 60.0
# of a request of several, whose answer may be about one of them
_ABOUT_ONE = {400, 413, 422}


@dataclass(frozen=True)
class _Object:
    """An operation on its way: its position, key text and revision, and the object as JSON (None: to be deleted)."""

    position: int
    key: str
    revision: int
    body: str | None

    def idempotency_key(self, entity: str) -> str:
        return f"{quote(entity, safe='')}/{quote(self.key, safe='')}/{self.revision}"


@dataclass
class _Answers:
    """What became of the objects, by position."""

    superseded: dict[int, int | None] = field(default_factory=dict)  # the revision that the receiver holds
    later: dict[int, str] = field(default_factory=dict)
    refused: dict[int, tuple[str, str]] = field(default_factory=dict)
    ours: list[str] = field(default_factory=list)
    keeps_order: bool = True
    silences: int = 0  # in a row
    reason: str = ""  # of the last one
    ends_at: float = field(default_factory=lambda: time.monotonic() + _BUDGET_SECONDS)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, each: _Object, status: int, revision: int | None, text: str) -> None:
        """Take note of an answer about an object."""
        verdict = verdict_of(status, is_delete=each.body is None)
        if verdict is Verdict.SUPERSEDED and not (self.keeps_order and (revision is None or revision >= each.revision)):
            verdict = Verdict.REFUSED  # a conflict of another kind
        reason = reason_of(status, text)
        with self.lock:
            self.silences = 0
            if verdict is Verdict.SUPERSEDED:
                self.superseded[each.position] = revision
            elif verdict is Verdict.LATER:
                self.later[each.position] = reason
            elif verdict is Verdict.REFUSED:
                self.refused[each.position] = f"Http{status}", reason
            elif verdict is Verdict.OURS:
                self.ours.append(reason)
                self.later[each.position] = reason

    def note_silence(self, objects: Sequence[_Object], reason: str) -> None:
        """Take note that a request had no answer."""
        with self.lock:
            self.silences, self.reason = self.silences + 1, reason
            self.later |= {each.position: reason for each in objects}

    def put_off(self, objects: Sequence[_Object]) -> None:
        """Take note that objects were not tried now."""
        reason = self.reason or f"not sent within {_BUDGET_SECONDS:g} s"
        with self.lock:
            self.later |= {each.position: reason for each in objects}

    @property
    def gives_up(self) -> bool:
        """Whether nothing answers, or what is left takes too long."""
        return self.silences >= _GIVES_UP or time.monotonic() > self.ends_at


def send(context: SinkContext, endpoint: EndpointDeclaration, operations: Operations) -> Sent:
    """Send objects. Raises UnreachableError where none is taken or refused, IndexFaultError where most are refused."""
    try:
        client = Client.of(endpoint, context.stores)
        endpoint.address()
        endpoint.filled_headers()
    except SettingError as error:  # its own: no other sink waits for it
        raise UnreachableError(str(error)) from error
    answers = _Answers(keeps_order=endpoint.ordering == "revision")
    requests = list(_requests(operations, endpoint))
    with ThreadPoolExecutor(min(endpoint.connections, len(requests)), "http") as pool:
        for _ in pool.map(lambda objects: _send(context.entity, client, objects, answers), requests):
            pass
    _check(context, endpoint, answers, len(operations))
    return Sent(
        sorted(answers.later),
        answers.refused,
        sorted(answers.superseded),
        overwritten(context, operations, answers.superseded),
        reasons=sorted({*answers.later.values()})[:1],
    )


def _check(context: SinkContext, endpoint: EndpointDeclaration, answers: _Answers, total: int) -> None:
    """Raise where it is not single objects that are at fault."""
    if answers.ours:
        raise UnreachableError(f"{endpoint.url}: {answers.ours[0]}")
    if len(answers.later) == total:
        raise UnreachableError(f"{endpoint.url}: {next(iter(answers.later.values()))}")
    settings, refused = context.stores.settings, answers.refused
    if len(refused) > settings.fault_rows and len(refused) > settings.fault_fraction * total:
        _, reason = next(iter(refused.values()))
        raise IndexFaultError(f"{endpoint.url} refuses {len(refused)} of {total} objects, so none is parked: {reason}")


def _requests(operations: Operations, endpoint: EndpointDeclaration) -> Iterator[list[_Object]]:
    texts = json_objects(operations.contents, endpoint.json_fields)
    bodies = pc.if_else(operations.written, texts, pa.scalar(None, pa.string())).to_pylist()
    columns = operations.ids.to_pylist(), operations.versions.to_pylist(), bodies
    objects = [_Object(n, *each) for n, each in enumerate(zip(*columns, strict=True))]
    for first in range(0, len(objects), endpoint.batch):
        yield objects[first : first + endpoint.batch]


def _send(entity: str, client: Client, objects: list[_Object], answers: _Answers) -> None:
    if answers.gives_up:
        answers.put_off(objects)
        return
    try:
        if client.endpoint.batch == 1:
            _send_one(entity, client, objects[0], answers)
        else:
            _send_several(entity, client, objects, answers)
    except UnreachableError as error:
        answers.note_silence(objects, str(error))


def _send_one(entity: str, client: Client, each: _Object, answers: _Answers) -> None:
    if each.key in NAMELESS:
        answers.note(each, 400, None, f"no URL names an object under the key {each.key!r}")
        return
    headers = {REVISION: str(each.revision), IDEMPOTENCY: each.idempotency_key(entity)}
    method = "DELETE" if each.body is None else client.endpoint.method
    body = None if each.body is None else each.body.encode()
    answer = client.ask(method, client.endpoint.address(each.key), body, headers)
    answers.note(each, answer.status, answer.revision, answer.text)


def _send_several(entity: str, client: Client, objects: list[_Object], answers: _Answers) -> None:
    """One request for several objects; the receiver answers for each, or for all of them alike."""
    operations = b",".join(
        b'{"key":%b,"revision":%d,"idempotency_key":%b,"object":%b}'
        % (
            orjson.dumps(each.key),
            each.revision,
            orjson.dumps(each.idempotency_key(entity)),
            b"null" if each.body is None else each.body.encode(),
        )
        for each in objects
    )
    answer = client.ask(client.endpoint.method, client.endpoint.address(), b'{"operations":[%b]}' % operations)
    if answer.status in _ABOUT_ONE and len(objects) > 1:
        # the receiver answers for all of them alike: which one is at fault is found by halving
        half = len(objects) // 2
        for part in (objects[:half], objects[half:]):
            _send(entity, client, part, answers)
        return
    results = _results(answer)
    for each in objects:
        status, revision, text = results.get(each.key, (answer.status, None, answer.text))
        answers.note(each, status, revision, text)


def _results(answer: Answer) -> dict[str, tuple[int, int | None, str]]:
    """What a receiver says of each object: {"results": [{"key": …, "status": …, "revision": …, "message": …}]}."""
    listed = answer.body.get("results") if isinstance(answer.body, dict) else None
    found: dict[str, tuple[int, int | None, str]] = {}
    for result in listed if isinstance(listed, list) else ():
        if not isinstance(result, dict):
            continue
        status, revision = result.get("status"), result.get("revision")
        if isinstance(status, int):
            message = str(result.get("message", ""))
            found[str(result.get("key"))] = status, revision if isinstance(revision, int) else None, message
    return found
