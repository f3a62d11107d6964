"""The story of a load: reserve ids, copy rows chunk by chunk, upload files, then their rows."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING

from psycopg2.extensions import connection as Connection  # noqa: N812

from demo.databases import connected
from demo.errors import DemoError
from demo.load.contents import CONTENT_COLUMNS, ContentMaker, Span
from demo.load.copying import copy_rows
from demo.load.media import MEDIA_COLUMNS, media_rows, plan_files, upload_chunks

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_CHUNK_ROWS = 10_000
_CHUNK_FILES = 500


@dataclass(frozen=True)
class Loaded:
    """What a load made."""

    first_id: int
    contents: int
    files: int


def load(
    admin_url: str, client: S3Client, bucket: str, *, contents: int, files: int, poison: int = 0, seed: int = 1
) -> Loaded:
    """Fill the monolith; may be done again, with ids that go on."""
    if contents < 1 or not 0 <= poison <= contents or files < 0:
        raise DemoError("load needs at least one content, no more poison than contents, and no negative count.")
    rng = Random(seed)
    with connected(admin_url, autocommit=False) as connection:
        span = _reserve(connection, contents, poison)
        _bulk_mode(connection)
        _load_rows(connection, ContentMaker(span, rng))
        ids = range(span.first_id, span.first_id + contents)
        for chunk in upload_chunks(client, bucket, plan_files(rng, ids, files), _CHUNK_FILES):
            with connection.cursor() as cursor:
                copy_rows(cursor, "media_files", MEDIA_COLUMNS, media_rows(rng, chunk, span.now))
            connection.commit()
        _analyze(connection)
    return Loaded(span.first_id, contents, files)


def _reserve(connection: Connection, contents: int, poison: int) -> Span:
    """Take a block of ids from both sequences; editors meanwhile wait a moment."""
    authors = max(20, min(20_000, contents // 200))
    with connection.cursor() as cursor:
        cursor.execute("LOCK TABLE content, authors IN EXCLUSIVE MODE")
        first = {}
        for table, count in (("content", contents), ("authors", authors)):
            cursor.execute("SELECT nextval(pg_get_serial_sequence(%s, 'id'))", [table])
            first[table] = _number(cursor.fetchone())
            cursor.execute("SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", [table, first[table] + count - 1])
    connection.commit()
    return Span(first["content"], contents, first["authors"], authors, poison, datetime.now(UTC))


def _number(row: tuple[int, ...] | None) -> int:
    assert row is not None
    return row[0]


def _bulk_mode(connection: Connection) -> None:
    """No triggers and no foreign-key checks: the rows are made to fit."""
    with connection.cursor() as cursor:
        cursor.execute("SET session_replication_role = replica")
    connection.commit()


def _load_rows(connection: Connection, maker: ContentMaker) -> None:
    with connection.cursor() as cursor:
        copy_rows(cursor, "authors", ("id", "name", "bio", "created_at"), maker.author_rows())
        for start in range(0, maker.span.contents, _CHUNK_ROWS):
            offsets = range(start, min(start + _CHUNK_ROWS, maker.span.contents))
            copy_rows(cursor, "content", CONTENT_COLUMNS, maker.rows(offsets))
            copy_rows(cursor, "content_tags", ("content_id", "tag"), maker.tag_rows(offsets))
            connection.commit()


def _analyze(connection: Connection) -> None:
    with connection.cursor() as cursor:
        cursor.execute("ANALYZE authors, content, content_tags, media_files")
    connection.commit()
