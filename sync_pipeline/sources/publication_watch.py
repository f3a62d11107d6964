"""What a follower compares with its last look: its publication, and the tables of its trees with their identities.

Nothing of ours runs in the monolith when a partition is attached, emptied or dropped, or when somebody changes the
publication, and PostgreSQL 18 skips one that is missing without an error. So the catalogue is asked, again and again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from sync_pipeline.db.sql import Cursor
from sync_pipeline.model.positions import State
from sync_pipeline.sources.replica_identity import Member, read_members
from sync_pipeline.sources.roots import Tracked

# of a publication by name: what identifies it and all that it says, and the ledger that its comment names
DEFINITION = """
    SELECT p.oid || ':' || md5(concat_ws(' ', p.pubinsert, p.pubupdate, p.pubdelete, p.pubtruncate, p.pubviaroot, (
               SELECT string_agg(concat_ws(',', r.oid, r.prrelid, r.prattrs), ' ' ORDER BY r.oid)
               FROM pg_publication_rel r WHERE r.prpubid = p.oid))) AS definition,
           substring(obj_description(p.oid, 'pg_publication') FROM '"ledger": "([0-9a-f]{8})"') AS ledger
    FROM pg_publication p WHERE p.pubname = %s
"""


@dataclass(frozen=True)
class PublicationSnapshot:
    """One look at the catalogue. `definition` is empty where there is no publication."""

    definition: str
    ledger: str | None
    members: tuple[Member, ...]

    @cached_property
    def by_oid(self) -> dict[int, Member]:
        """The tables by their oids."""
        return {member.oid: member for member in self.members}

    @classmethod
    def take(cls, cursor: Cursor, publication: str, tracked: Iterable[Tracked]) -> PublicationSnapshot:
        """Look now. The publication comes first, so that what changes between the two shows the next time."""
        cursor.execute(DEFINITION, (publication,))
        definition, ledger = cursor.fetchone() or ("", None)
        return cls(definition, ledger, tuple(read_members(cursor, {each.oid for each in tracked})))

    def state(self) -> State:
        """What is kept in the source's state, to be compared by whoever follows next."""
        return {"publication": self.definition, "members": self._digest()}

    def differs(self, state: State) -> str | None:
        """Say what has changed since the look that a state keeps; None where nothing has, or it keeps none."""
        if "publication" in state and state["publication"] != self.definition:
            return "the publication has been altered, or made anew"
        if "members" in state and state["members"] != self._digest():
            return "partitions, heirs or replica identities have changed, or a partition was emptied or rewritten"
        return None

    def _digest(self) -> str:
        seen = sorted(
            f"{m.root} {m.oid} {m.before} {','.join(m.columns)} {m.file if m.is_partition else ''}"
            for m in self.members
        )
        return hashlib.md5("\n".join(seen).encode(), usedforsecurity=False).hexdigest()

    def changed_members(self, before: PublicationSnapshot) -> list[str]:
        """Names of tables that are new, gone or no longer what they were."""
        old, new = (
            {(m.oid, m.before, m.columns, m.file): m.name for m in snapshot.members} for snapshot in (before, self)
        )
        return sorted({old.get(key) or new[key] for key in old.keys() ^ new.keys()})
