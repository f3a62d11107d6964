"""What a batch tells the ledger of its rows, and what it owes each outer sink: without a server."""

from types import SimpleNamespace

import pyarrow as pa
import pytest

from sync_pipeline.batch.batch import Batch
from sync_pipeline.batch.order import Order
from sync_pipeline.batch.plan import deliveries_of, plan_of
from sync_pipeline.db.keys import Key
from sync_pipeline.ledger.ledger import DOUBT, KEEP, PARK, WITHDRAW, WRITE, Draw
from sync_pipeline.ledger.sinks import HeldBits
from sync_pipeline.model.rows import Adapted, Reject
from sync_pipeline.model.steps import BatchStep
from sync_pipeline.sinks.placing import Placed
from sync_pipeline.sinks.search import SearchIndex

KEY = Key(("id",), ("bigint",))
SITE = SearchIndex("film", fields={"title": {"type": "text"}})
FORMS = SearchIndex("film-forms", fields={"title": {"type": "text"}}, label="forms")
ROW, IN_SITE, IN_FORMS = 1, 2, 4
REVISION = 12


def context(*, compensates=False):
    entity = SimpleNamespace(outer_sinks=[SITE, FORMS], compensates=compensates)
    bits = HeldBits({"relational": ROW, "search": IN_SITE, "forms": IN_FORMS})
    return SimpleNamespace(entity=entity, bits=bits, origin=SimpleNamespace(key=KEY))


def keys(*numbers):
    return pa.table({"id": pa.array(numbers, pa.int64())})


def batch(rows=(), deleted=(), unchanged=(), refused=(), order=None, **more):
    """`rows` are (key, what sinks want, whether the row is written); `unwanted` by key text."""
    numbers = [key for key, _, _ in rows]
    legacy = keys(*numbers).append_column("_digest", pa.array(numbers, pa.int64()))
    table = pa.table({"id": pa.array(numbers), "title": pa.array([f"title {n}" for n in numbers], pa.string())})
    adapted = Adapted(legacy, table, pa.array([held for _, held, _ in rows], pa.int16()))
    nothing = keys(*unchanged).append_column("_digest", pa.array(list(unchanged), pa.int64()))
    rejects = [Reject(str(key), BatchStep.ADAPT, "ValueError", "bad") for key in refused]
    return Batch(
        more.pop("context", None) or context(),
        Draw(REVISION),
        order or Order(),
        keys(*numbers),
        adapted,
        Placed(adapted),
        keys(*deleted),
        nothing,
        pa.array([is_written for _, _, is_written in rows], pa.bool_()),
        rejects,
        **more,
    )


def planned(made):
    plan = plan_of(made)
    columns = (plan.column(name).to_pylist() for name in ("id", "action", "held"))
    return {key: (action, held) for key, action, held in zip(*columns, strict=True)}


def owed(made, before=None):
    """What each sink is owed: key to title, None to delete; `before` is what the ledger holds of keys."""
    plan = plan_of(made)
    ids = plan.column("id").to_pylist()
    applied = pa.table(
        {
            "n": plan.column("n"),
            "held_before": pa.array([(before or {}).get(key, 0) for key in ids], pa.int16()),
            "written": pa.array([REVISION] * len(ids), pa.int64()),
        }
    )
    found = {}
    for delivery in deliveries_of(made, plan, applied):
        operations = delivery.operations
        titles = operations.contents.column("title").to_pylist() if len(operations) else []
        found[delivery.sink.id] = dict(zip(map(int, operations.ids.to_pylist()), titles, strict=True))
        assert operations.written.to_pylist() == [title is not None for title in titles]
    return found


def test_a_row_goes_to_the_sinks_that_want_it():
    made = batch([(1, ROW | IN_SITE | IN_FORMS, True), (2, ROW | IN_FORMS, True), (3, ROW, True)])
    assert planned(made) == {
        1: (WRITE, ROW | IN_SITE | IN_FORMS),
        2: (WRITE, ROW | IN_FORMS),
        3: (WRITE, ROW),
    }
    assert owed(made) == {"search": {1: "title 1"}, "forms": {1: "title 1", 2: "title 2"}}


def test_what_a_sink_wants_no_more_is_deleted_there_alone():
    made = batch([(1, ROW | IN_FORMS, True)])
    assert owed(made, before={1: ROW | IN_SITE | IN_FORMS}) == {"search": {1: None}, "forms": {1: "title 1"}}


def test_a_deleted_row_goes_from_the_sinks_that_may_hold_it():
    assert owed(batch(deleted=[1]), before={1: ROW | IN_FORMS}) == {"search": {}, "forms": {1: None}}


def test_a_row_that_has_not_changed_is_owed_to_nobody():
    made = batch([(1, ROW | IN_SITE, False)], unchanged=[2])
    assert {key: action for key, (action, _) in planned(made).items()} == {1: KEEP, 2: KEEP}
    assert owed(made, before={1: ROW | IN_SITE, 2: ROW | IN_SITE}) == {"search": {}, "forms": {}}


def test_where_documents_are_asked_for_rows_that_have_not_changed_go_to_all_sinks():
    made = batch([(1, ROW | IN_SITE | IN_FORMS, False), (2, ROW, False)], order=Order(documents=True))
    assert owed(made, before={1: 7, 2: 7}) == {
        "search": {1: "title 1", 2: None},
        "forms": {1: "title 1", 2: None},
    }


def test_where_one_sink_is_owed_a_row_that_has_not_changed_goes_there_alone():
    """A row that has changed goes everywhere; the ledger learns that the one sink holds the other row."""
    everywhere = ROW | IN_SITE | IN_FORMS
    made = batch([(1, everywhere, False), (2, everywhere, True)], order=Order(documents=True, sink="forms"))
    assert planned(made) == {1: (KEEP, IN_FORMS), 2: (WRITE, everywhere)}  # it adds the bit of the one sink
    assert owed(made) == {"search": {2: "title 2"}, "forms": {1: "title 1", 2: "title 2"}}


def test_a_row_that_is_refused_stays_where_it_is():
    made = batch(refused=[1])
    assert planned(made)[1][0] == PARK
    assert owed(made, before={1: 7}) == {"search": {}, "forms": {}}


def test_a_row_that_is_private_now_and_refused_goes_from_the_sinks_that_want_it_no_more():
    made = batch(refused=[1], unwanted={"1": ROW | IN_FORMS})
    assert planned(made) == {1: (WITHDRAW, ROW | IN_FORMS)}
    assert owed(made, before={1: 7}) == {"search": {1: None}, "forms": {}}


@pytest.mark.parametrize("order", [Order(force=True), Order(documents=True)])
def test_a_refused_row_whose_removal_was_owed_is_removed(order):
    made = batch(refused=[1], order=order)
    assert planned(made)[1][0] == DOUBT
    assert owed(made, before={1: ROW | IN_FORMS}) == {"search": {1: None}, "forms": {}}
