"""Replica identities and publications, as the monolith's catalogue has them: what is logged, and which writes fail.

A partitioned table and a table with heirs are trees. Writes go to the leaves, and each leaf has an identity of its own,
which ALTER TABLE on the root does not reach. PostgreSQL refuses UPDATE and DELETE of a leaf whose identity does not
suit every publication that publishes it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

from sync_pipeline.db.sql import Cursor

_VIRTUAL, _STORED = "v", "s"
_GENERATED_SINCE = 180000
# the key columns of a table's index, without what it INCLUDEs
_KEY = """
    ARRAY(SELECT a.attname::text
          FROM pg_index i CROSS JOIN unnest(i.indkey::int2[]) WITH ORDINALITY u (attnum, place)
          JOIN pg_attribute a ON (a.attrelid, a.attnum) = (i.indrelid, u.attnum)
          WHERE i.indrelid = c.oid AND i.indisvalid AND u.place <= i.indnkeyatts AND {which} ORDER BY u.place)
"""
_MEMBERS = f"""
    WITH RECURSIVE tree AS (
        SELECT c.oid, c.oid AS root FROM pg_class c WHERE c.oid = ANY(%s::oid[])
        UNION
        SELECT i.inhrelid, t.root FROM tree t JOIN pg_inherits i ON i.inhparent = t.oid AND NOT i.inhdetachpending
    )
    SELECT t.root::bigint, c.oid::bigint, quote_ident(n.nspname) || '.' || quote_ident(c.relname),
           c.relkind::text, c.relpersistence::text, c.relispartition, c.relreplident::text, c.relfilenode::bigint,
           (SELECT quote_ident(x.relname) FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
            WHERE i.indrelid = c.oid AND i.indisreplident),
           coalesce(g.kinds, ''), coalesce(g.first, ''),
           {_KEY.format(which="i.indisprimary AND i.indimmediate")},
           {_KEY.format(which="i.indisreplident")},
           coalesce(g.required, '{{}}')
    FROM tree t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN LATERAL (
        SELECT string_agg(DISTINCT a.attgenerated::text, '') AS kinds,
               array_agg(a.attname::text) FILTER (WHERE a.attnotnull) AS required,
               (array_agg(quote_ident(a.attname) ORDER BY a.attnum))[1] AS first
        FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
    ) g ON true
    ORDER BY t.root, c.relname, c.oid
"""
# the published relation that decides is the topmost one where a publication speaks for its root, else the leaf itself
_PUBLISHERS = """
    WITH RECURSIVE up AS (
        SELECT o AS leaf, o AS oid, 0 AS level FROM unnest(%s::oid[]) o
        UNION ALL
        SELECT u.leaf, i.inhparent, u.level + 1
        FROM up u JOIN pg_class c ON c.oid = u.oid AND c.relispartition JOIN pg_inherits i ON i.inhrelid = u.oid
    ), hit AS (
        SELECT u.leaf, p.oid AS publication, u.level, u.oid AS relation, r.oid AS entry, r.prattrs
        FROM up u JOIN pg_class c ON c.oid = u.oid CROSS JOIN pg_publication p
        LEFT JOIN pg_publication_rel r ON (r.prpubid, r.prrelid) = (p.oid, u.oid)
        LEFT JOIN pg_publication_namespace n ON (n.pnpubid, n.pnnspid) = (p.oid, c.relnamespace)
        WHERE r.oid IS NOT NULL OR n.oid IS NOT NULL OR p.puballtables
    )
    SELECT DISTINCT ON (h.leaf, h.publication) h.leaf::bigint, p.pubname::text, h.relation::bigint,
           p.pubupdate, p.pubdelete,
           CASE WHEN h.prattrs IS NOT NULL AND (p.pubviaroot OR h.level = 0) THEN ARRAY(
               SELECT a.attname::text FROM pg_attribute a
               WHERE a.attrelid = h.relation AND a.attnum = ANY(h.prattrs::int2[])) END,
           CASE WHEN p.pubviaroot OR h.level = 0 THEN ARRAY(
               SELECT DISTINCT a.attname::text FROM pg_publication_rel r
               JOIN pg_depend d ON d.classid = 'pg_publication_rel'::regclass AND d.objid = r.oid
                 AND d.refclassid = 'pg_class'::regclass AND d.refobjid = h.relation AND d.refobjsubid > 0
               JOIN pg_attribute a ON a.attrelid = h.relation AND a.attnum = d.refobjsubid
               WHERE r.oid = h.entry AND r.prqual IS NOT NULL AND r.prattrs IS NULL) ELSE '{}' END,
           coalesce(to_jsonb(p) ->> 'pubgencols', 'n')
    FROM hit h JOIN pg_publication p ON p.oid = h.publication
    ORDER BY h.leaf, h.publication, CASE WHEN p.pubviaroot THEN -h.level ELSE h.level END
"""


@dataclass(frozen=True)
class Member:
    """A table of a tree: its root, a partition or an heir.

    `identity` is the letter of the catalogue: d(efault), n(othing), f(ull), i(ndex). `file` changes when the table is
    emptied or rewritten. `primary` and `chosen` are the columns of the primary key, and of the index `index` that was
    chosen as identity.
    """

    root: int
    oid: int
    name: str
    kind: str
    persistence: str
    is_partition: bool
    identity: str
    file: int
    index: str | None
    generated: str
    first_column: str
    primary: tuple[str, ...]
    chosen: tuple[str, ...]
    required: frozenset[str]

    @property
    def is_full(self) -> bool:
        """Whether old rows are logged whole."""
        return self.identity == "f"

    @property
    def is_partitioned(self) -> bool:
        """Whether it holds no rows itself."""
        return self.kind == "p"

    @property
    def is_logged(self) -> bool:
        """Whether its changes reach the log at all."""
        return self.kind in {"r", "p"} and self.persistence == "p"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns that are logged of an old row, unless it is logged whole."""
        return {"d": self.primary, "i": self.chosen}.get(self.identity, ())

    @property
    def before(self) -> str:
        """The identity as an install's record keeps it: its letter, and the index."""
        return f"i:{self.index}" if self.identity == "i" and self.index else self.identity

    def covers(self, columns: Collection[str]) -> bool:
        """Whether an old row's entry in the log holds these columns."""
        return self.is_full or (bool(self.columns) and {*columns} <= {*self.columns})

    def identified(self, code: str, chosen: tuple[str, ...] = ()) -> Member:
        """The member as it would be with another identity."""
        return replace(self, identity=code, chosen=chosen)


@dataclass(frozen=True)
class Publisher:
    """A publication that publishes a leaf; `relation` is the table that it names for it."""

    leaf: int
    name: str
    relation: int
    updates: bool
    deletes: bool
    listed: tuple[str, ...] | None  # its column list
    filtered: tuple[str, ...]  # columns of its row filter
    generated: str  # n(one), s(tored)

    def refuses(self, member: Member, version: int) -> str | None:
        """Say why PostgreSQL refuses UPDATE or DELETE of a member under this publication; None where it does not."""
        if not (self.updates or self.deletes) or member.is_partitioned:
            return None
        if not member.is_full and not member.columns:
            return f"publication {self.name} publishes updates or deletes, and the table has no replica identity"
        if self.listed is not None and (member.is_full or not {*member.columns} <= {*self.listed}):
            return f"the column list of publication {self.name} does not cover the replica identity"
        if not member.is_full and not {*self.filtered} <= {*member.columns}:
            return f"the row filter of publication {self.name} uses columns outside the replica identity"
        return self._refuses_generated(member) if version >= _GENERATED_SINCE and member.is_full else None

    def _refuses_generated(self, member: Member) -> str | None:
        """Old rows that are logged whole hold generated columns, and the publication must send what they hold."""
        if _VIRTUAL in member.generated:
            return f"publication {self.name} cannot publish its virtual generated columns under REPLICA IDENTITY FULL"
        if _STORED in member.generated and self.generated != _STORED:
            return (
                f"publication {self.name} does not publish its generated columns (publish_generated_columns = stored)"
            )
        return None


def read_members(cursor: Cursor, roots: Iterable[int]) -> list[Member]:
    """All tables of the trees under these, roots included."""
    cursor.execute(_MEMBERS, ([*roots],))
    rows: list[list[Any]] = [
        [*row, tuple(primary), tuple(chosen), frozenset(required)]
        for *row, primary, chosen, required in cursor.fetchall()
    ]
    return [Member(*row) for row in rows]


def read_publishers(cursor: Cursor, members: Iterable[Member]) -> dict[int, list[Publisher]]:
    """Every publication of the database that publishes a member, ours and others', by the member's oid."""
    cursor.execute(_PUBLISHERS, ([member.oid for member in members],))
    rows: list[list[Any]] = [
        [*row, None if listed is None else tuple(listed), tuple(filtered), generated]
        for *row, listed, filtered, generated in cursor.fetchall()
    ]
    found = [Publisher(*row) for row in rows]
    return {leaf: list(of) for leaf, of in groupby(found, lambda publisher: publisher.leaf)}


def refused_writes(
    members: Iterable[Member], publishers: dict[int, list[Publisher]], version: int
) -> Iterator[tuple[Member, Publisher, str]]:
    """Every (member, publication, reason) for which UPDATE or DELETE fails now."""
    for member in members:
        for publisher in publishers.get(member.oid, ()):
            if reason := publisher.refuses(member, version):
                yield member, publisher, reason


def by_root(members: Iterable[Member]) -> dict[int, list[Member]]:
    """The members of each tree."""
    trees: dict[int, list[Member]] = defaultdict(list)
    for member in members:
        trees[member.root].append(member)
    return trees
