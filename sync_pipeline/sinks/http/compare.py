"""Objects of an endpoint: each expected one is read by its key, and compared field by field."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.findings import Finding
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.http.declaration import EndpointDeclaration
from sync_pipeline.sinks.http.requests import GONE, NAMELESS, Answer, Client, Verdict, reason_of, verdict_of
from sync_pipeline.sinks.json_compare import Held, JsonComparison
from sync_pipeline.sinks.sink import PartPage

_PAGE = 1_000
_SHOWN = 80


def read_objects(context: SinkContext, endpoint: EndpointDeclaration, ids: Sequence[str]) -> dict[str, Held]:
    """Return the objects of some keys that the receiver holds, with their declared fields. Raises UnreachableError."""
    named = [key for key in ids if key not in NAMELESS]
    if not named:
        return {}
    client = Client.of(endpoint, context.stores)
    with ThreadPoolExecutor(min(endpoint.connections, len(named)), "http") as pool:
        answers = list(pool.map(lambda key: client.ask("GET", endpoint.read_address(key)), named))
    found = ((key, _held(endpoint, answer)) for key, answer in zip(named, answers, strict=True))
    return {key: held for key, held in found if held is not None}


def _held(endpoint: EndpointDeclaration, answer: Answer) -> Held | None:
    if answer.status in GONE:
        return None
    if verdict_of(answer.status, is_delete=False) is not Verdict.TAKEN:
        raise UnreachableError(f"{endpoint.read_url}: {reason_of(answer.status, answer.text)}")
    body = answer.body
    if not isinstance(body, dict):
        raise UnreachableError(f"{endpoint.read_url} answers with no JSON object: {answer.text[:_SHOWN]}")
    return Held(answer.revision, {name: body[name] for name in endpoint.fields if name in body})


def compare_objects(
    context: SinkContext, endpoint: EndpointDeclaration, expected: Adapted, asked: pa.Table
) -> list[Finding]:
    """Return mismatches of the objects of expected rows, and of all `asked` keys, which may want none."""

    def read(keys: list[str]) -> dict[str, Held]:
        return read_objects(context, endpoint, keys)

    return JsonComparison(context, endpoint.id, endpoint.texts, read).compare(expected, asked)


def compare_ledger(context: SinkContext, endpoint: EndpointDeclaration, position: list[str] | None) -> PartPage:
    """Find objects that the ledger counts on and the receiver lacks, or holds under another revision.

    All of them where the receiver cannot be read.
    """
    is_held = f"l.held & {context.bits[endpoint.id]} <> 0"
    with context.stores.target() as cursor:
        page = context.ledger.page(cursor, is_held, position, _PAGE)
    texts = context.key.texts(page.rows).to_pylist()
    there = read_objects(context, endpoint, texts) if endpoint.read_url else {}
    written = page.rows.column("written").to_pylist()
    differing = [
        text
        for text, version in zip(texts, written, strict=True)
        if text not in there or there[text].version not in {None, version}
    ]
    return PartPage(page.following, page.rows.num_rows, differing)
