"""Rebuilds as tests see them: readers who look all the time, and something that happens at one of their steps."""

import threading
from abc import ABC, abstractmethod

from sync_pipeline.rebuild.report import FILLED


class Reader(ABC):
    """Looks again and again in a thread of its own, until it is left; an error of it is raised there.

    `wrong` holds what is of an older version than seen before, and what was gone and is back no newer.
    """

    def __init__(self, world):
        self.world = world
        self.wrong, self.errors, self.looks = [], [], 0
        self._seen, self._there = {}, set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        if self.errors:
            raise self.errors[0]

    @abstractmethod
    def _look_on(self):
        """Take what shows, until it is time to stop."""

    def _run(self):
        try:
            self._look_on()
        except Exception as error:
            self.errors.append(error)

    def _take(self, shown):
        """What shows at one look: versions by key."""
        for key, version in shown.items():
            if version < self._seen.get(key, 0) or (key not in self._there and version == self._seen.get(key)):
                self.wrong.append((key, self._seen[key], version))
        self._seen |= shown
        self._there = set(shown)
        self.looks += 1


class Once:
    """A report that acts once, at a step's first word."""

    def __init__(self, act, step=FILLED):
        self.act, self.step = act, step

    def __call__(self, step, _):
        if step == self.step and self.act:
            act, self.act = self.act, None
            act()
