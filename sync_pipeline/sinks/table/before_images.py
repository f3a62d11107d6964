"""Images of rows and references as they were before a revision wrote them, until the revision's document is taken.

Of a key that several revisions have written meanwhile there are as many: which of them readers last saw whole is told
by the version of the document that they see.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import psycopg2
import pyarrow as pa

from sync_pipeline.db.columns import array_literal
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, bind, named, quote
from sync_pipeline.errors import CompensationError
from sync_pipeline.ledger.ledger import WRITE
from sync_pipeline.sinks.table.target_table import TargetTable, image_of


@dataclass(frozen=True)
class Image:
    """A key's image, but for what it holds; `document` is what is still to be sent once it is `restored`."""

    key: str
    revision: int
    written: int
    held: int
    there: bool  # there was a row
    restored: int | None = None
    document: str | None = None

    def shows(self, version: int | None, bit: int) -> bool:
        """Whether readers who see a document of this version (None: no document) see the image's.

        `bit` is the sink's that the document is in.
        """
        return version == (self.written if self.held & bit else None)


def save(cursor: Cursor, entity: str, tables: Sequence[TargetTable], key: Key, revision: int, texts: pa.Array) -> None:
    """Keep what a plan is to write, of keys (texts) whose documents are to be sent; under the ledger's locks.

    `tables` are those that rows are written to, the live one first: an image has what columns only the other one has.
    """
    if not len(texts):
        return
    plan, applied = (f"pg_temp.{quote(f'{part}_{entity}')}" for part in ("plan", "applied"))
    text, of = key.text_expression("p"), bind(cursor, entity)
    aliases = [f"t{n}" for n in range(len(tables))]
    live, *shadow = (
        (f"{table.quoted} {alias}", key.named(table.key).joins(alias, key, "p"))
        for table, alias in zip(tables, aliases, strict=True)
    )
    others = "".join(f" LEFT JOIN {relation} ON {same}" for relation, same in shadow)
    # looked up one by one: the planner would read whole tables for a temporary one that it knows nothing of
    cursor.defer(
        "INSERT INTO sync.before (entity, key, revision, written, held, image, files)"
        f" SELECT {of}, {text}, {revision}, a.written_before, a.held_before,"
        f" (SELECT {image_of(tables, aliases)} FROM {live[0]}{others} WHERE {live[1]}),"
        " (SELECT json_object_agg(r.source_key, r.target_key) FROM sync.media_ref r"
        f"   WHERE r.entity = {of} AND r.key = {text})"
        f" FROM {plan} p JOIN {applied} a USING (n) WHERE p.action = {WRITE}"
        f" AND {text} = ANY({bind(cursor, array_literal(texts))}::text[])"
    )


def forget(cursor: Cursor, entity: str, texts: pa.Array, versions: pa.Array) -> None:
    """Documents of these versions are taken: what was before is of no use any more. Sent with what comes next."""
    cursor.defer(
        "DELETE FROM sync.before b USING unnest(%s::text[], %s::bigint[]) t (key, version)"
        " WHERE b.entity = %s AND b.key = t.key AND b.revision <= t.version",
        (array_literal(texts), versions.to_pylist(), entity),
    )


def forget_all(cursor: Cursor, entity: str) -> None:
    """The entity does not compensate, or no longer: none of its rows is put back. Sent with what comes next."""
    cursor.defer("DELETE FROM sync.before WHERE entity = %s", (entity,))


def images(cursor: Cursor, entity: str, keys: Sequence[str]) -> dict[str, list[Image]]:
    """The images of these keys, oldest first."""
    found = named(
        cursor,
        "SELECT key, revision, written, held, image IS NOT NULL AS there, restored, document FROM sync.before"
        " WHERE entity = %(entity)s AND key = ANY(%(keys)s) ORDER BY key, revision",
        {"entity": entity, "keys": list(keys)},
    )
    by_key: dict[str, list[Image]] = {}
    for row in found:
        by_key.setdefault(row["key"], []).append(Image(**row))
    return by_key


def last_whole(kept: Sequence[Image], version: int | None, bit: int) -> Image:
    """The image that goes with the document which readers see; else the oldest: none of the later ones was whole."""
    return next((image for image in reversed(kept) if image.shows(version, bit)), kept[0])


def revert(cursor: Cursor, entity: str, tables: Sequence[TargetTable], key: Key, chosen: Sequence[Image]) -> None:
    """Rows and references to files, as the images have them. Raises what the database says against them.

    An entity that compensates has one sink of files at most, which the registry of sinks names.


    What only a table beside the live one does not take is taken out of it: a rebuild finds it missing, and says so.
    """
    keys, revisions = [image.key for image in chosen], [image.revision for image in chosen]
    of = "b.entity = %s AND (b.key, b.revision) IN (SELECT * FROM unnest(%s::text[], %s::bigint[]))"
    chosen_ones = cursor.mogrify(of, (entity, keys, revisions)).decode()
    images = f"sync.before b WHERE {chosen_ones} AND b.image IS NOT NULL"
    absent = key.parse(image.key for image in chosen if not image.there)
    for table in tables:
        _remove(cursor, table, key, key.parse(keys) if table.is_shadow else absent)
        with _optional(cursor) if table.is_shadow else nullcontext():
            written = table.revert(cursor, images)
            if not table.is_shadow and table.outer_key and written < sum(image.there for image in chosen):
                raise CompensationError("another row holds the id of a row that is to be put back: it has moved")
    cursor.execute("DELETE FROM sync.media_ref WHERE entity = %s AND key = ANY(%s)", (entity, keys))
    cursor.execute(
        "INSERT INTO sync.media_ref (entity, key, source_key, target_key, sink)"
        " SELECT b.entity, b.key, f.key, f.value,"
        " (SELECT s.name FROM sync.sink s WHERE s.entity = b.entity AND s.bit IS NULL AND s.declared LIMIT 1)"
        f" FROM sync.before b, json_each_text(b.files) f WHERE {chosen_ones}"
    )


def _remove(cursor: Cursor, table: TargetTable, key: Key, keys: pa.Table) -> None:
    cursor.execute(f"DELETE FROM {table.quoted} t WHERE {key.named(table.key).is_in(cursor, 't', keys)}")


@contextmanager
def _optional(cursor: Cursor) -> Iterator[None]:
    """Undone where the database does not take it."""
    cursor.execute("SAVEPOINT beside")
    try:
        yield
    except (psycopg2.DataError, psycopg2.IntegrityError):
        cursor.execute("ROLLBACK TO SAVEPOINT beside")


def note_reverted(
    cursor: Cursor, entity: str, chosen: Sequence[Image], revision: int, documents: Mapping[str, str | None]
) -> None:
    """These were put back by a revision, under which their documents are to be sent; others have no use any more."""
    keys, revisions = [image.key for image in chosen], [image.revision for image in chosen]
    cursor.execute(
        "DELETE FROM sync.before b USING unnest(%s::text[], %s::bigint[]) c (key, revision)"
        " WHERE b.entity = %s AND b.key = c.key AND b.revision <> c.revision",
        (keys, revisions, entity),
    )
    cursor.execute(
        "UPDATE sync.before b SET restored = %s, document = d.document FROM unnest(%s::text[], %s::text[]) d"
        " (key, document) WHERE b.entity = %s AND b.key = d.key",
        (revision, keys, [documents.get(key) for key in keys], entity),
    )


def any_reverted(cursor: Cursor, entity: str) -> bool:
    """Whether a former document is still to be sent."""
    cursor.execute("SELECT EXISTS (SELECT FROM sync.before WHERE entity = %s AND restored IS NOT NULL)", (entity,))
    return bool(cursor.fetchone()[0])
