"""An HTTP proxy that a rule sits in: it sees each request, and may answer itself, change the answer, or cut it."""

import http.client
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from tests.chaos.guarded import Guarded

_NOT_PASSED_ON = {"expect", "connection", "transfer-encoding", "content-length", "keep-alive"}


@dataclass(frozen=True)
class Request:
    """As it came; `path` is percent-encoded and has the query."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes


@dataclass(frozen=True)
class Answer:
    """`length` is what the header says; of the body, `cut` bytes are sent before the connection breaks."""

    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()
    length: int | None = None
    cut: int | None = None


Forward = Callable[[Request], Answer]
Rule = Callable[[Request, Forward], Answer]


class Interposer:
    """Serves until closed; `rule` may be changed at any time."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.rule: Rule = passed_on
        self.alone = threading.Lock()  # one rule at a time
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self.port = self._server.server_address[1]
        self._thread = Guarded(lambda: self._server.serve_forever(0.05))
        self._thread.start()

    def forward(self, request: Request) -> Answer:
        """What the server itself answers. Raises OSError, http.client.HTTPException."""
        connection = http.client.HTTPConnection("127.0.0.1", self.upstream, timeout=30)
        try:
            connection.putrequest(request.method, request.path, skip_host=True, skip_accept_encoding=True)
            for name, value in request.headers:
                if name.lower() not in _NOT_PASSED_ON:
                    connection.putheader(name, value)
            if request.body or request.method in {"PUT", "POST"}:
                connection.putheader("Content-Length", str(len(request.body)))
            connection.endheaders(request.body or None)
            found = connection.getresponse()
            headers = tuple((name, value) for name, value in found.getheaders() if name.lower() not in _NOT_PASSED_ON)
            answer = Answer(found.status, found.read(), headers)
            said = found.getheader("Content-Length")
            return replace(answer, length=int(said)) if request.method == "HEAD" and said else answer
        finally:
            connection.close()

    def close(self) -> None:
        """Serve no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.check()


class _Server(ThreadingHTTPServer):
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """Connections are cut here all the time."""


def passed_on(request: Request, forward: Forward) -> Answer:
    """No fault."""
    return forward(request)


def _handler(interposer: Interposer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            request = Request(self.command, self.path, tuple(self.headers.items()), body)
            try:
                self._answer(interposer.rule(request, interposer.forward))
            except (OSError, http.client.HTTPException):
                self.close_connection = True

        def _answer(self, answer: Answer) -> None:
            self.send_response_only(answer.status)
            for name, value in answer.headers:
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(answer.body) if answer.length is None else answer.length))
            self.end_headers()
            self.wfile.write(answer.body[: answer.cut])
            self.close_connection = self.close_connection or answer.cut is not None

        def log_message(self, *_: object) -> None:
            return None

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass  # noqa: N815

    return Handler
