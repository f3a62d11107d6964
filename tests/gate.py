"""A gate before the search cluster: TLS by an authority of its own, and nobody in without the right word."""

import datetime as dt
import http.client
import ipaddress
import ssl
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

_SECONDS = 30


@dataclass
class Gate:
    """Where it is, and what `Authorization` it lets in; with `refused`, how often it did not."""

    port: int
    certificate: Path  # its own authority
    word: str
    refused: int = 0
    passed: set[str] = field(default_factory=set)  # methods

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"


@contextmanager
def gated(upstream: str, word: str, folder: Path) -> Iterator[Gate]:
    """A gate before a cluster, whose certificate lies in the folder."""
    certificate, key = _certificate(folder)
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Keeper)
    server.daemon_threads = True
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    # a handshake is its connection's own: one that fails must hold up no other
    server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    gate = Gate(server.server_address[1], certificate, word)
    server.gate, server.upstream = gate, urlsplit(upstream).netloc  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield gate
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class _Keeper(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _SECONDS

    def parse_request(self) -> bool:
        """Every method goes one way."""
        if not super().parse_request():
            return False
        setattr(self, f"do_{self.command}", self._answer)
        return True

    def handle(self) -> None:
        try:
            super().handle()
        except (ssl.SSLError, ConnectionError):  # who does not trust us goes away
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Says nothing."""

    def _answer(self) -> None:
        gate: Gate = self.server.gate  # type: ignore[attr-defined]
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Authorization") != gate.word:
            gate.refused += 1
            self._send(401, "application/json", b'{"error": {"type": "security_exception", "reason": "who?"}}')
            return
        gate.passed.add(self.command)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in {"host", "authorization"}}
        with closing(http.client.HTTPConnection(self.server.upstream, timeout=_SECONDS)) as inside:  # type: ignore[attr-defined]
            inside.request(self.command, self.path, body, headers)
            answer = inside.getresponse()
            self._send(answer.status, answer.headers["Content-Type"] or "application/json", answer.read())

    def _send(self, status: int, kind: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("X-Elastic-Product", "Elasticsearch")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _certificate(folder: Path) -> tuple[Path, Path]:
    """(certificate, key) of this machine, signed by itself for an hour."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "an authority of our own")])
    now = dt.datetime.now(dt.UTC)
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(hours=1))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    paths = folder / "gate.pem", folder / "gate.key"
    paths[0].write_bytes(made.public_bytes(serialization.Encoding.PEM))
    paths[1].write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return paths
