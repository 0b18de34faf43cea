"""A TCP proxy that misbehaves on demand: what stands between a process and a server when the network is at fault.

    pass        bytes go through
    refuse      nobody listens; what was connected is reset
    reset       whoever connects is reset at once, and what was connected too
    blackhole   connections are taken and stay open, and nothing comes through until it is over
    latency     every piece arrives so much later
    throttle    no more than so many bytes a second, in each direction of each connection
    cut         a connection is reset once so many bytes have gone through it
    strand      what was connected is never heard of again, and stays open; whoever connects is served
    swallow     what matches a pattern goes to the server, whose answer never comes back: the connection is reset

A fault changes what is connected already, and can be changed for another at any moment.
"""

from __future__ import annotations

import asyncio
import re
import socket
import struct
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final, Self

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from types import TracebackType

_PIECE: Final = 64 * 1024
_OVERLAP: Final = 4096
"""Bytes of what went before that a pattern may begin in."""
_SLICE_SECONDS: Final = 0.02
_LINGER: Final = struct.pack("ii", 1, 0)  # close with a RST
READY_FOR_QUERY: Final = re.compile(rb"Z\x00\x00\x00\x05[ITE]\Z")
"""The end of PostgreSQL's answer to a statement (protocol 3.0, ReadyForQuery)."""


@dataclass(frozen=True)
class Swallow:
    """Which requests are to have their answers lost."""

    pattern: re.Pattern[bytes]
    chance: float
    dice: Random
    answered: re.Pattern[bytes] | None
    """What an answer ends with; None takes the first bytes that come for all of it."""


@dataclass(frozen=True)
class Fault:
    """What is wrong."""

    kind: str = "pass"
    seconds: float = 0.0
    bytes: int = 0
    swallow: Swallow | None = None


@dataclass(eq=False)
class _Link:
    """A connection through the proxy."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    carried: int = 0
    """Bytes since the fault was last changed."""
    before: bytes = b""
    """The end of what the client sent, for patterns that straddle two pieces."""
    swallowing: bool = False
    lost: bytes = b""
    """The end of the answer that is being swallowed."""
    stranded: bool = False
    """Whether nothing passes any more, as when a firewall has forgotten the connection."""
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    def reset(self) -> None:
        for writer in (self.client, self.server):
            _reset(writer)
        for task in self.tasks:
            task.cancel()


def _reset(writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    writer.transport.abort()


class Proxy:
    """Listens on a port of its own and passes on to a server, as well as the fault of the moment lets it."""

    def __init__(self, host: str, port: int) -> None:
        """Take where the server listens."""
        self._upstream = (host, port)
        self._fault = Fault()
        self._open = asyncio.Event()
        self._open.set()
        self._links: set[_Link] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.taken = 0
        """How many connections it has taken."""
        self.swallowed = 0
        """How many answers it has swallowed."""

    async def __aenter__(self) -> Self:
        """Listen."""
        self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of everything."""
        self._close()
        tasks = list(self._tasks)
        for link in list(self._links):
            link.reset()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    @property
    def connected(self) -> int:
        """How many connections there are through it."""
        return len(self._links)

    # What is wrong

    def heal(self) -> None:
        """Pass everything from now on, also what a blackhole has kept."""
        self._change(Fault())

    def refuse(self) -> None:
        """Have nobody listen, as when the server's process is gone."""
        self._change(Fault("refuse"))

    def reset(self) -> None:
        """Reset what is connected, and whoever connects."""
        self._change(Fault("reset"))

    def blackhole(self) -> None:
        """Keep every connection and pass nothing on, as when packets are dropped."""
        self._change(Fault("blackhole"))

    def strand(self) -> None:
        """Heal, but have what is connected now be half-open for ever."""
        for link in self._links:
            link.stranded = True
        self._change(Fault())

    def delay(self, seconds: float) -> None:
        """Have every piece arrive later."""
        self._change(Fault("latency", seconds=seconds))

    def throttle(self, bytes_a_second: int) -> None:
        """Pass no more than so much."""
        self._change(Fault("throttle", bytes=bytes_a_second))

    def cut_after(self, count: int) -> None:
        """Reset a connection once so many bytes more have gone through it, in both directions together."""
        self._change(Fault("cut", bytes=count))

    def swallow_reply_after(
        self,
        pattern: bytes,
        *,
        chance: float = 1.0,
        dice: Random | None = None,
        answered: re.Pattern[bytes] | None = None,
    ) -> None:
        """Pass on what matches, wait for the answer, and reset the connection instead of giving it back.

        Args:
            pattern: a regular expression over what clients send.
            chance: how many of the matches, from 0 to 1.
            dice: which of them.
            answered: what the end of an answer matches, such as `READY_FOR_QUERY`.
        """
        swallow = Swallow(re.compile(pattern), chance, dice or Random(0), answered)  # noqa: S311  a plan that comes back
        self._change(Fault("swallow", swallow=swallow))

    def _change(self, fault: Fault) -> None:
        self._fault = fault
        if fault.kind == "refuse":
            self._close()
        elif self._listener is None:
            self._listen()
        if fault.kind in ("refuse", "reset"):
            for link in list(self._links):
                link.reset()
        for link in self._links:
            link.carried = 0
        if fault.kind == "blackhole":
            self._open.clear()
        else:
            self._open.set()

    # Listening

    def _listen(self) -> None:
        listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self.port))  # the same again after a time in which nobody listened
        listener.listen(1024)
        listener.setblocking(False)
        self.port = listener.getsockname()[1]
        self._listener = listener
        asyncio.get_running_loop().add_reader(listener, self._take, listener)

    def _close(self) -> None:
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    def _go(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _take(self, listener: socket.socket) -> None:
        with suppress(BlockingIOError, ConnectionAbortedError):
            client, _ = listener.accept()
            client.setblocking(False)
            self.taken += 1
            self._go(self._carry(client))

    async def _carry(self, client: socket.socket) -> None:
        if self._fault.kind == "reset":
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
            client.close()
            return
        reader, writer = await asyncio.open_connection(sock=client, limit=_PIECE)
        try:
            await self._open.wait()
            server_reader, server_writer = await asyncio.open_connection(*self._upstream, limit=_PIECE)
        except OSError:
            _reset(writer)
            return
        link = _Link(writer, server_writer)
        self._links.add(link)
        link.tasks = [
            self._go(self._pump(link, reader, server_writer, from_client=True)),
            self._go(self._pump(link, server_reader, writer, from_client=False)),
        ]
        try:
            await asyncio.wait(link.tasks)
        finally:
            self._links.discard(link)
            for each in (writer, server_writer):
                each.close()

    async def _pump(
        self, link: _Link, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, from_client: bool
    ) -> None:
        """Carry one direction to its end; an error in it is the end of both."""
        try:
            while piece := await reader.read(_PIECE):
                await self._open.wait()
                if link.stranded:
                    continue
                if not await self._pass(link, piece, writer, from_client=from_client):
                    link.reset()
                    return
            await self._open.wait()
            if not link.stranded:
                writer.write_eof()
        except OSError:
            link.reset()

    async def _pass(self, link: _Link, piece: bytes, writer: asyncio.StreamWriter, *, from_client: bool) -> bool:
        """Pass a piece on as the fault of the moment has it; tell whether the connection is to go on."""
        fault = self._fault
        if fault.kind == "latency":
            await asyncio.sleep(fault.seconds)
        elif fault.kind == "throttle":
            await self._trickle(fault, piece, writer)
            return True
        elif fault.kind == "cut":
            piece, cut = piece[: fault.bytes - link.carried], link.carried + len(piece) >= fault.bytes
            link.carried += len(piece)
            writer.write(piece)
            await writer.drain()
            return not cut
        elif link.swallowing and not from_client:
            link.lost = (link.lost + piece)[-_OVERLAP:]
            answered = fault.swallow.answered if fault.swallow else None
            if answered is None or answered.search(link.lost):
                self.swallowed += 1
                return False
            return True
        elif fault.swallow is not None and from_client:
            self._watch(link, piece, fault.swallow)
        writer.write(piece)
        await writer.drain()
        return True

    @staticmethod
    def _watch(link: _Link, piece: bytes, swallow: Swallow) -> None:
        """Note whether what the client sends now is to have its answer swallowed."""
        text = link.before + piece
        found = any(match.end() > len(link.before) for match in swallow.pattern.finditer(text))
        link.before = text[-_OVERLAP:]
        if found and swallow.dice.random() < swallow.chance:
            link.swallowing, link.before = True, b""

    async def _trickle(self, fault: Fault, piece: bytes, writer: asyncio.StreamWriter) -> None:
        """Pass a piece on bit by bit; the rest of it at once when the fault is over."""
        size = max(1, int(fault.bytes * _SLICE_SECONDS))
        for start in range(0, len(piece), size):
            writer.write(piece[start : start + size])
            await writer.drain()
            if self._fault is fault:
                await asyncio.sleep(_SLICE_SECONDS)
