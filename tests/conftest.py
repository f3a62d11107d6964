"""Real servers, brought up once for all tests that do not kill them."""

import os
from pathlib import Path

import pytest
from hypothesis import settings

from demo.fleet import down, up
from demo.home import JARS_SETTING, Home
from tests.receivers import ReceiverProcess
from tests.world import opened

# for properties that are to be tried at length: pytest --hypothesis-profile=long
settings.register_profile("long", max_examples=50_000)

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def jars():
    """Where all servers' jars are kept, fetched once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(JARS_SETTING, os.environ.get(JARS_SETTING) or str(REPOSITORY / ".demo" / "jars"))
        yield


@pytest.fixture(scope="session")
def fleet(jars, tmp_path_factory):
    home = Home(tmp_path_factory.mktemp("servers"))
    try:
        yield up(home)
    finally:
        down(home)


@pytest.fixture(scope="module")
def fresh_world(fleet, request):
    """An empty monolith and an empty new side, with the settings that lead to them in the environment."""
    with opened(fleet, request.module.__name__.rpartition(".")[2]) as world:
        yield world


@pytest.fixture(scope="module")
def receiver(tmp_path_factory):
    receiver = ReceiverProcess(tmp_path_factory.mktemp("receiver"))
    yield receiver
    receiver.kill()
