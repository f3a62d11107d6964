"""The table of transitions, the diagram in docs, and what a state is read from, agree."""

import re
from pathlib import Path

import pytest

from sync_pipeline.ledger.states import TRANSITIONS, Signs, State, state_of
from sync_pipeline.model.reasons import SET_ASIDE
from sync_pipeline.queue.due import PRIORITY

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "states.md").read_text(encoding="utf-8")


def test_the_diagram_draws_the_table():
    names = {name: label for label, name in re.findall(r'state "(.+)" as (\w+)', PAGE)}
    drawn = {
        (names.get(before, before), names.get(after, after), by)
        for before, after, by in re.findall(r"^    (\w+) --> (\w+): (.+)$", PAGE, re.MULTILINE)
    }
    assert drawn == {tuple(transition) for transition in TRANSITIONS}


@pytest.mark.parametrize("state", State)
def test_every_state_is_told_and_can_be_left_and_reached(state):
    assert re.search(rf"^\| {state} \|", PAGE, re.MULTILINE)
    assert any(transition.before is state for transition in TRANSITIONS)
    assert state is State.ABSENT or any(transition.after is state for transition in TRANSITIONS)


def owed(*reasons):
    return frozenset(reasons)


@pytest.mark.parametrize(
    ("signs", "state"),
    [
        (Signs(False), State.ABSENT),
        (Signs(True), State.PENDING),
        (Signs(True, 5, 3), State.COMMITTED),
        (Signs(True, 5, 3, changed=True), State.PENDING),
        (Signs(False, None, 3), State.DELETED),
        (Signs(False, 5, 3, changed=True), State.PENDING),
        (Signs(True, None, 3), State.PENDING),
        (Signs(True, 5, 3, owed=owed("documents")), State.WRITTEN),
        (Signs(True, 5, 3, owed=owed("documents"), document=3), State.INDEXED),
        (Signs(True, 5, 3, owed=owed("documents"), document=2), State.WRITTEN),
        (Signs(False, None, 3, owed=owed("documents"), document=2), State.WRITTEN),
        (Signs(True, 5, 3, owed=owed("media", "documents")), State.PENDING),
        (Signs(True, None, 0, owed=owed("media"), copied=True), State.COPIED),
        (Signs(True, 5, 3, owed=owed("rejected", "documents")), State.FAILED),
        (Signs(True, 5, 3, owed=owed("rejected", "discarded")), State.FAILED),
        (Signs(True, 5, 3, owed=owed("discarded")), State.DISCARDED),
        (Signs(True, 5, 3, owed=owed("rejected"), undone=True), State.COMPENSATED),
        (Signs(True, 5, 3, owed=owed("rejected", "compensation")), State.FAILED),
    ],
)
def test_a_state_is_read_from_signs(signs, state):
    assert state_of(signs) is state


@pytest.mark.parametrize("reason", [*PRIORITY, *SET_ASIDE])
def test_nothing_that_is_owed_counts_as_committed(reason):
    assert state_of(Signs(True, 5, 3, owed=owed(reason))) is not State.COMMITTED
