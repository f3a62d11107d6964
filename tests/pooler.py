"""A pooler between the engine and PostgreSQL: it drops the `options` of a connection, as PgBouncer is told to."""

import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urlsplit

_SSL = 80877103


@contextmanager
def pooled(url: str) -> Iterator[str]:
    """The same database by way of the pooler."""
    upstream = urlsplit(url)
    listener = socket.create_server(("127.0.0.1", 0))
    threading.Thread(target=_accept, args=(listener, upstream.port), daemon=True).start()
    try:
        yield url.replace(f":{upstream.port}/", f":{listener.getsockname()[1]}/")
    finally:
        listener.close()


def _accept(listener: socket.socket, port: int) -> None:
    with suppress(OSError):
        while True:
            client, _ = listener.accept()
            threading.Thread(target=_serve, args=(client, port), daemon=True).start()


def _serve(client: socket.socket, port: int) -> None:
    with suppress(OSError), client, socket.create_connection(("127.0.0.1", port)) as server:
        version, words = _startup(client)
        if version == _SSL:
            client.sendall(b"N")
            version, words = _startup(client)
        kept = [pair for pair in zip(words[::2], words[1::2], strict=False) if pair[0] not in {b"", b"options"}]
        body = struct.pack("!i", version) + b"".join(b"%s\0%s\0" % pair for pair in kept) + b"\0"
        server.sendall(struct.pack("!i", len(body) + 4) + body)
        threading.Thread(target=_pump, args=(server, client), daemon=True).start()
        _pump(client, server)


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
