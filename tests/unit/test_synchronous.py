"""Which values of synchronous_standby_names let commits wait for any reader of the log."""

import pytest

from sync_pipeline.sources.synchronous import waits_for_readers


class Server:
    """A server that has one setting."""

    def __init__(self, value):
        self.value = value

    def execute(self, statement):
        assert "synchronous_standby_names" in statement

    def fetchone(self):
        return (self.value,)


@pytest.mark.hazard(142)
@pytest.mark.parametrize("names", ["*", "1 (*)", "ANY 1 (*)", 'FIRST 2 (standby_a, "*")', "standby_a, *"])
def test_a_star_is_any_reader(names):
    assert repr(names) in waits_for_readers(Server(names))


@pytest.mark.parametrize("names", ["", "standby_a", "FIRST 1 (standby_a, standby_b)", 'ANY 2 (a, "b*", "c, *")'])
def test_named_standbys_are_no_readers_of_ours(names):
    assert waits_for_readers(Server(names)) is None
