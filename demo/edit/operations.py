"""What one transaction of an editor does; each function is one operation on an open transaction."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from random import Random
from typing import TYPE_CHECKING, Any

from psycopg2.extensions import cursor as Cursor  # noqa: N812
from psycopg2.sql import SQL, Identifier, Placeholder

from demo.edit.drafts import Drafts, Fields
from demo.load.media import MediaFile, make_file, small_size, upload

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_LOG = """
    INSERT INTO demo.edit_log (content_id, kind, version, deleted)
    SELECT id, %s, version, deleted_at IS NOT NULL FROM content WHERE id = %s"""


class GoneError(Exception):
    """The content was deleted meanwhile, or has no file: try another one."""


@dataclass
class Desk:
    """What an editor works with."""

    cursor: Cursor
    client: S3Client
    bucket: str
    authors: list[int]
    drafts: Drafts
    rng: Random


def create(desk: Desk, poison: bool = False) -> int:
    """A new content with tags and, at times, a cover."""
    author = desk.rng.choice(desk.authors) if desk.authors else None
    fields = desk.drafts.content(author, poison)
    statement = SQL("INSERT INTO content ({}, created_at, updated_at) VALUES ({}, now(), now()) RETURNING id")
    names = SQL(", ").join(map(Identifier, fields))
    values = SQL(", ").join(map(Placeholder, fields))
    desk.cursor.execute(statement.format(names, values), fields)
    content_id = int(_row(desk)[0])
    _insert_tags(desk, content_id)
    if desk.rng.random() < 0.1:
        _attach(desk, make_file(desk.rng, content_id, "cover", small_size(desk.rng)))
    desk.cursor.execute(_LOG, ["poison" if poison else "create", content_id])
    return content_id


def edit(desk: Desk, content_id: int) -> None:
    """Other words, another price or address."""
    _change(desk, content_id, desk.drafts.revision())


def publish(desk: Desk, content_id: int) -> None:
    """Make it public."""
    _change(desk, content_id, {"status": "published"})


def unpublish(desk: Desk, content_id: int) -> None:
    """Take it off the site."""
    _change(desk, content_id, {"status": desk.rng.choice(("draft", "archived"))})


def retag(desk: Desk, content_id: int) -> None:
    """Other tags; the monolith's trigger touches the content."""
    _lock(desk, content_id)
    desk.cursor.execute("DELETE FROM content_tags WHERE content_id = %s", [content_id])
    _insert_tags(desk, content_id)


def soft_delete(desk: Desk, content_id: int) -> None:
    """Into the bin."""
    desk.cursor.execute(
        "UPDATE content SET deleted_at = now(), updated_at = now(), version = version + 1"
        " WHERE id = %s AND deleted_at IS NULL RETURNING id",
        [content_id],
    )
    _row(desk)


def replace_file(desk: Desk, content_id: int) -> None:
    """Another object under another key; the old one stays in the bucket."""
    _lock(desk, content_id)
    media_id, old = _any_file(desk, content_id)
    new = make_file(desk.rng, content_id, old.kind, small_size(desk.rng))
    upload(desk.client, desk.bucket, new)
    _point(desk, media_id, new)


def overwrite_file(desk: Desk, content_id: int) -> None:
    """Other bytes under the same key."""
    _lock(desk, content_id)
    media_id, old = _any_file(desk, content_id)
    new = replace(old, size=small_size(desk.rng), seed=desk.rng.getrandbits(48))
    upload(desk.client, desk.bucket, new)
    _point(desk, media_id, new)


def hard_delete(desk: Desk, content_id: int) -> None:
    """Gone, with tags and files' rows; logged before, as nothing is left after."""
    _lock(desk, content_id)
    desk.cursor.execute(
        "INSERT INTO demo.edit_log (content_id, kind, version, deleted)"
        " SELECT id, 'hard_delete', version + 1, true FROM content WHERE id = %s",
        [content_id],
    )
    desk.cursor.execute("DELETE FROM content WHERE id = %s", [content_id])


def view(desk: Desk, content_id: int) -> None:
    """Noise: somebody looked at it; nothing is stamped."""
    desk.cursor.execute("UPDATE content SET view_count = view_count + 1 WHERE id = %s", [content_id])


def rename_author(desk: Desk) -> None:
    """Another name; the author's contents are not touched."""
    if desk.authors:
        author = desk.rng.choice(desk.authors)
        desk.cursor.execute(
            "UPDATE authors SET name = %s WHERE id = %s", [desk.drafts.words.name(desk.rng.getrandbits(20)), author]
        )


def change_of_mind(desk: Desk, content_id: int) -> None:
    """A change that is taken back to a savepoint."""
    desk.cursor.execute("SAVEPOINT before_change")
    _change(desk, content_id, {"title": "taken back: nobody may see this"})
    desk.cursor.execute("ROLLBACK TO SAVEPOINT before_change")


Operation = Callable[[Desk, int], None]
# on a content that is there; each but hard_delete and view ends in a row of the log
ON_CONTENT: dict[str, Operation] = {
    function.__name__: function
    for function in (
        *(edit, publish, unpublish, retag, soft_delete, replace_file, overwrite_file),
        *(hard_delete, view),
    )
}
NEED_FILE = frozenset({"replace_file", "overwrite_file"})
GO_AWAY = frozenset({"soft_delete", "hard_delete"})
_LOG_THEMSELVES = frozenset({"hard_delete", "view"})


def perform(desk: Desk, kind: str, content_id: int) -> None:
    """An operation and its row in the log."""
    ON_CONTENT[kind](desk, content_id)
    if kind not in _LOG_THEMSELVES:
        desk.cursor.execute(_LOG, [kind, content_id])


def _row(desk: Desk) -> tuple[Any, ...]:
    row = desk.cursor.fetchone()
    if row is None:
        raise GoneError
    return row


def _lock(desk: Desk, content_id: int) -> None:
    desk.cursor.execute("SELECT 1 FROM content WHERE id = %s AND deleted_at IS NULL FOR UPDATE", [content_id])
    _row(desk)


def _change(desk: Desk, content_id: int, fields: Fields) -> None:
    sets = SQL(", ").join(SQL("{} = {}").format(Identifier(name), Placeholder(name)) for name in fields)
    statement = SQL(
        "UPDATE content SET {}, version = version + 1, updated_at = now()"
        " WHERE id = %(content_id)s AND deleted_at IS NULL RETURNING id"
    )
    desk.cursor.execute(statement.format(sets), {**fields, "content_id": content_id})
    _row(desk)


def _insert_tags(desk: Desk, content_id: int) -> None:
    statement = "INSERT INTO content_tags (content_id, tag) SELECT %s, unnest(%s::text[])"
    desk.cursor.execute(statement, [content_id, desk.drafts.tags()])


def _attach(desk: Desk, file: MediaFile) -> None:
    upload(desk.client, desk.bucket, file)
    desk.cursor.execute(
        "INSERT INTO media_files (content_id, kind, bucket_key, mime, size) VALUES (%s, %s, %s, %s, %s)",
        [file.content_id, file.kind, file.key, file.mime, file.size],
    )


def _any_file(desk: Desk, content_id: int) -> tuple[int, MediaFile]:
    desk.cursor.execute(
        "SELECT id, kind, bucket_key, mime, size FROM media_files WHERE content_id = %s ORDER BY random() LIMIT 1",
        [content_id],
    )
    media_id, kind, key, mime, size = _row(desk)
    return media_id, MediaFile(content_id, kind, key, mime, size, seed=0)


def _point(desk: Desk, media_id: int, file: MediaFile) -> None:
    desk.cursor.execute(
        "UPDATE media_files SET bucket_key = %s, mime = %s, size = %s, updated_at = now() WHERE id = %s",
        [file.key, file.mime, file.size, media_id],
    )
