"""Changes of rows that no editor knows of, made so that a failover loses them; each would show if it were kept."""

from dataclasses import dataclass
from random import Random
from urllib.parse import urlsplit

from demo.databases import connected
from demo.load.media import MediaFile, make_file, upload
from tests.failover import Pair
from tests.world import World, wait_for

_BORN = (
    "INSERT INTO content (kind, title, body, status, created_at, updated_at)"
    " VALUES ('text', %s, 'body', 'published', now(), now()) RETURNING id"
)
_FILE = "INSERT INTO media_files (content_id, kind, bucket_key, mime, size) VALUES (%s, %s, %s, %s, %s)"
_EDIT = "UPDATE content SET title = %s, updated_at = clock_timestamp(), version = version + 1 WHERE id = %s"
_BIN = "UPDATE content SET deleted_at = now(), updated_at = now(), version = version + 1 WHERE id = %s"
# nothing reports these but a trigger or the log: the stamp stays as it was
_BACK_FROM_THE_BIN = "UPDATE content SET deleted_at = NULL WHERE id = %s"
_BACK = "UPDATE content SET title = 'kept', version = version + 2 WHERE id = %s"


@dataclass
class Rows:
    """Texts with a file each, all over on the new side: one to edit, two to delete, one to lose its file."""

    world: World
    edited: int
    binned: int
    deleted: int
    stripped: int
    file: MediaFile  # of `stripped`
    born: int = 0

    @classmethod
    def make(cls, world: World, seed: int) -> "Rows":
        rng = Random(seed)
        keys = [_make(world, rng, "kept") for _ in range(4)]
        rows = cls(world, *(key for key, _ in keys), keys[-1][1])
        for key, _ in keys:
            rows.wait_for_title(key, "kept")
        return rows

    def lose(self, seed: int, *, tells_deletes: bool) -> None:
        """Change them, and wait until the new side shows it: row, document and file."""
        self.born, _ = _make(self.world, Random(seed), "born")
        self.world.legacy(_EDIT, ("lost", self.edited))
        self.world.legacy(_BIN, [self.binned])
        self.world.legacy("DELETE FROM content WHERE id = %s", [self.deleted])
        self.world.legacy("DELETE FROM media_files WHERE content_id = %s", [self.stripped])
        self.wait_for_title(self.born, "born")
        self.wait_for_title(self.edited, "lost")
        wait_for(lambda: self._document(self.binned) is None)
        wait_for(lambda: not tells_deletes or self._document(self.deleted) is None)

    def edit_again(self) -> None:
        """Give a row the version that a lost edit had, and another title."""
        self.world.legacy(_EDIT, ("edited again", self.edited))

    def undo(self) -> None:
        """Have the monolith again as it was before, where only the new side has lost what it was told."""
        self.world.legacy("DELETE FROM content WHERE id = %s", [self.born])
        self.world.legacy(_BACK, [self.edited])
        self.world.legacy(_BACK_FROM_THE_BIN, [self.binned])
        self.world.legacy(_FILE, _values(self.file))

    def wait_until_file_is_removed(self) -> None:
        """Wait for the garbage's collector: the file of `stripped` has gone from the new bucket."""
        wait_for(lambda: not self.world.target("SELECT 1 FROM sync.media WHERE source_key = %s", [self.file.key]))

    def wait_for_title(self, key: int, title: str) -> None:
        """Wait for a row and its document."""
        header = "SELECT header FROM catalog.text WHERE id = %s"
        wait_for(lambda: self.world.target(header, [key]) == [(title,)])
        wait_for(lambda: (self._document(key) or {}).get("header") == title)

    def _document(self, key: int) -> dict[str, object] | None:
        try:
            found: dict[str, object] = self.world.document("GET", f"text/_doc/{key}")["_source"]
        except OSError:
            return None
        return found


def count_lost(pair: Pair, world: World, query: str) -> int:
    """By how much a count at the primary is above that of the standby, which gets nothing more."""
    database = urlsplit(world.target_url).path[1:]
    here, there = (_count(server.url(database), query) for server in (pair.primary, pair.standby))
    return here - there


def _count(url: str, query: str) -> int:
    with connected(url) as connection, connection.cursor() as cursor:
        cursor.execute(query)
        return int(cursor.fetchone()[0])  # type: ignore[index]


def _make(world: World, rng: Random, title: str) -> tuple[int, MediaFile]:
    ((key,),) = world.legacy(_BORN, [title])
    file = make_file(rng, key, "cover", 2_000)
    upload(world.client, world.legacy_bucket, file)
    world.legacy(_FILE, _values(file))
    return key, file


def _values(file: MediaFile) -> tuple[object, ...]:
    return file.content_id, file.kind, file.key, file.mime, file.size
