"""The lending desk: its rows count their changes, and its own code tells of each, late, twice, or beforehand."""

import json
from contextlib import closing
from typing import Any

import psycopg2

from tests.awkward.desk import Desk
from tests.awkward.load import BRANCHES
from tests.awkward.texts import WORDS

Key = tuple[str, int]
_TURN = 'turn = nextval(\'"Old Vault"."Turn"\')'
_TOLD = 'INSERT INTO "Old Vault"."Told" (aggregate_type, aggregate_id, event_type, version) VALUES (%s, %s, %s, %s)'
_NUMBERS = 40


def tell(desk: Desk, key: Key, what: str, version: int | None = None) -> None:
    """Of a loan: with the change; a version at times through another connection, before it is committed, if ever."""
    event = ("aw_loan", json.dumps(key), what, version)
    if version is not None and desk.rng.random() < 0.3:
        with closing(psycopg2.connect(desk.url)) as other:
            other.autocommit = True
            other.cursor().execute(_TOLD, event)
    else:
        desk.run(_TOLD, *event)


def _loan(desk: Desk) -> tuple[Key, int]:
    """Some loan, locked, with its version; where there is none, one that is not there."""
    desk.run(
        "SELECT branch, number, version FROM loan ORDER BY md5(branch || number || %s) LIMIT 1 FOR UPDATE",
        str(desk.rng.getrandbits(32)),
    )
    branch, number, version = desk.cursor.fetchone() or ("nowhere", 0, 0)
    return (branch, number), version


def _change(desk: Desk, setting: str, *values: object) -> None:
    """Of some loan; it counts."""
    key, version = _loan(desk)
    where = "WHERE (branch, number) = (%s, %s)"
    tell(desk, key, "changed", version + 1)
    desk.run(f"UPDATE loan SET {setting}, version = version + 1 {where}", *values, *key)


def lend(desk: Desk) -> None:
    """A new loan, which may bear the key of an old one, and counts from one again."""
    key = desk.rng.choice(BRANCHES), desk.rng.randrange(_NUMBERS)
    if desk.run("INSERT INTO loan (branch, number, borrower) VALUES (%s, %s, 'new') ON CONFLICT DO NOTHING", *key):
        tell(desk, key, "lent", 1)


def prolong(desk: Desk) -> None:
    """Its number moves."""
    _change(desk, f"borrower = %s, {_TURN}", desk.rng.choice(WORDS))


def bring_back(desk: Desk) -> None:
    """One of its timestamps moves."""
    _change(desk, "back = clock_timestamp() AT TIME ZONE 'UTC'")


def waive(desk: Desk) -> None:
    """No stamp moves."""
    _change(desk, "fee = %s", desk.rng.randrange(10_000) / 100)


def strike_off(desk: Desk) -> None:
    """A loan is deleted, which tells no version; its reminders stay."""
    key, _ = _loan(desk)
    desk.run("DELETE FROM loan WHERE (branch, number) = (%s, %s)", *key)
    tell(desk, key, "struck off")


def rewrite(desk: Desk) -> None:
    """A loan under another number."""
    key, version = _loan(desk)
    other = key[0], desk.rng.randrange(_NUMBERS, 10 * _NUMBERS)
    desk.run(
        f"UPDATE loan SET number = %s, {_TURN}, version = version + 1 WHERE (branch, number) = (%s, %s)",
        other[1],
        *key,
    )
    tell(desk, key, "is another")
    tell(desk, other, "was another", version + 1)


def remind(desk: Desk) -> None:
    """A child, which the loan does not count."""
    key, _ = _loan(desk)
    desk.run("INSERT INTO reminder (branch, loan, note) VALUES (%s, %s, %s)", *key, desk.rng.choice(WORDS))
    tell(desk, key, "reminded")


def _reminder(desk: Desk) -> tuple[Any, Key]:
    desk.run(
        "SELECT id, branch, loan FROM reminder WHERE (branch, loan) IN (SELECT branch, number FROM loan)"
        " ORDER BY md5(id || %s) LIMIT 1 FOR UPDATE",
        str(desk.rng.getrandbits(32)),
    )
    found, branch, number = desk.cursor.fetchone() or (0, "nowhere", 0)
    return found, (branch, number)


def word_otherwise(desk: Desk) -> None:
    """A child is changed, and stamped."""
    reminder, key = _reminder(desk)
    desk.run("UPDATE reminder SET note = %s, sent = clock_timestamp() WHERE id = %s", desk.rng.choice(WORDS), reminder)
    tell(desk, key, "reminded otherwise")


def take_back(desk: Desk) -> None:
    """A child is removed."""
    reminder, key = _reminder(desk)
    desk.run("DELETE FROM reminder WHERE id = %s", reminder)
    tell(desk, key, "reminded no more")


def mistake(desk: Desk) -> None:
    """A child was another one's."""
    reminder, key = _reminder(desk)
    other, _ = _loan(desk)
    desk.run("UPDATE reminder SET branch = %s, loan = %s, sent = clock_timestamp() WHERE id = %s", *other, reminder)
    tell(desk, key, "reminded no more")
    tell(desk, other, "reminded")


def rename_branch(desk: Desk) -> None:
    """A parent is changed, and numbered."""
    code = desk.one("code", "branch")
    desk.run(f"UPDATE branch SET name = %s, {_TURN} WHERE code = %s", desk.rng.choice(WORDS), code)
    desk.run(_TOLD, "aw_loan/branch", code, "renamed", None)


def say_again(desk: Desk) -> None:
    """Old news."""
    key, version = _loan(desk)
    for old in {1, version - 1, version}:
        tell(desk, key, "said again", max(old, 1))


def empty(desk: Desk) -> None:
    """All children are removed at once."""
    desk.run("TRUNCATE reminder")
    desk.run(_TOLD, "aw_loan", "*", "truncated", None)
