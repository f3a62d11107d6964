"""Events that end what looks at them: a sweep that is cut off after some of its looks."""

import threading


class After(threading.Event):
    """Set once it was asked so often."""

    def __init__(self, looks):
        super().__init__()
        self.left = looks

    def is_set(self):
        self.left -= 1
        return self.left < 0
