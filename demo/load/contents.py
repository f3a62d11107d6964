"""Makes the rows of the monolith's content, its tags and its authors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from random import Random

import orjson

from demo.load.copying import Value
from demo.words import Words

CONTENT_COLUMNS = (
    *("id", "kind", "title", "body", "author_id", "country", "city", "street", "zip", "status", "price", "rating"),
    *("attrs", "view_count", "version", "created_at", "updated_at", "deleted_at"),
)
NOT_A_NUMBER = "not a number"

_START = datetime(2019, 1, 1, tzinfo=UTC)
_KINDS = ("text", "text", "text", "text", "text", "video", "video", "video", "audio", "audio")
_STATUSES = ("published", "published", "published", "draft", "archived")
_BLOCK_ROWS = 5_000
# a bulk job of the monolith stamped every eighth block of rows with one time
_BLOCK_STRIDE = 8


def spread(few: int, many: int) -> list[int]:
    """`few` numbers below `many`, evenly apart."""
    return [int((number + 0.5) * many / few) for number in range(few)]


@dataclass(frozen=True)
class Span:
    """What one load makes: ids from `first_id` on, by authors from `first_author` on."""

    first_id: int
    contents: int
    first_author: int
    authors: int
    poison: int
    now: datetime

    def poisoned(self) -> frozenset[int]:
        """Offsets of the rows no adapter takes, spread over the whole."""
        return frozenset(spread(self.poison, self.contents))


class ContentMaker:
    """Rows by their offset in the span; every n-th one is unusual, so that small loads have them too."""

    def __init__(self, span: Span, rng: Random) -> None:
        self.span = span
        self.rng = rng
        self.words = Words(rng)
        self.poisoned = span.poisoned()
        self.latest = span.now - timedelta(hours=1)
        self.block_rows = max(1, min(_BLOCK_ROWS, span.contents // _BLOCK_STRIDE))

    def rows(self, offsets: range) -> Iterator[tuple[Value, ...]]:
        """Rows of `content`, in the order of CONTENT_COLUMNS."""
        return (self._row(offset) for offset in offsets)

    def tag_rows(self, offsets: range) -> Iterator[tuple[Value, ...]]:
        """Rows of `content_tags`."""
        for offset in offsets:
            for tag in self.words.tags():
                yield self.span.first_id + offset, tag

    def author_rows(self) -> Iterator[tuple[Value, ...]]:
        """Rows of `authors`: id, name, bio, created_at."""
        for offset in range(self.span.authors):
            number = self.span.first_author + offset
            bio = None if offset % 3 == 0 else self.words.prose(200)
            yield number, self.words.name(number), bio, str(_START + timedelta(hours=offset))

    def _row(self, offset: int) -> tuple[Value, ...]:
        poisoned = offset in self.poisoned
        number = self.span.first_id + offset
        created = self._created(offset)
        deleted = offset % 47 == 5 and not poisoned
        return (
            number,
            self.rng.choice(_KINDS),
            self._title(offset, number),
            self._body(offset),
            None if offset % 29 == 0 else self.span.first_author + self.rng.randrange(self.span.authors),
            *self._address(offset),
            "published" if poisoned else self.rng.choice(_STATUSES),
            self._price(offset),
            None if offset % 17 == 2 else self.rng.randrange(51) / 10,
            self._attrs(offset, poisoned),
            self.rng.randrange(100_000),
            self.rng.randrange(1, 20),
            None if offset % 331 == 7 else str(created),
            None if offset % 199 == 3 else str(self._updated(offset, created)),
            str(self.latest - timedelta(minutes=offset % 5000)) if deleted else None,
        )

    def _title(self, offset: int, number: int) -> str | None:
        if offset % 97 == 13:
            return None
        return self.words.awkward() if offset % 41 == 1 else self.words.title(number)

    def _body(self, offset: int) -> str | None:
        if offset % 53 == 9:
            return None
        if offset % 61 == 3:
            return self.words.awkward()
        return self.words.prose(self.rng.randrange(10_000, 60_000) if offset % 251 == 17 else self._short())

    def _short(self) -> int:
        return self.rng.randrange(20, 800)

    def _address(self, offset: int) -> tuple[str | None, ...]:
        if offset % 19 == 4:
            return None, None, None, None
        place: list[str | None] = list(self.words.place())
        if offset % 13 == 6:
            place[self.rng.randrange(4)] = None
        if offset % 43 == 8:
            place[self.rng.randrange(4)] = self.words.awkward()
        return tuple(place)

    def _price(self, offset: int) -> str | None:
        if offset % 11 == 3:
            return None
        if offset % 503 == 1:
            return "12345678901234567890.123456789"
        return f"{self.rng.randrange(100_000) / 100:.{offset % 4}f}"

    def _attrs(self, offset: int, poisoned: bool) -> str | None:
        if offset % 31 == 6 and not poisoned:
            return None
        attrs: dict[str, object] = {
            "format": {"width": 320 * (offset % 6), "height": 240, "ratio": self.rng.random(), "codec": None},
            "labels": ["без рекламы", {"lang": "ru"}, 1.5, True][: offset % 5],
            "note": self.words.awkward(),
        }
        if poisoned or offset % 37 != 2:
            attrs["duration"] = NOT_A_NUMBER if poisoned else self._duration(offset)
        return orjson.dumps(attrs).decode()

    def _duration(self, offset: int) -> int | None:
        if offset % 71 == 3:
            return None
        return 9007199254740993 if offset % 601 == 2 else self.rng.randrange(20_000)

    def _created(self, offset: int) -> datetime:
        if offset % 307 == 11:
            return _START - timedelta(seconds=self.rng.randrange(1, 300_000_000))
        share = min(1.0, max(0.0, offset / self.span.contents + self.rng.uniform(-0.02, 0.02)))
        return _START + (self.latest - _START - timedelta(days=1)) * share

    def _updated(self, offset: int, created: datetime) -> datetime:
        block = offset // self.block_rows
        if block % _BLOCK_STRIDE == 3:
            return self.latest.replace(microsecond=654_321) - timedelta(hours=1 + block % 12)
        return created + (self.latest - created) * self.rng.random() ** 3
