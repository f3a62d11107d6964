"""What the WAL source needs in the monolith: steps that make it, steps that leave no trace, and what is wrong with it.

A publication of ours never has a column list or a row filter, because PostgreSQL refuses UPDATE and DELETE of a table
whose replica identity a list does not cover, and anybody may change the identity later.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from sync_pipeline.db.sql import Cursor, bind, quote
from sync_pipeline.errors import DeclarationError, SettingError
from sync_pipeline.model.faults import guarded
from sync_pipeline.sources import synchronous
from sync_pipeline.sources.ddl import Step
from sync_pipeline.sources.install_record import MARK, Record, read_names
from sync_pipeline.sources.replica_identity import (
    Member,
    Publisher,
    by_root,
    read_members,
    read_publishers,
    refused_writes,
)
from sync_pipeline.sources.roots import track_all
from sync_pipeline.sources.slots import slot_name, slot_named
from sync_pipeline.sources.source import Subject

# publications can send generated columns since this version
_GENERATED_SINCE = 180000
# proving a root's writes plans a statement over all of its partitions; the catalogue has been asked of each before
_PROVED_LEAVES = 500
_LETTERS = {"d": "DEFAULT", "n": "NOTHING", "f": "FULL"}
_PUBLISHES = "publish = 'insert, update, delete, truncate', publish_via_partition_root = true"
_ROLE = """
    SELECT quote_ident(current_user), rolreplication OR rolsuper FROM pg_roles WHERE rolname = current_user
"""
_PUBLICATIONS = """
    SELECT p.pubname::text, obj_description(p.oid, 'pg_publication'),
           p.pubinsert AND p.pubupdate AND p.pubdelete AND p.pubtruncate AND p.pubviaroot AND NOT p.puballtables,
           coalesce(to_jsonb(p) ->> 'pubgencols', 'n') = 's',
           ARRAY(SELECT r.prrelid::bigint FROM pg_publication_rel r WHERE r.prpubid = p.oid ORDER BY r.oid),
           ARRAY(SELECT r.prrelid::bigint FROM pg_publication_rel r
                 WHERE r.prpubid = p.oid AND (r.prattrs IS NOT NULL OR r.prqual IS NOT NULL))
    FROM pg_publication p
    WHERE obj_description(p.oid, 'pg_publication') LIKE %(mark)s OR left(p.pubname, length(%(prefix)s)) = %(prefix)s
    ORDER BY 1
"""
_INDEX = """
    SELECT ARRAY(SELECT a.attname::text FROM pg_attribute a
                 WHERE a.attrelid = i.indrelid AND a.attnum = ANY((i.indkey::int2[])[0:i.indnkeyatts - 1]))
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
    WHERE i.indrelid = %s AND quote_ident(x.relname) = %s AND i.indisvalid AND i.indisunique AND i.indpred IS NULL
"""


@dataclass(frozen=True)
class Publication:
    """A publication of ours, or one whose name begins as ours do. `record` is None where no comment of ours says so."""

    name: str
    comment: str | None
    is_whole: bool  # it publishes every kind of change, by the roots of partitioned tables
    has_generated: bool
    tables: tuple[int, ...]
    restricted: frozenset[int]  # those with a column list or a row filter
    record: Record | None

    @property
    def is_foreign(self) -> bool:
        """Whether a comment says that something else made it."""
        return bool(self.comment) and self.record is None


def read_publications(cursor: Cursor, prefix: str) -> dict[str, Publication]:
    """Publications that bear our comment, or our prefix, by name."""
    cursor.execute(_PUBLICATIONS, {"mark": f"{MARK}%", "prefix": f"{prefix}_"})
    rows = cursor.fetchall()
    return {
        name: Publication(name, comment, whole, generated, tuple(tables), frozenset(some), Record.read(cursor, comment))
        for name, comment, whole, generated, tables, some in rows
    }


@dataclass(frozen=True)
class Catalogue:
    """What the monolith has of an entity's tables and of the publications that publish them."""

    subject: Subject
    names: dict[int, str]  # the entity's tables, in its order, as its file writes them
    needed: dict[int, frozenset[str]]  # the columns that an old row of each tree must tell
    trees: dict[int, list[Member]]
    publishers: dict[int, list[Publisher]]
    publications: dict[str, Publication]
    version: int

    @classmethod
    def read(cls, cursor: Cursor, subject: Subject) -> Catalogue:
        """Look everything up. Raises DeclarationError, UnreachableError."""
        tracked = track_all(cursor, subject)
        needed: dict[int, frozenset[str]] = {}
        for each in tracked:
            needed[each.oid] = needed.get(each.oid, frozenset()) | {*each.columns}
        members = read_members(cursor, needed)
        return cls(
            subject,
            {each.oid: each.table.name for each in reversed(tracked)},
            needed,
            by_root(members),
            read_publishers(cursor, members),
            read_publications(cursor, subject.stores.settings.slot_prefix),
            cursor.connection.server_version,
        )

    @property
    def name(self) -> str:
        """The publication's name."""
        return slot_name(self.subject)

    @property
    def own(self) -> Publication | None:
        """The entity's publication, if it is there."""
        return self.publications.get(self.name)

    @property
    def others(self) -> dict[str, Publication]:
        """Our other publications."""
        return {name: p for name, p in self.publications.items() if name != self.name and p.record is not None}

    @property
    def members(self) -> Iterator[Member]:
        """All tables of all trees, once each."""
        return iter({member.oid: member for tree in self.trees.values() for member in tree}.values())

    def columns(self, member: Member) -> frozenset[str]:
        """The columns that an old row of a member must tell, whichever of the entity's tables it belongs to."""
        return frozenset().union(*(self.needed[r] for r, tree in self.trees.items() if member.oid in _oids(tree)))

    def is_decisive(self, member: Member) -> bool:
        """Whether a member's identity counts: a leaf's for its rows, a root's since the log announces it."""
        return not member.is_partitioned or member.oid in self.needed

    def unlogged(self) -> list[Member]:
        """Members whose identity does not tell a deleted row's root."""
        return [m for m in self.members if self.is_decisive(m) and m.is_logged and not m.covers(self.columns(m))]

    def published(self, root: int) -> list[Member]:
        """The tables that a publication must name for one of the entity's: the root of partitions, else each heir."""
        return [m for m in self.trees[root] if m.oid == root or (not m.is_partition and guarded(54))]

    def foreign(self, member: Member) -> list[Publisher]:
        """Publications of a member that are not ours."""
        ours = {name for name, p in self.publications.items() if not p.is_foreign}
        return [p for p in self.publishers.get(member.oid, ()) if p.name not in ours]


def _oids(members: Iterable[Member]) -> set[int]:
    return {member.oid for member in members}


def install(subject: Subject, *, take_over: bool = False) -> list[Step]:
    """Plan what is missing, for the owner of the tables; nothing where all is there.

    A deleted row must tell its root, so some tables must log whole rows. The publication's comment keeps what is
    changed for it, and is written before the change. With `take_over`, a publication of another ledger becomes ours.

    Raises:
        DeclarationError: a write in the monolith would fail or wait for us, or changes would be lost.
        SettingError: the publication belongs to another ledger.
        UnreachableError: a server does not answer.
    """
    ledger = subject.stores.ledger_id()
    with subject.stores.legacy() as cursor:
        catalogue = Catalogue.read(cursor, subject)
        if not take_over:
            _refuse_other_ledger(catalogue.own, ledger)
        waits = synchronous.waits_for_readers(cursor)
        if refusals := [*([f"{waits}: {synchronous.REMEDY}"] if waits else []), *_refusals(catalogue)]:
            raise DeclarationError("\n".join(f"entity {subject.entity}: {refusal}" for refusal in refusals))
        return [
            *_repairs(catalogue),
            *_published(cursor, catalogue, ledger),
            *(step for root in catalogue.trees for step in _tree(catalogue, root)),
            *_narrowed(cursor, catalogue, ledger),
        ]


def uninstall(subject: Subject, *, take_over: bool = False) -> list[Step]:
    """Plan what takes publication and slot away and puts back what was there before them.

    What another of our publications still needs is left to it, and its comment keeps how it was. The publication goes
    last, because its comment is needed by a run that goes on. Raises SettingError, UnreachableError.
    """
    with subject.stores.legacy() as cursor:
        own = read_publications(cursor, subject.stores.settings.slot_prefix).get(slot_name(subject))
        if not take_over:
            _refuse_other_ledger(own, subject.stores.ledger_id())
        return removal(cursor, subject.stores.settings.slot_prefix, subject.entity)


def removal(cursor: Cursor, prefix: str, entity: str) -> list[Step]:
    """Plan what `uninstall` does for an entity by its name, so that it is found when the entity's file is gone."""
    name = slot_named(prefix, entity)
    ours = read_publications(cursor, prefix)
    own = ours.pop(name, None)
    if own and own.is_foreign:
        raise SettingError(f"publication {name} has a comment that is not ours: set another SYNC_SLOT_PREFIX")
    others = {other: p for other, p in ours.items() if p.record is not None}
    record = (own and own.record) or Record()
    handed, freed = _handed_over(others, record)
    steps = [*_handover(cursor, handed)]
    if own:
        steps += _released(cursor, name, own.tables, freed)
    roles = [f"ALTER ROLE {role} NOREPLICATION" for role in record.roles if not others]
    slot = (
        f"SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name = {bind(cursor, name)}"
    )
    return [*steps, Step("", (*roles, slot, f"DROP PUBLICATION IF EXISTS {quote(name)}"))]


def faults(cursor: Cursor, subject: Subject) -> Iterator[tuple[str, str]]:
    """(what, remedy) of all for which the entity's changes would be lost, or writes of its tables fail or wait."""
    catalogue = Catalogue.read(cursor, subject)
    remedy = f"sync-pipeline wal install {subject.entity}"
    if why := synchronous.waits_for_readers(cursor):
        yield why, synchronous.REMEDY
    refusals = [*_refusals(catalogue)]
    for refusal in refusals:
        yield refusal, "see docs/howto/source.md#what-install-refuses, or take capture=Outbox()"
    yield from ((what, remedy) for what in _publication_faults(catalogue))
    for member in catalogue.unlogged():
        yield f"a deleted or moved row of {member.name} does not tell its root: it would be lost", remedy
    for member, _, reason in refused_writes(catalogue.members, catalogue.publishers, catalogue.version):
        yield f"UPDATE and DELETE of {member.name} fail: {reason}", remedy


def tables_without_identity(cursor: Cursor, subject: Subject) -> list[str]:
    """Tables whose deleted rows do not tell their root."""
    return [member.name for member in Catalogue.read(cursor, subject).unlogged()]


def _publication_faults(catalogue: Catalogue) -> Iterator[str]:
    own = catalogue.own
    if own is None:
        tables = ", ".join(catalogue.names.values())
        yield f"there is no publication {catalogue.name}: the changes of {tables} would be lost"
        return
    if own.record is None and not own.is_foreign:
        yield f"publication {own.name} bears no comment of ours: an install was cut off, or it is somebody else's"
    if not own.is_whole:
        yield f"publication {own.name} leaves changes out: it must have {_PUBLISHES}"
    expected = {m.oid: m for root in catalogue.trees for m in catalogue.published(root)}
    for oid, member in expected.items():
        if oid not in own.tables:
            yield f"{member.name} is not in publication {own.name}: its changes would be lost"
        elif oid in own.restricted:
            yield (
                f"publication {own.name} has a column list or a row filter on {member.name}: its changes would be"
                " lost in part, and UPDATE and DELETE fail as soon as it has REPLICA IDENTITY FULL"
            )
    surplus = [oid for oid in own.tables if oid not in expected]
    if surplus:
        yield f"publication {own.name} holds {len(surplus)} tables that the entity does not name"


def _refuse_other_ledger(own: Publication | None, ledger: str | None) -> None:
    if own and own.record and own.record.ledger not in {None, ledger}:
        raise SettingError(other_ledger(own.name, own.record.ledger, ledger))


def other_ledger(name: str, theirs: str | None, ledger: str | None) -> str:
    """What to say of a slot that another ledger owns."""
    return (
        f"slot and publication {name} belong to ledger {theirs}, and this is ledger {ledger or '(none yet)'}: set"
        " another SYNC_SLOT_PREFIX; or, where that ledger is no longer used, `sync-pipeline wal install --take-over`"
    )


def _refusals(catalogue: Catalogue) -> Iterator[str]:
    """Say what would make a write in the monolith fail, or what no publication can tell of."""
    if catalogue.own and catalogue.own.is_foreign:
        yield f"publication {catalogue.name} has a comment that is not ours: set another SYNC_SLOT_PREFIX"
    for root, tree in catalogue.trees.items():
        inside = [r for r, other in catalogue.trees.items() if r != root and root in _oids(other)]
        if inside and next(m for m in tree if m.oid == root).is_partition:
            yield f"{catalogue.names[root]} is a partition of {catalogue.names[inside[0]]}: name one of the two"
    for member in catalogue.members:
        if not member.is_logged:
            yield f"{member.name} is no ordinary table ({member.kind}, {member.persistence}): nothing logs its rows"
        elif not member.is_partitioned:
            yield from _refused_full(catalogue, member)


def _refused_full(catalogue: Catalogue, member: Member) -> Iterator[str]:
    """What would make writes fail where a member must log whole rows."""
    if member.covers(catalogue.columns(member)) and not member.is_full:
        return
    full = member.identified("f")
    for publisher in catalogue.foreign(member):
        if reason := publisher.refuses(full, catalogue.version):
            yield (
                f"{member.name} must log whole rows, and UPDATE and DELETE would fail then: {reason}. Change that"
                f" publication (ALTER PUBLICATION {quote(publisher.name)} SET TABLE …), or take capture=Outbox()"
            )
    own = Publisher(member.oid, catalogue.name, member.root, True, True, None, (), "s")
    if reason := own.refuses(full, catalogue.version):
        yield (
            f"{member.name} must log whole rows, and UPDATE and DELETE would fail then: {reason}. Give it a unique"
            f" index over {', '.join(sorted(catalogue.columns(member)))} and REPLICA IDENTITY USING INDEX, or take"
            " capture=Outbox()"
        )


def _repairs(catalogue: Catalogue) -> Iterator[Step]:
    """Take column lists and row filters out of our other publications of the same tables, before identities change."""
    relations = {p.relation for m in catalogue.members for p in catalogue.publishers.get(m.oid, ())}
    generated = any("s" in member.generated for member in catalogue.members)
    for other in catalogue.others.values():
        shared = relations & {*other.tables}
        if shared and generated and not other.has_generated and catalogue.version >= _GENERATED_SINCE:
            yield Step("", (f"ALTER PUBLICATION {quote(other.name)} SET (publish_generated_columns = stored)",))
        for member in catalogue.members:
            if member.oid in shared & other.restricted:
                yield Step(member.name, _added(other.name, member, again=True))


def _published(cursor: Cursor, catalogue: Catalogue, ledger: str | None) -> Iterator[Step]:
    """Make the publication, still empty, with the comment that keeps what will be changed."""
    own, name = catalogue.own, quote(catalogue.name)
    cursor.execute(_ROLE)
    role, may = cursor.fetchone()
    generated = catalogue.version >= _GENERATED_SINCE and any("s" in m.generated for m in catalogue.members)
    options = _PUBLISHES + (", publish_generated_columns = stored" if generated else "")
    statements = [] if may else [f"ALTER ROLE {role} REPLICATION"]
    if own is None:
        statements.append(f"CREATE PUBLICATION {name} WITH ({options})")
    elif not own.is_whole or (generated and not own.has_generated):
        statements.append(f"ALTER PUBLICATION {name} SET ({options})")
    record = _recorded(catalogue, ledger, () if may else (role,))
    if own is None or own.record is None or record.written(cursor) != own.comment:
        statements.append(f"COMMENT ON PUBLICATION {name} IS {bind(cursor, record.written(cursor))}")
    if statements:
        yield Step("", tuple(statements))


def _recorded(catalogue: Catalogue, ledger: str | None, roles: tuple[str, ...]) -> Record:
    """The record once the install is done; what an earlier one has noted stays."""
    kept = (catalogue.own and catalogue.own.record) or Record()
    changed = {m.oid: m.before for m in catalogue.unlogged()}
    needed = [m for m in catalogue.members if catalogue.is_decisive(m) and _needs_full(m, catalogue.columns(m))]
    return Record(
        ledger,
        (*kept.roles, *(role for role in roles if role not in kept.roles)),
        frozenset(_oids(needed)),
        {**changed, **kept.before},
    )


def _needs_full(member: Member, columns: frozenset[str]) -> bool:
    """Whether a member must log whole rows, whether it does so by now or not."""
    usual = member.identified("d") if member.is_full else member
    return not usual.covers(columns)


def _tree(catalogue: Catalogue, root: int) -> Iterator[Step]:
    """Identities first and leaf by leaf, then the root's place in the publication: so no write fails in between."""
    own = catalogue.own
    tables, restricted = (own.tables, own.restricted) if own else ((), frozenset[int]())
    published = _oids(catalogue.published(root))
    unlogged = _oids(catalogue.unlogged())
    tree = sorted(catalogue.trees[root], key=lambda m: m.oid == root)
    for member in tree:
        statements = [f"ALTER TABLE {member.name} REPLICA IDENTITY FULL"] if member.oid in unlogged else []
        if member.oid in published and (member.oid not in tables or member.oid in restricted):
            statements += _added(catalogue.name, member, again=member.oid in restricted, leaves=len(tree))
        elif statements:
            statements += _proofs(member, len(tree))
        if statements:
            yield Step(member.name, tuple(statements))


def _added(publication: str, member: Member, *, again: bool, leaves: int = 1) -> tuple[str, ...]:
    """Put a table into a publication, whole; one that is there in part is taken out in the same transaction."""
    table = member.name if member.is_partitioned else f"ONLY {member.name}"
    publication = quote(publication)
    return (
        *([f"ALTER PUBLICATION {publication} DROP TABLE {table}"] if again else []),
        f"ALTER PUBLICATION {publication} ADD TABLE {table}",
        *_proofs(member, leaves),
    )


def _proofs(member: Member, leaves: int = 1) -> tuple[str, ...]:
    """Have PostgreSQL itself say that writes do not fail: planning one is refused as the write is, and changes nothing.

    In the transaction of the change a refusal rolls the change back.
    """
    if member.is_partitioned and leaves > _PROVED_LEAVES:
        return ()
    table = member.name if member.is_partitioned else f"ONLY {member.name}"
    return (
        f"EXPLAIN UPDATE {table} SET {member.first_column} = DEFAULT",
        f"EXPLAIN DELETE FROM {table}",
    )


def _narrowed(cursor: Cursor, catalogue: Catalogue, ledger: str | None) -> list[Step]:
    """Take out of the publication what the entity no longer names, and put its identities back."""
    own = catalogue.own
    if own is None or own.record is None:
        return []
    expected = {m.oid for root in catalogue.trees for m in catalogue.published(root)}
    surplus = [oid for oid in own.tables if oid not in expected]
    mine = _oids(catalogue.members)
    record = replace(
        own.record, roles=(), before={oid: was for oid, was in own.record.before.items() if oid not in mine}
    )
    handed, freed = _handed_over(catalogue.others, record)
    if not surplus:
        return []
    steps = [*_handover(cursor, handed), *_released(cursor, own.name, surplus, freed)]
    recorded = _recorded(catalogue, ledger, own.record.roles)
    left = {oid: was for oid, was in recorded.before.items() if oid in mine}
    return [*steps, *_handover(cursor, {own.name: replace(recorded, before=left)})]


def _handed_over(others: dict[str, Publication], record: Record) -> tuple[dict[str, Record], dict[int, str]]:
    """What goes over to our other publications, as their new records, and the identities that nobody needs any more."""
    handed: dict[str, Record] = {}
    freed: dict[int, str] = {}
    for oid, was in record.before.items():
        heir = next((name for name, other in others.items() if _leans_on(other, oid)), None)
        if heir is None:
            freed[oid] = was
        else:
            kept = handed.get(heir) or others[heir].record or Record()
            handed[heir] = replace(kept, full=kept.full | {oid}, before={oid: was, **kept.before})
    if record.roles and others:
        heir = next(iter(others))
        kept = handed.get(heir) or others[heir].record or Record()
        handed[heir] = replace(kept, roles=(*kept.roles, *record.roles))
    return handed, freed


def _leans_on(other: Publication, oid: int) -> bool:
    """Whether a publication of ours needs a table's whole rows; comments from before ledger ids do not say so."""
    assert other.record is not None
    return oid in other.record.full or (other.record.ledger is None and oid in other.tables)


def _handover(cursor: Cursor, handed: dict[str, Record]) -> Iterator[Step]:
    for name, record in handed.items():
        yield Step("", (f"COMMENT ON PUBLICATION {quote(name)} IS {bind(cursor, record.written(cursor))}",))


def _released(cursor: Cursor, publication: str, tables: Iterable[int], freed: dict[int, str]) -> Iterator[Step]:
    """Take tables out of a publication, and then put identities back: the other way round writes would fail."""
    members = {m.oid: m for m in read_members(cursor, {*tables, *freed})}
    publishers = read_publishers(cursor, members.values())
    names = read_names(cursor, tables)
    for oid, name in names.items():
        table = name if members[oid].is_partitioned else f"ONLY {name}"
        yield Step(name, (f"ALTER PUBLICATION {quote(publication)} DROP TABLE {table}",))
    for oid, was in freed.items():
        member = members.get(oid)
        if member and member.is_full:
            remaining = [p for p in publishers.get(oid, ()) if p.name != publication]
            yield from _restore_identity(cursor, member, was, remaining)


def _restore_identity(cursor: Cursor, member: Member, was: str, publishers: list[Publisher]) -> Iterator[Step]:
    """Give a table the identity it had, unless a publication of somebody else's has come to need the present one."""
    code, _, index = was.partition(":")
    former = member.identified(code)
    if index:
        cursor.execute(_INDEX, (member.oid, index))
        found = cursor.fetchone()
        former = member.identified("i", tuple(found[0])) if found else member.identified("d")
    version = cursor.connection.server_version
    if reason := next((r for p in publishers if (r := p.refuses(former, version))), None):
        note = f"-- {member.name} keeps REPLICA IDENTITY FULL, or UPDATE and DELETE would fail: {reason}"
        yield Step("", (f"{note}\nSELECT",))
        return
    identity = f"USING INDEX {index}" if former.identity == "i" else _LETTERS[former.identity]
    proofs = () if member.is_partitioned else _proofs(member)
    yield Step(member.name, (f"ALTER TABLE {member.name} REPLICA IDENTITY {identity}", *proofs))
