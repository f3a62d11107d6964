"""What a writer of the awkward monolith works with."""

from dataclasses import dataclass
from random import Random
from typing import Any

from tests.awkward.load import Loader
from tests.world import World

FILM = '"Old Vault"."Film"'
_TITLE = f'(SELECT "Id" AS id FROM {FILM} UNION ALL SELECT id FROM clip) t'


@dataclass
class Desk:
    """A transaction that is open, a bucket, dice, and what is made of them; `url` leads to other connections."""

    cursor: Any
    rng: Random
    client: Any
    bucket: str
    loader: Loader
    url: str

    @classmethod
    def of(cls, world: World, cursor: Any, rng: Random) -> "Desk":
        """In a world, on a transaction of it."""
        loader = Loader(world.client, world.legacy_bucket, rng.getrandbits(32))
        return cls(cursor, rng, world.client, world.legacy_bucket, loader, world.monolith.admin_url)

    def run(self, statement: str, *values: object) -> int:
        """How many rows it changed."""
        self.cursor.execute(statement, values)
        return int(self.cursor.rowcount)

    def one(self, column: str, source: str) -> Any:
        """Some value of a column; None where there is none."""
        salt = self.rng.getrandbits(32)
        self.run(f"SELECT {column} FROM {source} ORDER BY md5({column}::text || %s) LIMIT 1", str(salt))
        return (self.cursor.fetchone() or (None,))[0]

    def film(self) -> Any:
        """A film's id."""
        return self.one('"Id"', FILM)

    def title(self) -> Any:
        """A film's or clip's id."""
        return self.one("id", _TITLE)
