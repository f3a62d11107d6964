"""What editors type: new rows, and new values for the fields of old ones."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import orjson

from demo.load.contents import NOT_A_NUMBER
from demo.words import Words

Fields = dict[str, Any]


class Drafts:
    """Draws from one editor's own source of chance."""

    def __init__(self, rng: Random) -> None:
        self.rng = rng
        self.words = Words(rng)
        self._revisions: tuple[Callable[[], Fields], ...] = (
            lambda: {"title": self.words.title(rng.getrandbits(30))},
            lambda: {"title": self.words.awkward(), "rating": rng.randrange(51) / 10},
            lambda: {"body": self.words.prose(rng.randrange(50, 2_000))},
            lambda: (
                {"body": self.words.prose(rng.randrange(10_000, 40_000))} if rng.random() < 0.05 else {"body": None}
            ),
            lambda: {"price": f"{rng.randrange(100_000) / 100:.2f}"},
            lambda: dict(zip(("country", "city", "street", "zip"), self.words.place(), strict=True)),
            lambda: {"attrs": self.attrs(rng.randrange(20_000))},
        )

    def revision(self) -> Fields:
        """New values for one to three fields."""
        return {name: value for make in self.rng.sample(self._revisions, 2) for name, value in make().items()}

    def content(self, author_id: int | None, poison: bool = False) -> Fields:
        """A new row of `content`; a poisoned one is published and no adapter takes it."""
        return {
            "kind": self.rng.choice(("text", "text", "video", "audio")),
            "title": self.words.title(self.rng.getrandbits(30)),
            "body": self.words.prose(self.rng.randrange(50, 1_500)),
            "author_id": author_id,
            **dict(zip(("country", "city", "street", "zip"), self.words.place(), strict=True)),
            "status": "published" if poison else self.rng.choice(("draft", "published", "published")),
            "price": f"{self.rng.randrange(100_000) / 100:.2f}",
            "rating": self.rng.randrange(51) / 10,
            "attrs": self.attrs(NOT_A_NUMBER if poison else self.rng.randrange(20_000)),
        }

    def attrs(self, duration: int | str) -> str:
        """The JSON column."""
        return orjson.dumps({"duration": duration, "note": self.words.awkward(), "edits": [self.rng.random()]}).decode()

    def tags(self) -> list[str]:
        """At least one tag."""
        return self.words.tags() or ["news"]
