"""The cursor of one entity: where its live delta stands, and the lease of who follows it."""

from __future__ import annotations

import datetime as dt
from dataclasses import dataclass

from psycopg2.extras import Json

from sync_pipeline.db.sql import Cursor
from sync_pipeline.errors import LeaseLostError
from sync_pipeline.model.faults import guarded
from sync_pipeline.sources.source import SourcePosition, State
from sync_pipeline.stores.sessions import Purpose
from sync_pipeline.stores.stores import Stores

# a follower renews its leases every few seconds
LEASE_SECONDS = 15


@dataclass(frozen=True)
class Lease:
    """The right to move an entity's cursor; the epoch tells a former holder apart from the present one."""

    entity: str
    owner: str
    epoch: int
    after_loss: bool = False  # whoever held it before did not give it back

    @classmethod
    def take(cls, stores: Stores, entity: str, owner: str) -> Lease | None:
        """The lease, when nobody holds it, its holder has gone quiet, or `owner` could not give it back; else None.

        A lease that ends later than any can was taken before the server's clock was set back, and is free: a holder
        that lives renews it within seconds, and the epoch refuses one whose lease was taken.
        """
        # now() is when the statement began, which may have waited for the holder's
        beyond = "lease_until > now() + 4 * %(seconds)s * interval '1 s'" if guarded(104) else "false"
        with stores.target_at_once(Purpose.LOOK) as cursor:
            cursor.execute(
                "WITH before AS (SELECT owner FROM sync.cursor WHERE entity = %(entity)s)"
                " UPDATE sync.cursor SET owner = %(owner)s, epoch = epoch + 1,"
                " lease_until = now() + %(seconds)s * interval '1 s'"
                " WHERE entity = %(entity)s AND (owner IS NULL OR owner = %(owner)s OR lease_until < now()"
                f" OR {beyond})"
                " RETURNING epoch, (SELECT owner <> %(owner)s FROM before)",
                {"owner": owner, "seconds": LEASE_SECONDS, "entity": entity},
            )
            found = cursor.fetchone()
        return cls(entity, owner, int(found[0]), bool(found[1])) if found else None

    def renew(self, stores: Stores) -> None:
        """Hold it for longer. Raises LeaseLostError."""
        with stores.target_at_once(Purpose.LOOK) as cursor:
            cursor.execute(
                "UPDATE sync.cursor SET lease_until = now() + %s * interval '1 s' WHERE entity = %s AND epoch = %s",
                (LEASE_SECONDS, self.entity, self.epoch),
            )
            if cursor.rowcount != 1:
                raise LeaseLostError(f"entity {self.entity}: another worker follows it now")

    def give_back(self, stores: Stores) -> None:
        """Let a successor take it at once."""
        with stores.target_at_once(Purpose.LOOK) as cursor:
            cursor.execute(
                "UPDATE sync.cursor SET owner = NULL, lease_until = NULL WHERE entity = %s AND epoch = %s",
                (self.entity, self.epoch),
            )

    def move(self, cursor: Cursor, position: SourcePosition) -> None:
        """Move the cursor in the caller's transaction, which ends with LeaseLostError where another one follows."""
        through = "coalesce(%s, applied_through)" if guarded(108) else "greatest(applied_through, %s)"
        cursor.defer(
            # as the source says, even where that is earlier: the monolith's clock may have run ahead before
            f"WITH moved AS (UPDATE sync.cursor SET state = %s, applied_through = {through},"
            " window_since = %s, window_holder = %s, blind = %s, gap_at = coalesce(%s, gap_at),"
            " sweep_wanted = greatest(sweep_wanted, %s),"
            " lease_until = now() + %s * interval '1 s', updated_at = now()"
            " WHERE entity = %s AND epoch = %s RETURNING true)"
            " SELECT sync.must_hold(EXISTS (SELECT FROM moved), %s)",
            (
                Json(position.state),
                position.through,
                position.since,
                position.holder,
                position.blind,
                position.gap_at,
                position.gap_at,
                LEASE_SECONDS,
                self.entity,
                self.epoch,
                self.entity,
            ),
        )


def open_at(stores: Stores, entity: str, source: str, position: SourcePosition) -> None:
    """Set where a source begins, unless somebody has meanwhile: theirs, too, is older than whatever we read next."""
    with stores.target() as cursor:
        cursor.execute(
            "UPDATE sync.cursor SET source = %s, state = %s WHERE entity = %s AND state IS NULL",
            (source, Json(position.state), entity),
        )


def reopen_at(stores: Stores, entity: str, source: str, position: SourcePosition, gap_at: dt.datetime) -> None:
    """Go on from a source's beginning; what was committed before `gap_at` may be missing until a sweep has looked."""
    with stores.target() as cursor:
        cursor.execute(
            "UPDATE sync.cursor SET source = %s, state = %s, gap_at = %s,"
            " sweep_wanted = greatest(sweep_wanted, %s) WHERE entity = %s",
            (source, Json(position.state), gap_at, gap_at, entity),
        )


def state_of(stores: Stores, entity: str) -> tuple[str, State] | None:
    """(source, its state) as the last applied poll left it, if there was one."""
    with stores.target() as cursor:
        cursor.execute("SELECT source, state FROM sync.cursor WHERE entity = %s", (entity,))
        found = cursor.fetchone()
    return (found[0], found[1]) if found and found[1] is not None else None
