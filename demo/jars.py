"""The Java servers' jars, fetched by Maven once and kept between ups."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

from demo.errors import DemoError
from demo.locks import locked

_COPY = "org.apache.maven.plugins:maven-dependency-plugin:copy-dependencies"


@dataclass(frozen=True)
class Bundle:
    """A server's artifacts: (group, artifact, version); the first gives the bundle its version."""

    name: str
    artifacts: tuple[tuple[str, str, str], ...]

    @property
    def version(self) -> str:
        """The server's version."""
        return self.artifacts[0][2]

    def pom(self) -> str:
        """A project that depends on the artifacts and holds nothing else."""
        depends = "".join(
            f"<dependency><groupId>{escape(group)}</groupId><artifactId>{escape(artifact)}</artifactId>"
            f"<version>{escape(version)}</version></dependency>\n"
            for group, artifact, version in self.artifacts
        )
        return (
            '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>\n'
            f"<groupId>demo</groupId><artifactId>{self.name}</artifactId><version>1</version>"
            f"<packaging>pom</packaging>\n<dependencies>\n{depends}</dependencies></project>\n"
        )


SEARCH = Bundle(
    "search",
    (
        ("org.elasticsearch", "elasticsearch", "9.5.3"),
        ("org.elasticsearch.plugin", "transport-netty4", "9.5.3"),
    ),
)
OBJECTS = Bundle(
    "objects",
    (
        ("org.gaul", "s3proxy", "4.1.0"),
        ("com.fasterxml.jackson.core", "jackson-annotations", "2.21"),
    ),
)


class Jars:
    """A folder with one folder of jars a bundle."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    def folder(self, bundle: Bundle) -> Path:
        """Where a bundle's jars are, once fetched."""
        return self.root / f"{bundle.name}-{bundle.version}"

    def network_jars(self) -> Iterator[Path]:
        """Elasticsearch's network module; all other search jars are its class path."""
        return (jar for jar in sorted(self.folder(SEARCH).glob("*.jar")) if is_network(jar))

    def fetch(self) -> None:
        """Fetch what is not there; a killed fetch leaves nothing that counts."""
        self.root.mkdir(parents=True, exist_ok=True)
        with locked(self.root / "lock"):
            for bundle in (SEARCH, OBJECTS):
                if not self.folder(bundle).exists():
                    self._fetch(bundle)

    def _fetch(self, bundle: Bundle) -> None:
        maven = shutil.which("mvn")
        if maven is None:
            raise DemoError("mvn is not on the PATH: install Maven, the demo fetches its Java servers with it.")
        for left in self.root.glob(f"{bundle.name}.new-*"):
            shutil.rmtree(left, ignore_errors=True)
        # its own name each time: a Maven left by a killed fetch may still be writing
        fresh = Path(tempfile.mkdtemp(prefix=f"{bundle.name}.new-", dir=self.root))
        fresh.chmod(0o755)
        pom = fresh / "pom.xml"
        pom.write_text(bundle.pom())
        command = [maven, "--batch-mode", "--quiet", f"--file={pom}", _COPY, f"-DoutputDirectory={fresh}"]
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, env=os.environ
        )
        if done.returncode != 0:
            reason = "\n".join((done.stdout + done.stderr).strip().splitlines()[:5])
            raise DemoError(f"Maven could not fetch the jars for {bundle.name}: {reason}")
        fresh.rename(self.folder(bundle))


def is_network(jar: Path) -> bool:
    """Whether a jar belongs to Elasticsearch's network module."""
    return jar.name.startswith(("transport-netty4", "netty-"))
