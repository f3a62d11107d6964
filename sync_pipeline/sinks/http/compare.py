"""Objects of an endpoint: each expected one is read by its key, and compared field by field."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import orjson
import pyarrow as pa

from sync_pipeline.db.columns import DIGEST, json_objects
from sync_pipeline.db.sql import copy_out
from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.findings import Difference, Finding, FindingKind
from sync_pipeline.model.json_values import JsonValue
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.fields import Fields
from sync_pipeline.sinks.http.declaration import EndpointDeclaration
from sync_pipeline.sinks.http.requests import NAMELESS, Answer, Client, Verdict, reason_of, verdict_of
from sync_pipeline.sinks.sink import PartPage

_PAGE = 1_000
_SHOWN = 80
_ABSENT = {404, 410}


class _Held(NamedTuple):
    """An object that the receiver holds: its revision (None: it names none), and its fields."""

    revision: int | None
    fields: Mapping[str, JsonValue]


class _Entry(NamedTuple):
    """What the ledger has of a key."""

    digest: int | None
    written: int
    is_current: bool


def read_objects(context: SinkContext, endpoint: EndpointDeclaration, ids: Sequence[str]) -> dict[str, _Held]:
    """Return the objects of some keys that the receiver holds. Raises UnreachableError."""
    if not ids:
        return {}
    client = Client.of(endpoint, context.stores)
    ids = [key for key in ids if key not in NAMELESS]
    if not ids:
        return {}
    with ThreadPoolExecutor(min(endpoint.connections, len(ids)), "http") as pool:
        answers = list(pool.map(lambda key: client.ask("GET", endpoint.read_address(key)), ids))
    found = ((key, _held(endpoint, answer)) for key, answer in zip(ids, answers, strict=True))
    return {key: held for key, held in found if held is not None}


def _held(endpoint: EndpointDeclaration, answer: Answer) -> _Held | None:
    if answer.status in _ABSENT:
        return None
    if verdict_of(answer.status, is_delete=False) is not Verdict.TAKEN:
        raise UnreachableError(f"{endpoint.read_url}: {reason_of(answer.status, answer.text)}")
    if not isinstance(answer.body, dict):
        raise UnreachableError(f"{endpoint.read_url} answers with no JSON object: {answer.text[:_SHOWN]}")
    return _Held(answer.revision, answer.body)


def compare_objects(
    context: SinkContext, endpoint: EndpointDeclaration, expected: Adapted, asked: pa.Table
) -> list[Finding]:
    """Return mismatches of the objects of expected rows, and of all `asked` keys, which may want none."""
    public = expected.held_by(context.bits[endpoint.id])
    texts = context.key.texts(public.legacy).to_pylist()
    bodies = json_objects(endpoint.contents(public.table), endpoint.json_fields).to_pylist()
    wanted: dict[str, dict[str, JsonValue]] = {
        text: orjson.loads(body) for text, body in zip(texts, bodies, strict=True)
    }
    digests = dict(zip(texts, public.legacy.column(DIGEST).to_pylist(), strict=True))
    comparison = _Comparison(endpoint, Fields(context), digests)
    found: list[Finding] = []
    ids = sorted({*texts, *context.key.texts(asked).to_pylist()})
    for first in range(0, len(ids), _PAGE):
        page = ids[first : first + _PAGE]
        entries, held = _entries(context, page), read_objects(context, endpoint, page)
        for text in page:
            found += comparison.of_one(text, wanted.get(text), held.get(text), entries.get(text))
    return found


@dataclass(frozen=True)
class _Comparison:
    """Compares objects with what the monolith wants; `digests` are of its rows."""

    endpoint: EndpointDeclaration
    fields: Fields
    digests: Mapping[str, int]

    def of_one(
        self, text: str, wanted: Mapping[str, JsonValue] | None, held: _Held | None, entry: _Entry | None
    ) -> Iterable[Finding]:
        """How the object of a key differs."""
        if held is None or wanted is None:
            if (held is None) is not (wanted is None):
                kind = FindingKind.MISSING if held is None else FindingKind.EXTRA
                yield Finding(self.endpoint.id, kind, text)
            return
        there = {name: held.fields[name] for name in self.endpoint.fields if name in held.fields}
        if not (differing := self.fields.differing(wanted, there)):
            return
        is_behind = entry is None or entry.digest != self.digests[text] or not entry.is_current
        is_old = entry is not None and held.revision is not None and held.revision < entry.written
        kind = FindingKind.STALE if is_behind or is_old else FindingKind.CORRUPT
        differs = tuple(Difference(name, _short(wanted, name), _short(there, name)) for name in differing)
        yield Finding(self.endpoint.id, kind, text, differs=differs)


def _short(fields: Mapping[str, JsonValue], name: str) -> str:
    return orjson.dumps(fields[name]).decode()[:_SHOWN] if name in fields else "absent"


def _entries(context: SinkContext, texts: list[str]) -> dict[str, _Entry]:
    with context.stores.target() as cursor:
        prior = context.ledger.prior(cursor, context.key.parse(texts))
    is_current = [basis == context.ledger.basis for basis in prior.column("basis").to_pylist()]
    columns = prior.column(DIGEST).to_pylist(), prior.column("written").to_pylist(), is_current
    entries = (_Entry(*each) for each in zip(*columns, strict=True))
    return dict(zip(context.key.texts(prior).to_pylist(), entries, strict=True))


def compare_ledger(context: SinkContext, endpoint: EndpointDeclaration, position: list[str] | None) -> PartPage:
    """Find objects that the ledger counts on and the receiver lacks, or holds under another revision.

    All of them where the receiver cannot be read.
    """
    key, ledger = context.key, context.ledger
    with context.stores.target() as cursor:
        held = copy_out(
            cursor,
            f"SELECT {key.plain('l')}, l.written FROM {ledger.table} l WHERE {key.after(cursor, 'l', position)}"
            f" AND l.held & {context.bits[endpoint.id]} <> 0 ORDER BY {key.ordered('l')} LIMIT {_PAGE}",
            key.schema.append(pa.field(DIGEST, pa.int64())),
        )
    texts = key.texts(held).to_pylist()
    there = read_objects(context, endpoint, texts) if endpoint.read_url else {}
    written = held.column(DIGEST).to_pylist()
    differing = [
        text
        for text, version in zip(texts, written, strict=True)
        if text not in there or there[text].revision not in {None, version}
    ]
    following = key.position(held.select(list(key.columns))) if held.num_rows == _PAGE else None
    return PartPage(following, held.num_rows, differing)
