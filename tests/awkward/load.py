"""Contents of the awkward monolith: few rows, every awkwardness, the same for the same seed."""

import datetime as dt
import json
import uuid
from collections.abc import Iterable, Sequence
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any

from psycopg2.extras import execute_values

from demo.databases import connected
from tests.awkward.texts import CODES, NO_DOCUMENT, PATHS, WORDS, body

SCHEMA = Path(__file__).with_name("legacy.sql")
COUNTRIES = ("DE", "FR", "JP", "N ")
BRANCHES = ("007", '["a"]', "café", "null", "A ")
BIG = 2**53 + 1
EXACT = ("1.0", "1.00", "0.1", "-0.0", "12345678901234567890.123456789012345678901234567890", "1E-20", "NaN")
SCORES = ("1.0000000000", "99999999999999.0000000001", "0.0000000001", "-0.5", "0")
GIANT = "007"  # very many titles refer to it
NOWHERE = 9_999_999  # no asset bears this id
BEGINNING = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)


class Loader:
    """One load. Raises psycopg2.Error, botocore's ClientError."""

    def __init__(self, client: Any, bucket: str, seed: int) -> None:
        self.client = client
        self.bucket = bucket
        self.rng = Random(seed)
        self.assets = list(range(1, 3 * len(PATHS) + 1))

    def load(self, cursor: Any, films: int, clips: int, airings: int) -> None:
        """Everything, in one transaction."""
        cursor.execute(SCHEMA.read_text())
        self._insert(cursor, "country (code, name)", [(code, f"land {code}") for code in COUNTRIES])
        self._insert(cursor, "asset (id, path)", [(n, self._stored(n)) for n in self.assets])
        self._insert(cursor, "label (code, name, story, founded, country, state, logo)", self._labels())
        titles = [self._uuid() for _ in range(films + clips)]
        self._insert(cursor, '"Old Vault"."Film"', [self.film(key) for key in titles[:films]])
        self._insert(cursor, "clip", [self.clip(key) for key in titles[films:]])
        self._insert(cursor, "tag", [(key, tag) for key in titles for tag in self.tags()])
        self._insert(cursor, "place (title, rank, city)", [(key, *at) for key in titles for at in self.places()])
        shelf = [(n, self.rng.choice(WORDS)) for n in range(1, clips // 4 + 1)]
        self._insert(cursor, "book (no, name)", shelf)
        self._insert(cursor, '"Old Vault"."Disc" ("No", "Name")', shelf[::2])
        self._insert(cursor, "scene (book, note)", [(no, note) for no, note in shelf for _ in range(2)])
        self._insert(cursor, "scene (disc, note)", shelf[::2])
        self._insert(cursor, "airing", [self.airing(n, titles) for n in range(airings)])
        self._insert(cursor, "branch (code, name)", [(code, self.rng.choice(WORDS)) for code in BRANCHES])
        loans = [(code, n) for code in BRANCHES for n in range(airings // 10)]
        self._insert(cursor, "loan (branch, number, borrower, fee)", [(*key, *self.loan()) for key in loans])
        self._insert(cursor, "reminder (branch, loan, note)", [(*key, self.rng.choice(WORDS)) for key in loans])

    def film(self, key: str) -> tuple[Any, ...]:
        """A film's row."""
        pick = self.rng.choice
        gross = pick((None, BIG, -BIG, 7))
        words = pick(WORDS), self._body()
        return (key, *words, self._label(), pick("PPDX"), self.extra(), gross, pick((None, *EXACT)), pick(SCORES))

    def clip(self, key: str) -> tuple[Any, ...]:
        """A clip's row."""
        return key, self.rng.choice(WORDS), self._body(), self._label(), self.rng.choice("PPDX"), self.extra()

    def airing(self, n: int, titles: Sequence[str]) -> tuple[Any, ...]:
        """An airing's row."""
        pick = self.rng.choice
        slot = BEGINNING + dt.timedelta(minutes=30 * (n // 2), microseconds=n % 3)
        numbers = Decimal(n) / 7 if n % 5 else None, pick((None, BIG + n))
        words = pick(titles), pick(WORDS)
        return (
            pick(CODES),
            slot,
            n % 2 == 0,
            *words,
            *numbers,
            pick((None, *self.assets)),
            BEGINNING.replace(tzinfo=None),
        )

    def loan(self) -> tuple[Any, ...]:
        """A loan's borrower and fee."""
        return self.rng.choice(WORDS), self.rng.choice((None, "0.00", "12.50"))

    def extra(self) -> str | None:
        """Ids of files in JSON, as numbers and as texts; some lead nowhere, some fields are no lists."""
        pick = self.rng.choice
        stills = [str(n) if n % 2 else n for n in self.rng.sample([*self.assets, NOWHERE], self.rng.randrange(4))]
        editions = [{"lang": lang, "name": pick(WORDS)} for lang in ("de", "en", "ja")[: self.rng.randrange(4)]]
        whole = {
            "poster": pick((None, NOWHERE, *self.assets)),
            "stills": stills,
            "editions": editions,
            "mood": pick(WORDS),
        }
        return pick((None, "{}", '"no object"', '{"stills": 7, "editions": null}', *[json.dumps(whole)] * 8))

    def tags(self) -> list[str | None]:
        """Some twice, one of them NULL at times."""
        return self.rng.choices([*CODES, None], k=self.rng.randrange(4))

    def places(self) -> list[tuple[int | None, str]]:
        """(rank, city); several of one rank, or of none."""
        return [(self.rng.choice((None, 1, 1, 2)), self.rng.choice(WORDS)) for _ in range(self.rng.randrange(3))]

    def _labels(self) -> Iterable[tuple[Any, ...]]:
        for n, code in enumerate((*CODES, *NO_DOCUMENT)):
            story = body(90_000, code) if n % 8 == 0 else self.rng.choice(WORDS)
            state = "D" if n % 5 == 4 else "P"
            logo = self.assets[n % 4] if n % 3 else None  # four files for all of them
            yield (
                code,
                self.rng.choice(WORDS),
                story,
                BIG + n if n % 2 else None,
                self.rng.choice(COUNTRIES),
                state,
                logo,
            )

    def _label(self) -> str | None:
        return self.rng.choice((GIANT, GIANT, GIANT, None, *CODES))

    def _body(self) -> str:
        return body(90_000, "long") if self.rng.random() < 0.02 else body(200, self.rng.choice(CODES))

    def path(self, n: int) -> str:
        """Of an asset, as it was loaded."""
        return f"{n // len(PATHS)}/{PATHS[n % len(PATHS)]}"

    def _stored(self, n: int) -> str:
        path = self.path(n)
        self.client.put_object(
            Bucket=self.bucket,
            Key=path,
            Body=self.rng.randbytes(200 + n),
            ContentType="image/jpeg",
            Metadata={"number": str(n)},
        )
        return path

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self.rng.getrandbits(128), version=4))

    def _insert(self, cursor: Any, into: str, rows: Iterable[Sequence[Any]]) -> None:
        execute_values(cursor, f"INSERT INTO {into} VALUES %s", list(rows))


def load(
    url: str, client: Any, bucket: str, *, seed: int = 1, films: int = 240, clips: int = 80, airings: int = 120
) -> None:
    """Fill an empty database and its bucket."""
    with connected(url, autocommit=False) as connection, connection, connection.cursor() as cursor:
        Loader(client, bucket, seed).load(cursor, films, clips, airings)
