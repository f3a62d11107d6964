"""Transactions that last: open for seconds, with savepoints, prepared, or in another database."""

from collections.abc import Iterator
from contextlib import closing
from random import Random
from typing import Any

import psycopg2

from tests.chaos.faults.fault import DEMO, fault
from tests.chaos.ledger import note
from tests.chaos.scene import Scene

EDIT = "UPDATE content SET title = %s, updated_at = now(), version = version + 1 WHERE id = ANY(%s)"
NEW = """
    INSERT INTO content (kind, title, status, created_at, updated_at)
    SELECT (ARRAY['text', 'video', 'audio'])[1 + n %% 3], %s || n, 'published', now(), now()
    FROM generate_series(1, %s) n RETURNING id"""
_SUBTRANSACTIONS = 70  # more than a backend's cache of them holds


def edit(cursor: Any, kind: str, contents: list[int]) -> None:
    """Other titles, stamped with the transaction's start."""
    cursor.execute(EDIT, (f"{kind} {len(contents)}", contents))
    note(cursor, kind, contents)


def create(cursor: Any, kind: str, count: int) -> list[int]:
    """New contents of all three kinds."""
    cursor.execute(NEW, (f"{kind} ", count))
    made = [key for (key,) in cursor.fetchall()]
    note(cursor, kind, made)
    return made


@fault(weight=3, grounds=DEMO)
def long_transaction(scene: Scene, dice: Random) -> Iterator[None]:
    """Written at once, committed late."""
    with scene.writer() as connection:
        cursor = connection.cursor()
        edit(cursor, "long", scene.contents(dice, 3))
        create(cursor, "long", 5)
        yield
        connection.commit()


@fault(weight=2, grounds=DEMO)
def written_late(scene: Scene, dice: Random) -> Iterator[None]:
    """Begun long before it writes anything; its stamps are as old as its beginning."""
    with scene.writer() as connection:
        cursor = connection.cursor()
        cursor.execute("SELECT now()")
        yield
        edit(cursor, "late", scene.contents(dice, 3))
        connection.commit()


@fault(weight=2, grounds=DEMO)
def savepoints(scene: Scene, dice: Random) -> Iterator[None]:
    """Many, one in the other; some are taken back, and the transaction stays open."""
    chosen = scene.contents(dice, 2)
    with scene.writer() as connection:
        cursor = connection.cursor()
        for n in range(_SUBTRANSACTIONS):
            cursor.execute(f"SAVEPOINT s{n}")
            create(cursor, "savepoint", 1)
            if n % 3 == 2:
                cursor.execute(f"ROLLBACK TO SAVEPOINT s{n}")
        edit(cursor, "savepoint", chosen)
        yield
        connection.commit()


@fault(weight=2, grounds=DEMO)
def prepared_transaction(scene: Scene, dice: Random) -> Iterator[None]:
    """Prepared, and committed or given up by somebody else."""
    name = f"{scene.plan.name}_{dice.getrandbits(32)}"
    with scene.writer() as connection:
        cursor = connection.cursor()
        edit(cursor, "prepared", scene.contents(dice, 2))
        create(cursor, "prepared", 5)
        cursor.execute("PREPARE TRANSACTION %s", (name,))
        connection.commit()
    try:
        yield
    finally:
        scene.heal(lambda: scene.world.legacy(f"{dice.choice(('COMMIT', 'COMMIT', 'ROLLBACK'))} PREPARED %s", (name,)))


@fault(weight=1)
def transaction_elsewhere(scene: Scene, _: Random) -> Iterator[None]:
    """An open writer in another database holds back what is known as committed in all of them."""
    with closing(psycopg2.connect(scene.world.fleet.legacy.url("postgres"))) as connection:
        connection.cursor().execute("SELECT pg_current_xact_id()")
        yield
        connection.rollback()
