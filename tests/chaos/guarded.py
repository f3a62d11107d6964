"""A thread whose error is somebody's."""

import threading
from collections.abc import Callable


class Guarded(threading.Thread):
    """Runs `act`; what it raised is raised again by `check`."""

    def __init__(self, act: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._act = act
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._act()
        except BaseException as error:
            self.error = error

    def check(self) -> None:
        """Wait for its end, and raise what it failed by."""
        self.join()
        if self.error:
            raise self.error
