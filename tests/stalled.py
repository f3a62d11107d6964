"""A batch that stops between the read of its rows and the writing of them, to be overtaken."""

import threading
from contextlib import contextmanager
from dataclasses import replace

from sync_pipeline.pipeline import sync_keys
from tests.world import wait_for


@contextmanager
def stalled(context, key, order):
    """The key's row is read before this block, and what the order asks for is done after it."""
    has_read, go_on = threading.Event(), threading.Event()

    def adapt(legacy):
        has_read.set()
        assert go_on.wait(30)
        return context.entity.adapt(legacy)

    slow = replace(context, entity=replace(context.entity, adapt=adapt))
    worker = threading.Thread(target=sync_keys, args=(slow, context.origin.key.parse([str(key)]), order))
    worker.start()
    wait_for(has_read.is_set)
    try:
        yield
    finally:
        go_on.set()
        worker.join()
