"""Ownership: marks on what we own outside the ledger, so that two deployments never write to one index or prefix.

An index bears the ledger's id in its mapping's `_meta`, a prefix of the new bucket in an object of its own. Both are
read when an entity is opened, not with each batch. Who finds another ledger's id stops with both names. A mark that
we lack the rights to put is missed by `sync-pipeline check`, and stops nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from sync_pipeline.errors import OwnershipError
from sync_pipeline.ledger.identity import read_ledger_id
from sync_pipeline.stores.stores import Stores

ABOUT = "ownership"  # as `check` names it
UNREADABLE = "unreadable"
UNMARKED = "{} bears no mark, so that another deployment could write to it unnoticed"


@dataclass(frozen=True)
class Mark:
    """What bears a mark (`index text-000001`), and the id of the ledger in it; None where there is no mark.

    `remedy` says what an entity whose sink meets another ledger's mark may be given instead.
    """

    what: str
    ledger: str | None
    remedy: str = ""


def ledger_of(stores: Stores) -> str | None:
    """The id of our ledger as it is now: it may have been dropped and made anew. Raises UnreachableError."""
    with stores.target_at_once() as cursor:
        return read_ledger_id(cursor)


def check_marks(stores: Stores, entity: str, marks: Iterable[Mark]) -> None:
    """Raises OwnershipError where one of the marks is another ledger's."""
    ours = ledger_of(stores)
    for mark in marks:
        if mark.ledger not in (None, ours):
            raise OwnershipError(f"entity {entity}: {': '.join(refusal(entity, mark, ours))}")


def refusal(entity: str, mark: Mark, ours: str | None) -> tuple[str, str]:
    """What is wrong with another ledger's mark, and what to do."""
    what = f"{mark.what} belongs to the deployment with ledger {mark.ledger}, ours is {ours or 'not made yet'}"
    remedy = (
        f"give the entity's {mark.remedy}; or, if that deployment is gone for good and this one takes its place,"
        f" sync-pipeline ledger take-over {entity}"
    )
    return what, remedy


def ledger_in(meta: object) -> str | None:
    """The ledger's id in a mark's content; None where there is no mark."""
    if meta is None:
        return None
    return str(meta.get("ledger", UNREADABLE)) if isinstance(meta, Mapping) else UNREADABLE
