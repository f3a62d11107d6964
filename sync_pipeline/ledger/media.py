"""The ledger of media: which objects were copied, and which rows name them."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
from psycopg2.extras import execute_values

from sync_pipeline.db.counting import COUNTED_ROWS, count_rows
from sync_pipeline.db.keys import Key
from sync_pipeline.db.sql import Cursor, quote, stage
from sync_pipeline.errors import UnreachableError
from sync_pipeline.model.files import Copied

_NAMED_SECONDS = 600
# of a name whose file was not there, in the place of the object's key
NO_OBJECT = ""
# what was unused, and has a name again, is looked at once more
_UNMARK = "INSERT INTO sync.garbage (target_key) SELECT target_key FROM {} WHERE unused_since IS NOT NULL"

_ROWS_NAMING = """
    SELECT coalesce(nullif(target_key, ''), source_key), key FROM sync.media_ref
    WHERE entity = %(entity)s AND sink = %(sink)s
        AND (target_key = ANY(%(names)s) OR target_key = '' AND source_key = ANY(%(names)s))
"""
# all keys that begin with `prefix/`: the keys' order is that of bytes, in which "0" follows "/"
_OBJECTS = "sync.media WHERE NOT deleting AND target_key >= %s AND target_key < %s"


def known(cursor: Cursor, target_keys: Sequence[str]) -> set[str]:
    """Those of the objects that were copied already and are not about to be deleted."""
    cursor.execute(
        "SELECT target_key FROM sync.media WHERE target_key = ANY(%s) AND NOT deleting", (list(target_keys),)
    )
    return {key for (key,) in cursor.fetchall()}


def facts_of(cursor: Cursor, target_keys: Sequence[str]) -> dict[str, dict[str, int | str]]:
    """`size` in bytes and `sha256` of each of the objects that were copied."""
    cursor.execute("SELECT target_key, size, sha256 FROM sync.media WHERE target_key = ANY(%s)", (list(target_keys),))
    return {key: {"size": size, "sha256": sha256} for key, size, sha256 in cursor.fetchall()}


def copied(cursor: Cursor, source_keys: Sequence[str]) -> set[str]:
    """Those of the legacy files of which some state was copied and is not about to be deleted."""
    cursor.execute(
        "SELECT DISTINCT source_key FROM sync.media WHERE source_key = ANY(%s) AND NOT deleting", (list(source_keys),)
    )
    return {key for (key,) in cursor.fetchall()}


def begin(cursor: Cursor, target_keys: Sequence[str]) -> None:
    """Say which objects are about to be copied, and take them off what is being deleted: waits for a deletion."""
    execute_values(
        cursor,
        "INSERT INTO sync.copying (target_key) VALUES %s ON CONFLICT (target_key) DO UPDATE SET started_at = now()",
        [(key,) for key in sorted(set(target_keys))],
    )
    cursor.execute(
        "DELETE FROM sync.media WHERE target_key IN (SELECT target_key FROM sync.media"
        " WHERE target_key = ANY(%s) AND deleting ORDER BY 1 FOR UPDATE)",
        (list(target_keys),),
    )


def abandon(cursor: Cursor, target_keys: Sequence[str]) -> None:
    """Take objects of which there is no record for what a killed copier left: garbage, unless somebody copies them."""
    execute_values(
        cursor,
        "INSERT INTO sync.copying (target_key, started_at) VALUES %s ON CONFLICT DO NOTHING",
        [(key,) for key in sorted(target_keys)],
        template="(%s, '-infinity')",
    )


def record(cursor: Cursor, copies: Sequence[Copied]) -> None:
    """Remember copies that were begun. Raises UnreachableError where they took so long that they became garbage."""
    keys = {copy.target_key for copy in copies}
    cursor.execute("DELETE FROM sync.copying WHERE target_key = ANY(%s) RETURNING target_key", (list(keys),))
    begun = {key for (key,) in cursor.fetchall()}
    if keys - begun - known(cursor, list(keys - begun)):
        raise UnreachableError("a file was removed as garbage while it was copied: the next try copies it again")
    rows = sorted(
        (c.target_key, c.source.key, c.source.etag, c.size, c.sha256, c.target_etag)
        for c in {c.target_key: c for c in copies}.values()
    )
    execute_values(
        cursor,
        "INSERT INTO sync.media (target_key, source_key, source_etag, size, sha256, target_etag) VALUES %s"
        " ON CONFLICT (target_key) DO UPDATE SET size = excluded.size, sha256 = excluded.sha256,"
        " target_etag = excluded.target_etag, copied_at = now(), unused_since = NULL, deleting = false",
        rows,
    )
    # a row is to name it soon; one that does not come leaves an object that has never had a name to lose
    cursor.defer(
        f"INSERT INTO sync.garbage (target_key, look_at) SELECT k, now() + interval '{_NAMED_SECONDS} s'"
        " FROM unnest(%s::text[]) k",
        (sorted(keys),),
    )


def refer(cursor: Cursor, entity: str, key: Key, references: pa.Table) -> bool:
    """Replace what the applied rows refer to; False when an object among them is being deleted.

    `references` has `n` (of the plan), `source_key`, `target_key` and `sink`.

    A trigger queues what loses a name (sync.garbage). So names that stay are not removed and made again.
    """
    staged, plan, applied = (f"pg_temp.{quote(f'{part}_{entity}')}" for part in ("refs", "plan", "applied"))
    stays = ""
    if references.num_rows:
        cursor.defer(
            f"CREATE TEMP TABLE IF NOT EXISTS {quote(f'refs_{entity}')}"
            " (n integer, source_key text, target_key text, sink text) ON COMMIT DELETE ROWS"
        )
        stage(cursor, staged, "n, source_key, target_key, sink", references)
        same = "(s.n, s.sink, s.source_key, s.target_key) = (p.n, r.sink, r.source_key, r.target_key)"
        stays = f" AND NOT EXISTS (SELECT FROM {staged} s WHERE {same})"
    cursor.defer(
        f"DELETE FROM sync.media_ref r USING {plan} p JOIN {applied} a USING (n)"
        f" WHERE r.entity = %s AND r.key = {key.text_expression('p')} AND p.action = 1{stays}",
        (entity,),
    )
    if not references.num_rows:
        return True
    cursor.execute(
        "WITH named AS (SELECT DISTINCT s.n, s.source_key, s.target_key, s.sink"
        f"   FROM {staged} s JOIN {applied} a USING (n)),"
        " alive AS MATERIALIZED (SELECT m.target_key, m.unused_since FROM sync.media m WHERE NOT m.deleting"
        "   AND m.target_key IN (SELECT target_key FROM named) ORDER BY 1 FOR SHARE),"
        f" marked AS ({_UNMARK.format('alive')})"
        " INSERT INTO sync.media_ref (entity, key, source_key, target_key, sink)"
        f" SELECT %s, {key.text_expression('p')}, source_key, named.target_key, sink FROM named JOIN {plan} p USING (n)"
        "   LEFT JOIN alive ON alive.target_key = named.target_key"
        f"   WHERE alive.target_key IS NOT NULL OR named.target_key = '{NO_OBJECT}'"
        " ON CONFLICT (entity, key, sink, source_key) DO UPDATE SET target_key = excluded.target_key",
        (entity,),
    )
    inserted = cursor.rowcount
    cursor.execute(
        f"SELECT count(*) FROM (SELECT DISTINCT s.n, s.sink, s.source_key FROM {staged} s JOIN {applied} a USING (n)) d"
    )
    return bool(inserted == cursor.fetchone()[0])


def refer_new(cursor: Cursor, entity: str, references: Sequence[tuple[str, str, str, str]]) -> bool:
    """First load: what new rows (key text, source key, target key, sink) refer to; False as with `refer`."""
    objects = sorted({target for _, _, target, _ in references} - {NO_OBJECT})
    cursor.execute(
        "WITH alive AS MATERIALIZED (SELECT target_key, unused_since FROM sync.media"
        "   WHERE target_key = ANY(%s) AND NOT deleting ORDER BY target_key FOR SHARE),"
        f" marked AS ({_UNMARK.format('alive')}) SELECT FROM alive",
        (objects,),
    )
    if cursor.rowcount != len(objects):
        return False
    execute_values(
        cursor,
        "INSERT INTO sync.media_ref (entity, key, source_key, target_key, sink) VALUES %s",
        [(entity, *reference) for reference in references],
        page_size=1000,
    )
    return True


def named(cursor: Cursor, entity: str, keys: Sequence[str]) -> dict[tuple[str, str, str], str]:
    """(row's key text, sink, legacy file key) to the new key: two rows may name two states of one file."""
    cursor.execute(
        "SELECT key, sink, source_key, target_key FROM sync.media_ref WHERE entity = %s AND key = ANY(%s)",
        (entity, list(keys)),
    )
    return {(key, sink, source): target for key, sink, source, target in cursor.fetchall()}


def count_files(cursor: Cursor, prefix: str) -> tuple[int, int] | None:
    """(files, bytes) below a prefix; None where there is no ledger yet.

    Keys are hashes, so that the first of them are as good a sample of sizes as any.
    """
    cursor.execute("SELECT to_regclass('sync.media') IS NOT NULL")
    if not cursor.fetchone()[0]:
        return None
    within = cursor.mogrify(_OBJECTS, (f"{prefix}/", f"{prefix}0")).decode()
    files = count_rows(cursor, within)
    cursor.execute(
        "SELECT coalesce(avg(size), 0) FROM"
        f" (SELECT size FROM {within} ORDER BY target_key LIMIT {COUNTED_ROWS}) sample"
    )
    return files, round(files * cursor.fetchone()[0])


def rows_naming(cursor: Cursor, entity: str, sink: str, objects: Sequence[str]) -> dict[str, set[str]]:
    """Which rows (key texts) of an entity name each of these objects of a sink."""
    found: dict[str, set[str]] = {}
    cursor.execute(_ROWS_NAMING, {"entity": entity, "sink": sink, "names": list(objects)})
    for target_key, key in cursor.fetchall():
        found.setdefault(target_key, set()).add(key)
    return found
