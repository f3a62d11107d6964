"""A pooler between the engine and PostgreSQL, as PgBouncer may be told to be.

By default it drops the `options` of a connection, as with `ignore_startup_parameters`, and gives each client a server
session of its own. It may refuse `options`, or share one server session among clients, a transaction at a time.
"""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_SSL = 80877103
_KEY_DATA, _READY, _IDLE, _ENDS = b"K", b"Z", b"I", b"X"
_ANY_KEY = struct.pack("!ii", 12_345, 67_890)


@contextmanager
def pooled(url: str, *, refuses: bool = False, shares: bool = False) -> Iterator[str]:
    """The same database by way of the pooler."""
    upstream = urlsplit(url)
    listener = socket.create_server(("127.0.0.1", 0))
    serve = _Shared(upstream.port).serve if shares else _relay
    threading.Thread(target=_accept, args=(listener, upstream.port, serve, refuses), daemon=True).start()
    try:
        yield url.replace(f":{upstream.port}/", f":{listener.getsockname()[1]}/")
    finally:
        listener.close()


def _accept(listener: socket.socket, port: int, serve, refuses: bool) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, port, serve, refuses), daemon=True).start()


def _serve(client: socket.socket, port: int, serve, refuses: bool) -> None:
    with suppress(OSError), client:
        version, words = _startup(client)
        if version == _SSL:
            client.sendall(b"N")
            version, words = _startup(client)
        pairs = [pair for pair in zip(words[::2], words[1::2], strict=False) if pair[0]]
        if refuses and any(name == b"options" for name, _ in pairs):
            client.sendall(_message(b"E", b"SFATAL\0C08P01\0Munsupported startup parameter: options\0\0"))
            return
        body = b"".join(b"%s\0%s\0" % pair for pair in pairs if pair[0] != b"options") + b"\0"
        startup = struct.pack("!ii", len(body) + 8, version) + body
        serve(client, port, startup)


def _relay(client: socket.socket, port: int, startup: bytes) -> None:
    """One server session for one client."""
    with socket.create_connection(("127.0.0.1", port)) as server:
        server.sendall(startup)
        threading.Thread(target=_pump, args=(server, client), daemon=True).start()
        _pump(client, server)


class _Shared:
    """One server session that the first client opens, and that serves all of them, a transaction each time."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._server: socket.socket | None = None
        self._greeting = b""
        self._turn = threading.Lock()

    def serve(self, client: socket.socket, _: int, startup: bytes) -> None:
        """Serve a client until it goes. It learns a number of the pooler's own, as of PgBouncer."""
        with self._turn:
            if self._server is None:
                self._server = socket.create_connection(("127.0.0.1", self._port))
                self._server.sendall(startup)
                self._log_in(client, self._server)
            client.sendall(_message(b"R", struct.pack("!i", 0)) + self._greeting)
        while True:
            kind, body = _read_message(client)
            if kind == _ENDS:
                return
            with self._turn:
                while True:
                    self._server.sendall(_message(kind, body))
                    if self._answer(client, self._server) == _IDLE:
                        break
                    kind, body = _read_message(client)

    def _log_in(self, client: socket.socket, server: socket.socket) -> None:
        """Pass the login on, and note what a later client is greeted with."""
        while True:
            kind, body = _read_message(server)
            if kind == b"R":
                if struct.unpack("!i", body[:4])[0] == 0:
                    continue
                client.sendall(_message(kind, body))
                if struct.unpack("!i", body[:4])[0] != 12:  # the last word of SCRAM wants no answer
                    server.sendall(_message(*_read_message(client)))
            else:
                self._greeting += _message(kind, _ANY_KEY if kind == _KEY_DATA else body)
                if kind == _READY:
                    return

    @staticmethod
    def _answer(client: socket.socket, server: socket.socket) -> bytes:
        while True:
            kind, body = _read_message(server)
            client.sendall(_message(kind, body))
            if kind == _READY:
                return body


def _message(kind: bytes, body: bytes) -> bytes:
    return kind + struct.pack("!i", len(body) + 4) + body


def _read_message(side: socket.socket) -> tuple[bytes, bytes]:
    kind = _read(side, 1)
    (length,) = struct.unpack("!i", _read(side, 4))
    return kind, _read(side, length - 4)


def _startup(client: socket.socket) -> tuple[int, list[bytes]]:
    (length,) = struct.unpack("!i", _read(client, 4))
    body = _read(client, length - 4)
    return struct.unpack("!i", body[:4])[0], body[4:].split(b"\0")


def _read(side: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = side.recv(count - len(found))
        if not part:
            raise OSError
        found += part
    return found


def _pump(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while part := one.recv(1 << 16):
            other.sendall(part)
        other.shutdown(socket.SHUT_WR)
