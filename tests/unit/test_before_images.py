"""What an entity may say of refused documents, and to which state a row goes back."""

import dataclasses

import pytest

from sync_pipeline.errors import DeclarationError
from sync_pipeline.sinks.search import SearchIndex
from sync_pipeline.sinks.table.before_images import Image, last_whole
from tests.refusing.note import entity

ROW, DOCUMENT = 1, 2


def test_it_is_one_of_two_words():
    with pytest.raises(DeclarationError, match="entity note: on_refused is one of forward, compensate"):
        dataclasses.replace(entity, on_refused="undo")


def test_without_an_index_nothing_is_refused():
    sinks = tuple(sink for sink in entity.sinks if not isinstance(sink, SearchIndex))
    with pytest.raises(DeclarationError, match="on_refused='compensate' needs a SearchIndex"):
        dataclasses.replace(entity, sinks=sinks)
    dataclasses.replace(entity, sinks=sinks, on_refused="forward")


def image(revision, written, held=ROW | DOCUMENT):
    return Image("7", revision, written, held, there=bool(held))


@pytest.mark.parametrize(
    ("kept", "version", "revision"),
    [
        ([image(9, 5)], 5, 9),
        ([image(9, 5), image(12, 9)], 5, 9),  # the document of 9 was never taken
        ([image(9, 5), image(12, 9)], 9, 12),  # it was
        ([image(9, 0, 0), image(12, 9)], None, 9),  # there was no document before
        ([image(9, 5), image(12, 9, ROW)], None, 12),  # it was private in between
        ([image(9, 5), image(12, 9)], 77, 9),  # somebody else's document
    ],
)
def test_a_row_goes_back_to_what_readers_last_saw_whole(kept, version, revision):
    assert last_whole(kept, version, DOCUMENT).revision == revision
