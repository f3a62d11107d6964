"""What every ground can do."""

from contextlib import AbstractContextManager
from typing import Protocol

from demo.fleet import Fleet
from tests.chaos.plan import Plan
from tests.observer import Observer
from tests.oracle import Difference
from tests.world import World


class Ground(Protocol):
    """A monolith of its own kind."""

    entities: str  # the package that declares them

    def opened(self, fleet: Fleet, plan: Plan, settings: dict[str, str]) -> AbstractContextManager[World]:
        """A world with contents and an independent ledger; no history is filled."""
        ...

    def written(self, world: World, plan: Plan) -> AbstractContextManager[None]:
        """Writers at work until the end of the block; every open transaction has ended by then."""
        ...

    def observer(self, world: World) -> Observer:
        """Looks at the new side for versions that go back."""
        ...

    def versions(self, url: str) -> dict[int, int]:
        """The versions of the rows that the observer looks at, as a server of the monolith's has them."""
        ...

    def commits(self, world: World) -> int:
        """How many transactions of writers the ledger has."""
        ...

    def differences(self, world: World) -> list[Difference]:
        """What the oracle finds wrong."""
        ...

    def noted(self, world: World) -> list[str]:
        """What the new side holds otherwise than the ledger says."""
        ...
