"""An S3 server (s3proxy over a folder); one holds both buckets."""

from __future__ import annotations

import http.client
import os
import secrets
from pathlib import Path
from typing import Any

from demo.buckets import s3_client
from demo.jars import OBJECTS, Jars
from demo.machine import java_program
from demo.servers.server import Server

_PROPERTIES = """\
s3proxy.endpoint=http://127.0.0.1:{port}
s3proxy.authorization=aws-v2-or-v4
s3proxy.identity={identity}
s3proxy.credential={credential}
jclouds.provider=filesystem-nio2
jclouds.identity={identity}
jclouds.credential={credential}
jclouds.filesystem.basedir={files}
"""
# its own default writes every request
_LOGBACK = """\
<configuration>
  <appender name="out" class="ch.qos.logback.core.ConsoleAppender">
    <encoder><pattern>%d{ISO8601} %-5level %logger - %msg%n</pattern></encoder>
  </appender>
  <root level="WARN"><appender-ref ref="out"/></root>
</configuration>
"""


class ObjectStore(Server):
    """`heap` is the Java heap."""

    def __init__(self, home: Path, name: str, port: int, jars: Jars, heap: str = "256m") -> None:
        super().__init__(home, name, port)
        self.jars = jars
        self.heap = heap

    @property
    def url(self) -> str:
        """The endpoint for S3 clients."""
        return f"http://{self.address}"

    @property
    def keys(self) -> tuple[str, str]:
        """Access key and secret key."""
        access, secret = (self.folder / "keys").read_text().split()
        return access, secret

    @property
    def _properties(self) -> Path:
        return self.folder / "s3proxy.properties"

    def command(self) -> list[str]:
        return [
            str(java_program()),
            f"-Xmx{self.heap}",
            "-XX:+UseSerialGC",
            f"-Dlogback.configurationFile={self.folder / 'logback.xml'}",
            "-cp",
            str(self.jars.folder(OBJECTS) / "*"),
            "org.gaul.s3proxy.Main",
            "--properties",
            str(self._properties),
        ]

    def marks(self) -> set[str]:
        return {"org.gaul.s3proxy.Main", str(self._properties)}

    def spawn_options(self) -> dict[str, Any]:
        """Keys become file names: Java spells them by the locale."""
        return {"env": {**os.environ, "LC_ALL": "C.UTF-8"}}

    def prepare(self) -> None:
        files = self.folder / "files"
        files.mkdir(exist_ok=True)
        if not (self.folder / "keys").exists():
            self._write("keys", f"{secrets.token_hex(8)} {secrets.token_hex(16)}\n")
        access, secret = self.keys
        self._write("logback.xml", _LOGBACK)
        text = _PROPERTIES.format(port=self.port, identity=access, credential=secret, files=files)
        self._write(self._properties.name, text)

    def _write(self, name: str, text: str) -> None:
        """A killed start leaves no half-written file."""
        fresh = self.folder / f"{name}.new"
        fresh.touch(mode=0o600)
        fresh.write_text(text)
        fresh.rename(self.folder / name)

    def answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=3)
        try:
            connection.request("GET", "/")
            return connection.getresponse().status < 500  # without keys: refused, so it is up
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def client(self) -> Any:
        """A boto3 client for this server."""
        access, secret = self.keys
        return s3_client(self.url, access, secret)
