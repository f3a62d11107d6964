"""Documents that are sent beside the polls."""

import threading
from contextlib import contextmanager
from types import SimpleNamespace

import pyarrow as pa
import pytest

from sync_pipeline.batch.delivery import Delivery
from sync_pipeline.errors import DeclarationError
from sync_pipeline.run import document_sender
from sync_pipeline.run.background import in_background
from sync_pipeline.sinks.operations import Operations
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.search.send import make
from tests.world import wait_for

INDEX = SearchIndex("films", fields={"text": {"type": "keyword"}})


def delivery(*documents, owed):
    """Documents as (key, version, text or None)."""
    keys, versions, texts = zip(*documents, strict=True)
    ids = pa.array([str(key) for key in keys])
    contents = pa.array(texts)
    columns = pa.table({"text": contents})
    made = Operations(pa.table({"id": pa.array(keys)}), ids, pa.array(versions), columns, contents.is_valid())
    return Delivery(INDEX, made, [owed])


def listed(sent):
    operations = sent.operations
    columns = (operations.keys.column("id"), operations.ids, operations.versions, make(operations, INDEX).documents)
    return list(zip(*(column.to_pylist() for column in columns), strict=True))


@pytest.fixture
def context():
    @contextmanager
    def target():
        yield "cursor"

    return SimpleNamespace(entity=SimpleNamespace(name="film"), stores=SimpleNamespace(target=target))


def test_batches_go_together_and_a_key_goes_once():
    first = delivery((1, 10, "a"), (2, 10, "b"), owed=7)
    second = delivery((3, 11, "c"), (1, 11, None), owed=8)
    (both,) = Delivery.together([first, second])
    assert listed(both) == [(2, "2", 10, '{"text":"b"}'), (3, "3", 11, '{"text":"c"}'), (1, "1", 11, None)]
    assert both.owed == [7, 8]


def test_batches_of_other_types_are_sent_one_after_the_other():
    numbers = delivery((1, 10, 1), owed=7)
    nothing = delivery((1, 11, None), owed=8)
    decimals = delivery((1, 12, 1.0), owed=9)
    first, second = Delivery.together([numbers, nothing, decimals])
    assert (listed(first), first.owed) == ([(1, "1", 11, None)], [7, 8])
    assert (listed(second), second.owed) == ([(1, "1", 12, '{"text":1}')], [9])


def test_what_gathers_during_a_request_is_the_next_one(context, monkeypatch):
    sent, follows, under_way, go_on = [], [], threading.Event(), threading.Event()

    def send(_, batch, coming):
        sent.append(batch.owed)
        under_way.set()
        go_on.wait(10)
        follows.append(coming())
        return len(batch), 0

    monkeypatch.setattr(document_sender, "send", send)
    reported = []
    queue = document_sender.DocumentSender(context, lambda _, outcome: reported.append(outcome.documents))
    with in_background(queue.run, "documents"):
        queue.take(delivery((1, 1, "a"), owed=1))
        assert under_way.wait(10)
        queue.take(delivery((2, 2, "b"), owed=2))
        queue.take(delivery((3, 3, "c"), owed=3))
        go_on.set()
    assert sent == [[1], [2, 3]]
    assert follows == [{"2", "3"}, set()]
    assert reported == [1, 2]


def test_what_does_not_fit_is_left_to_others(context, monkeypatch):
    let_go = []
    monkeypatch.setattr(document_sender, "_MOST_DOCUMENTS", 2)
    monkeypatch.setattr(document_sender.queue_table, "unclaim", lambda _, ids: let_go.extend(ids))
    queue = document_sender.DocumentSender(context, lambda *_: None)
    queue.take(delivery((1, 1, "a"), (2, 1, "b"), owed=1))
    queue.take(delivery((3, 2, "c"), owed=2))
    assert let_go == [2]


def test_a_wrong_declaration_stops_the_polls(context, monkeypatch):
    """The entity's file is at fault: no other document would fare better."""

    def send(*_):
        raise DeclarationError("a fault")

    monkeypatch.setattr(document_sender, "send", send)
    queue = document_sender.DocumentSender(context, lambda *_: None)
    queue.take(delivery((1, 1, "a"), owed=1))
    with in_background(queue.run, "documents"):
        pass
    with pytest.raises(DeclarationError, match="a fault"):
        queue.take(delivery((2, 2, "b"), owed=2))


@pytest.mark.hazard(95)
def test_what_nobody_foresaw_leaves_its_documents_due_and_the_next_are_sent(context, monkeypatch):
    sent, let_go = [], []

    def send(_, batch, coming):
        if batch.owed == [1]:
            raise ValueError("a fault")
        sent.append(batch.owed)
        return len(batch), 0

    monkeypatch.setattr(document_sender, "send", send)
    monkeypatch.setattr(document_sender, "_PACE_SECONDS", 0)
    monkeypatch.setattr(document_sender.queue_table, "unclaim", lambda _, ids: let_go.extend(ids))
    queue = document_sender.DocumentSender(context, lambda *_: None)
    with in_background(queue.run, "documents"):
        queue.take(delivery((1, 1, "a"), owed=1))
        wait_for(lambda: let_go == [1])
        queue.take(delivery((2, 2, "b"), owed=2))
    assert sent == [[2]]
