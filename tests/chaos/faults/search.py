"""The search cluster: too busy, errors of single items, blocked indices, and a node that forgets its tombstones."""

import json
from collections.abc import Iterator
from functools import partial
from random import Random
from typing import Any
from urllib.error import HTTPError

from tests.chaos.faults.fault import DEMO, fault
from tests.chaos.interposer import Answer, Forward, Request
from tests.chaos.ledger import note
from tests.chaos.scene import Scene
from tests.index_states import states

_BUSY = ("es_rejected_execution_exception", "too busy")
_JSON = (
    ("Content-Type", "application/vnd.elasticsearch+json;compatible-with=9"),
    ("X-Elastic-Product", "Elasticsearch"),
)
# blocks are a fault of their own; documents that went elsewhere are found again by the process that sent them alone
_NOT_HERE = {"write", "read_only", "read_only_allow_delete", "rolled over", "a routing of its own"}
_DONE_ALREADY = {400, 404}
_DELETE = "UPDATE content SET deleted_at = now(), updated_at = now(), version = version + 1 WHERE id = ANY(%s)"


@fault(weight=2)
def search_busy(scene: Scene, dice: Random) -> Iterator[None]:
    """429 or 503 to a bulk as a whole, most of the time."""

    def rule(request: Request, forward: Forward) -> Answer:
        if not _is_bulk(request) or dice.random() < 0.3:
            return forward(request)
        status = dice.choice((429, 503))
        body = {"error": {"type": _BUSY[0], "reason": _BUSY[1]}, "status": status}
        return Answer(status, json.dumps(body).encode(), _JSON)

    with scene.network.ruled("SYNC_SEARCH_URL", rule):
        yield


@fault(weight=3)
def items_fail(scene: Scene, dice: Random) -> Iterator[None]:
    """Some items of a bulk are answered 429 or 503, whether they were taken or not; the others as they are."""

    def rule(request: Request, forward: Forward) -> Answer:
        if not _is_bulk(request):
            return forward(request)
        return _with_failures(request, forward, dice)

    with scene.network.ruled("SYNC_SEARCH_URL", rule):
        yield


@fault(weight=1.5)
def answers_lost(scene: Scene, dice: Random) -> Iterator[None]:
    """A bulk is taken, and its answer never comes."""

    def rule(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        if _is_bulk(request) and dice.random() < 0.5:
            raise ConnectionResetError
        return answer

    with scene.network.ruled("SYNC_SEARCH_URL", rule):
        yield


@fault(weight=2)
def index_blocked(scene: Scene, dice: Random) -> Iterator[None]:
    """Read-only, as for a full disk or for maintenance."""
    block, kind = dice.choice(("read_only_allow_delete", "write", "read_only")), dice.choice(scene.indices)
    with scene.alone["indices"]:
        scene.heal(lambda: _block(scene, kind, block, True))
        try:
            yield
        finally:
            scene.heal(lambda: _block(scene, kind, block, None))


@fault(weight=2)
def index_in_bad_state(scene: Scene, dice: Random) -> Iterator[None]:
    """Closed, without its alias, beside another index, or with a pipeline that is not there."""
    alias, behind = dice.choice(scene.indices), []
    with scene.alone["indices"]:
        scene.heal(lambda: behind.extend(scene.world.document("GET", f"_alias/{alias}")))
        all_states = states(behind[0], alias, f"{alias}-beside")
        name = dice.choice([name for name in all_states if name not in _NOT_HERE])
        scene.done[f"index: {name}"] += 1
        try:
            for request in all_states[name].into:
                scene.heal(partial(_ask, scene, *request))
            yield
        finally:
            for request in all_states[name].out:
                scene.heal(partial(_ask, scene, *request))


@fault(weight=0.7, grounds=DEMO)
def node_restarted_after_deletes(scene: Scene, dice: Random) -> Iterator[None]:
    """Documents are deleted, and the node that holds their tombstones goes and comes back."""
    with scene.writer() as connection:
        gone = scene.contents(dice, 20)
        connection.cursor().execute(_DELETE, (gone,))
        note(connection.cursor(), "deleted", gone)
        connection.commit()
    yield
    with scene.alone["search"]:
        server = scene.world.fleet.search
        dice.choice((server.kill, server.stop))()
        server.start()
        server.wait_healthy()


def _is_bulk(request: Request) -> bool:
    return request.path.partition("?")[0].endswith("_bulk")


def _with_failures(request: Request, forward: Forward, dice: Random) -> Answer:
    operations = _operations(request.body)
    failing = {n for n in range(len(operations)) if dice.random() < 0.3}
    withheld = {n for n in failing if dice.random() < 0.5}
    items = {n: _failed(operations[n], dice.choice((429, 503))) for n in failing}
    sent = [n for n in range(len(operations)) if n not in withheld]
    if sent:
        body = b"".join(line for n in sent for line in operations[n])
        answer = forward(Request(request.method, request.path, request.headers, body))
        if answer.status != 200:
            return answer
        items = dict(zip(sent, json.loads(answer.body)["items"], strict=True)) | items
    whole = {
        "errors": any(outcome["status"] >= 300 for item in items.values() for outcome in item.values()),
        "items": [items[n] for n in range(len(operations))],
    }
    return Answer(200, json.dumps(whole).encode(), _JSON)


def _operations(body: bytes) -> list[list[bytes]]:
    """A bulk's lines, an operation each."""
    lines, operations = iter(body.splitlines(keepends=True)), []
    for line in lines:
        operations.append([line] if line.startswith(b'{"delete"') else [line, next(lines)])
    return operations


def _failed(operation: list[bytes], status: int) -> dict[str, Any]:
    (verb,) = json.loads(operation[0])
    return {verb: {"status": status, "error": dict(zip(("type", "reason"), _BUSY, strict=True))}}


def _block(scene: Scene, kind: str, block: str, on: bool | None) -> None:
    scene.world.document("PUT", f"{kind}/_settings", {f"index.blocks.{block}": on})


def _ask(scene: Scene, method: str, path: str, body: Any) -> None:
    """A request that may have been done already, when its answer was lost."""
    try:
        scene.world.document(method, path, body)
    except HTTPError as error:
        if error.code not in _DONE_ALREADY:
            raise
