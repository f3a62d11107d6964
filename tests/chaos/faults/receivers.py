"""The service that an endpoint belongs to: killed, busy, failing, slow, and silent once it has taken a request."""

import threading
from collections.abc import Iterator
from random import Random

from tests.chaos.faults.fault import DEMO, fault
from tests.chaos.interposer import Answer, Forward, Request
from tests.chaos.scene import Scene
from tests.receivers import SETTING


@fault(weight=1, grounds=DEMO)
def receiver_killed(scene: Scene, dice: Random) -> Iterator[None]:
    """And started again on its file."""
    with scene.alone["receiver"]:
        scene.network.receiver.kill()
        yield
        scene.network.receiver.start()


@fault(weight=1, grounds=DEMO)
def receiver_busy(scene: Scene, dice: Random) -> Iterator[None]:
    """429, 503 or 500 to most requests, some of which it has carried out."""

    def rule(request: Request, forward: Forward) -> Answer:
        if dice.random() < 0.3:
            return forward(request)
        if dice.random() < 0.2:
            forward(request)
        return Answer(dice.choice((429, 503, 500)), b"{}", (("Retry-After", "1"),))

    with scene.network.ruled(SETTING, rule):
        yield


@fault(weight=1, grounds=DEMO)
def receiver_slow(scene: Scene, dice: Random) -> Iterator[None]:
    """Each answer takes a while."""
    pause = threading.Event()

    def rule(request: Request, forward: Forward) -> Answer:
        pause.wait(dice.uniform(0.05, 0.4))
        return forward(request)

    with scene.network.ruled(SETTING, rule):
        yield


@fault(weight=1, grounds=DEMO)
def receiver_silent(scene: Scene, dice: Random) -> Iterator[None]:
    """A black hole: connections are half open, and what they swallowed arrives late."""
    link = scene.network.links[SETTING]
    with scene.alone["receiver"]:
        link.swallow()
        yield
        link.heal(cut=dice.random() < 0.5)


@fault(weight=1, grounds=DEMO)
def receiver_answers_lost(scene: Scene, dice: Random) -> Iterator[None]:
    """A request is carried out, and its answer never comes."""

    def rule(request: Request, forward: Forward) -> Answer:
        answer = forward(request)
        if dice.random() < 0.5:
            raise ConnectionResetError
        return answer

    with scene.network.ruled(SETTING, rule):
        yield
