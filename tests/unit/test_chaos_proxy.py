"""The proxies of chaos leave no socket behind, at whatever moment of a connection they end."""

import gc
import socket
import warnings
from contextlib import ExitStack

import pytest

from tests.chaos.proxy import Link, Loop


@pytest.mark.parametrize("turn", range(5))
def test_an_ended_loop_has_closed_all_connections(turn):
    with warnings.catch_warnings(record=True) as caught, ExitStack() as sockets:
        warnings.simplefilter("always")
        upstream = sockets.enter_context(socket.create_server(("127.0.0.1", 0)))
        loop = Loop()
        link = Link(loop, upstream.getsockname()[1])
        for _ in range(20 * turn):  # those that came last are still on their way when the loop ends
            sockets.enter_context(socket.create_connection(("127.0.0.1", link.port)))
        loop.close()
        gc.collect()
    assert [str(warning.message) for warning in caught] == []
