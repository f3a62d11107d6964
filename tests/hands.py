"""Hands that change the monolith's rows side by side."""

import random
import threading
from contextlib import closing, contextmanager

import psycopg2


@contextmanager
def at_work(url, edit, workers=8):
    """Have so many make one change after the other, each its own transaction, until the end of the block."""
    stop = threading.Event()

    def work(seed):
        dice = random.Random(seed)
        with closing(psycopg2.connect(url)) as connection:
            connection.autocommit = True
            while not stop.wait(dice.random() * 0.02):
                edit(connection.cursor(), dice)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(workers)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()
