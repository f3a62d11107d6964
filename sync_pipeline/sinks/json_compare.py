"""Compares objects that a sink holds as JSON with the rows that the monolith wants, field by field."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import pyarrow as pa

from sync_pipeline.db.columns import DIGEST
from sync_pipeline.model.findings import Difference, Finding, FindingKind
from sync_pipeline.model.json_values import JsonValue
from sync_pipeline.model.rows import Adapted
from sync_pipeline.sinks.context import SinkContext
from sync_pipeline.sinks.fields import Fields

_PAGE = 1_000
_SHOWN = 80


class Held(NamedTuple):
    """An object that a sink holds: its version (None: the sink names none), and its fields."""

    version: int | None
    fields: Mapping[str, JsonValue]


class _Entry(NamedTuple):
    """What the ledger has of a key."""

    digest: int | None = None
    written: int = 0
    is_current: bool = False


@dataclass(frozen=True)
class JsonComparison:
    """How objects of a sink differ from rows.

    `texts_of` makes the sink's JSON texts of adapted rows, `read` returns what it holds of some keys (texts).
    """

    context: SinkContext
    sink: str
    texts_of: Callable[[pa.Table], pa.Array]
    read: Callable[[list[str]], Mapping[str, Held]]

    def compare(self, expected: Adapted, asked: pa.Table) -> list[Finding]:
        """Return mismatches of the objects of expected rows, and of all `asked` keys, which may want none.

        Raises UnreachableError.
        """
        key = self.context.key
        wanted = expected.held_by(self.context.bits[self.sink])
        texts = key.texts(wanted.legacy).to_pylist()
        # a parser that keeps whole numbers of any length
        objects = dict(zip(texts, map(json.loads, self.texts_of(wanted.table).to_pylist()), strict=True))
        digests = dict(zip(texts, wanted.legacy.column(DIGEST).to_pylist(), strict=True))
        fields = Fields(self.context)
        keys = sorted({*texts, *key.texts(asked).to_pylist()})
        found: list[Finding] = []
        for first in range(0, len(keys), _PAGE):
            page = keys[first : first + _PAGE]
            entries, held = self._entries(page), self.read(page)
            for text in page:
                known = digests.get(text), entries.get(text, _Entry())
                found += self._of_one(fields, text, (objects.get(text), held.get(text)), known)
        return found

    def _of_one(
        self,
        fields: Fields,
        text: str,
        pair: tuple[Mapping[str, JsonValue] | None, Held | None],
        known: tuple[int | None, _Entry],
    ) -> Iterator[Finding]:
        wanted, held = pair
        if wanted is None or held is None:
            if wanted is not None or held is not None:
                yield Finding(self.sink, FindingKind.MISSING if held is None else FindingKind.EXTRA, text)
            return
        if not (differing := fields.differing(wanted, held.fields)):
            return
        digest, entry = known
        is_old = held.version is not None and held.version < entry.written
        is_stale = is_old or entry.digest != digest or not entry.is_current
        differs = tuple(Difference(name, _short(wanted, name), _short(held.fields, name)) for name in differing)
        yield Finding(self.sink, FindingKind.STALE if is_stale else FindingKind.CORRUPT, text, differs=differs)

    def _entries(self, texts: Sequence[str]) -> dict[str, _Entry]:
        key, ledger = self.context.key, self.context.ledger
        with self.context.stores.target() as cursor:
            prior = ledger.prior(cursor, key.parse(texts))
        is_current = [basis == ledger.basis for basis in prior.column("basis").to_pylist()]
        columns = prior.column(DIGEST).to_pylist(), prior.column("written").to_pylist(), is_current
        return dict(zip(key.texts(prior).to_pylist(), map(_Entry, *columns), strict=True))


def _short(fields: Mapping[str, JsonValue], name: str) -> str:
    return json.dumps(fields[name], ensure_ascii=False)[:_SHOWN] if name in fields else "absent"
