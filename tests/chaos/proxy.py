"""A TCP proxy between the engine and one endpoint: slow, cut after so many bytes, refusing, or a black hole."""

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any

_PATIENCE = 10
_CHUNK_BYTES = 1 << 16
_TURNS = 20


class Loop:
    """The event loop that all proxies live in, in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self.servers: set[asyncio.Server] = set()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def do(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Have something done, and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(_PATIENCE)

    def close(self) -> None:
        """End it with whatever it was at."""
        self.do(_end(self.servers))
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Link:
    """The way to one port of this machine; called from any thread."""

    def __init__(self, loop: Loop, upstream: int) -> None:
        self.upstream = upstream
        self.to = upstream
        self.port = 0
        self._loop = loop
        self._seconds = 0.0
        self._cut_after: int | None = None
        self._left = 0
        self._transports: set[asyncio.BaseTransport] = set()
        self._open_flows: set[asyncio.Event] = set()  # one a connection
        loop.do(self._open())

    def slow(self, seconds: float) -> None:
        """Every piece that passes takes so long."""
        self._seconds = seconds

    def cut_after(self, count: int) -> None:
        """Whenever so many bytes have passed, all connections are cut."""
        self._left = self._cut_after = count

    def refuse(self) -> None:
        """Nobody listens any more, and all connections are cut."""
        self._loop.do(self._close())

    def swallow(self) -> None:
        """Whatever is sent arrives nowhere, until healed."""
        self._loop.do(self._stop_the_flow())

    def freeze(self) -> None:
        """Connections that are open now carry nothing more, not even their end, until healed; new ones do."""
        self._loop.do(self._freeze())

    def divert(self, port: int) -> None:
        """New connections lead elsewhere; the old ones are cut."""
        self.to = port
        self.cut()

    def cut(self) -> None:
        """Cut all connections."""
        self._loop.do(self._abort())

    def heal(self, *, cut: bool = False) -> None:
        """As it was; what was swallowed arrives now, unless it is `cut`."""
        self._seconds, self._cut_after = 0.0, None
        if cut or self.to != self.upstream:
            self.divert(self.upstream)
        self._loop.do(self._open())

    async def _open(self) -> None:
        if not self.port or not self._server.is_serving():
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
            self._loop.servers.add(self._server)
            self.port = self._server.sockets[0].getsockname()[1]
            self._flow = getattr(self, "_flow", None) or asyncio.Event()
        self._flow.set()
        for flow in self._open_flows:
            flow.set()

    async def _close(self) -> None:
        await _stop(self._server)
        await self._abort()

    async def _abort(self) -> None:
        for transport in self._transports:
            transport.abort()  # type: ignore[attr-defined]

    async def _stop_the_flow(self) -> None:
        self._flow.clear()

    async def _freeze(self) -> None:
        for flow in self._open_flows:
            flow.clear()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        both, flow = {writer.transport}, asyncio.Event()
        flow.set()
        try:
            there, back = await asyncio.open_connection("127.0.0.1", self.to)
            both.add(back.transport)
            self._transports |= both
            self._open_flows.add(flow)
            await asyncio.gather(self._pump(reader, back, flow), self._pump(there, writer, flow))
        except OSError:
            pass
        finally:
            for transport in both:
                transport.abort()
            self._transports -= both
            self._open_flows.discard(flow)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, flow: asyncio.Event) -> None:
        while part := await reader.read(_CHUNK_BYTES):
            await self._flow.wait()
            await flow.wait()
            await asyncio.sleep(self._seconds)
            if self._cut_after is not None and self._is_over(len(part)):
                await self._abort()
            writer.write(part)
            await writer.drain()
        await flow.wait()
        if writer.can_write_eof():
            writer.write_eof()

    def _is_over(self, count: int) -> bool:
        self._left -= count
        if self._left >= 0:
            return False
        self._left = self._cut_after or 0
        return True


async def _end(servers: set[asyncio.Server]) -> None:
    """Accept no more connections, end those that are open, and wait until their sockets are closed."""
    for server in servers:
        await _stop(server)
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await _settle()


async def _stop(server: asyncio.Server) -> None:
    """Close a server. A connection that is being accepted as asyncio closes its server is never closed, so it waits."""
    for listening in server.sockets:
        asyncio.get_running_loop().remove_reader(listening.fileno())
    await _settle()
    server.close()


async def _settle() -> None:
    """Let the loop do what is ready, and what follows from that: accepting and closing take a few turns each."""
    for _ in range(_TURNS):
        await asyncio.sleep(0)
