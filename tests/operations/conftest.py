"""Each of these modules has a world of its own, whose suspects are looked at again soon."""

import pytest

from tests.world import opened


@pytest.fixture(scope="module")
def world(fleet, request):
    with opened(fleet, request.module.__name__.rpartition(".")[2], SYNC_RECHECK_SECONDS="0.2") as world:
        yield world
