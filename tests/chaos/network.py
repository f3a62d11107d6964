"""All ways between the engine and its six endpoints, and the settings that lead over them."""

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from demo.fleet import Fleet
from tests.chaos.interposer import Interposer, Rule, passed_on
from tests.chaos.proxy import Link, Loop
from tests.receivers import SETTING, ReceiverProcess

# the setting that names each, and its server
ENDPOINTS = {
    "SYNC_LEGACY_DB": "legacy",
    "SYNC_TARGET_DB": "target",
    "SYNC_SEARCH_URL": "search",
    "SYNC_LEGACY_S3_ENDPOINT": "objects",
    "SYNC_TARGET_S3_ENDPOINT": "objects",
}
_OVER_HTTP = ("SYNC_SEARCH_URL", "SYNC_LEGACY_S3_ENDPOINT", SETTING)


class Network:
    """Links by the setting's name."""

    def __init__(self, fleet: Fleet) -> None:
        self._loop = Loop()
        self._folder = tempfile.TemporaryDirectory(prefix="receiver-")
        self.receiver = ReceiverProcess(Path(self._folder.name))
        ports = {setting: getattr(fleet, name).port for setting, name in ENDPOINTS.items()}
        ports[SETTING] = self.receiver.port
        self.links = {setting: Link(self._loop, port) for setting, port in ports.items()}
        self._interposers = {name: Interposer(self.links[name].upstream) for name in _OVER_HTTP}

    def renew(self) -> None:
        """Empty the receiver: revisions of another round are none of this one's."""
        self.receiver.renew()

    def settings(self, direct: dict[str, str]) -> dict[str, str]:
        """As `direct`, over the links."""
        return {
            setting: re.sub(rf":{link.upstream}\b", f":{link.port}", direct[setting], count=1)
            for setting, link in self.links.items()
        }

    @contextmanager
    def ruled(self, setting: str, rule: Rule) -> Iterator[None]:
        """An HTTP endpoint behind a rule, until the end of the block."""
        interposer, link = self._interposers[setting], self.links[setting]
        with interposer.alone:
            interposer.rule = rule
            link.divert(interposer.port)
            try:
                yield
            finally:
                interposer.rule = passed_on
                link.divert(link.upstream)

    @contextmanager
    def leading(self, setting: str, port: int) -> Iterator[None]:
        """A way that leads to another port, as its own endpoint, until the end of the block."""
        link = self.links[setting]
        former, link.upstream = link.upstream, port
        link.divert(port)
        try:
            yield
        finally:
            link.upstream = former
            link.divert(former)

    def heal(self) -> None:
        """Everything as it was."""
        for link in self.links.values():
            link.heal()

    def close(self) -> None:
        """Close all."""
        for interposer in self._interposers.values():
            interposer.close()
        for link in self.links.values():
            link.refuse()
        self._loop.close()
        self.receiver.kill()
        self._folder.cleanup()
