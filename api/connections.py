"""What a connection may cost before it has told who it is: time, memory and a place among the others.

aiohttp bounds the size of a line and of a header, and how long a connection is idle. This adds what it leaves open:
heads and bodies that drip, answers that nobody fetches, the number of connections. A look once a second ends what is
overdue, so no connection needs timers of its own; a request in time pays for two comparisons.

It stands on aiohttp's `RequestHandler` and reads what that keeps: which messages wait, and what is under way.
"""

from __future__ import annotations

import asyncio
import resource
from collections import Counter
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, cast

import orjson
import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError, LineTooLong

from api.headers import HEADERS
from api.keys import LISTENER, STRAIGHT
from api.peers import Peers
from models import metrics
from models.errors import ERROR_SCHEMA

if TYPE_CHECKING:
    from aiohttp.web_request import BaseRequest

    from models.settings import Settings

LARGEST_HEAD = 96 * 1024
"""Bytes of a request line and its headers, while they arrive; whole ones are as large as one read, 256 KiB."""
STALL_SECONDS = 20.0
LEAST_BYTES = 16 * 1024
"""So much of an answer that waits for its client has to go out in that time."""
_LEAST_PLACES = 16
_OTHER_FILES = 256
"""Of what a process may have open, so much is left to what is not a client; two listeners share the rest."""
_LOOK_SECONDS = 1.0
_MOST_TURNED_AWAY = 100
"""Of those that are told so at the same time; the others are cut off."""
_GRACE_SECONDS = 5.0
"""For what answers 408 itself."""
_TELL_SECONDS = 60.0
REASONS = ("crowded", "large_head", "malformed", "refused", "slow_body", "slow_head", "slow_reader")
_TOO_MANY_HEADERS = "Too many headers received"
_DETAILS = {
    400: "The request is not HTTP/1.1 as RFC 9112 has it.",
    408: "The head of the request did not arrive in time.",
    414: "The address of the request is too long.",
    431: "The headers of the request are too large, or too many.",
    500: "Something unexpected went wrong.",
    503: "There are too many connections; please try again.",
    504: "The answer was not ready in time.",
}
_log = structlog.get_logger("connections")


class Connection(web.RequestHandler):
    """One connection of a client."""

    __slots__ = ("_asked", "_asked_at", "_listener", "head_at", "head_bytes", "known", "made_at", "stall")

    def __init__(self, listener: Listener, **options: Any) -> None:
        super().__init__(listener, **options)
        self._listener = listener
        self.made_at = self.head_at = self._asked_at = 0.0
        self.head_bytes = 0
        self.known = False
        """Whether a good token came over it; it is the last to go when places are short."""
        self.stall: tuple[float, int] | None = None
        """Since when its client has taken nothing, and how many bytes wait for it."""
        self._asked: BaseRequest | None = None

    @property
    def idle(self) -> bool:
        """Whether no request is under way, and none is whole."""
        return self._waiter is not None and not self._messages

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take a place, or be turned away."""
        self.made_at = self._loop.time()
        if self._listener.admit(transport):
            super().connection_made(transport)
        else:
            self._listener.turn_away(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        """Read on, and note when a head begins that is not whole yet."""
        super().data_received(data)
        if self._messages:
            self.head_at = 0.0
        elif self._waiter is not None and not (self._close or self._force_close):
            if self.head_at == 0.0:
                self.head_at, self.head_bytes = self._loop.time(), 0
            self.head_bytes += len(data)
            if self.head_bytes > LARGEST_HEAD:
                self.end("large_head", 431)

    def resume_reading(self, resume_parser: bool = True) -> None:
        """Read on if reading was paused; a body that is taken asks for it in any case, at 8 µs each time."""
        if self._reading_paused:
            super().resume_reading(resume_parser)

    def pause_writing(self) -> None:
        """Note since when the client takes less than there is for it."""
        super().pause_writing()
        transport = self.transport
        self.stall = (self._loop.time(), 0 if transport is None else transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        """Note that it has caught up."""
        super().resume_writing()
        self.stall = None

    def end(self, reason: str, status: int | None = None) -> None:
        """Close, with an answer if a request has begun and none to it."""
        self._listener.count(reason)
        if status is not None and self.transport is not None:
            self.transport.write(self._listener.answer(status))
        self.force_close()

    def look(self, now: float, transport: asyncio.Transport) -> None:
        """End what is overdue."""
        if transport.is_closing() or self.stall is not None:
            self._look_at_reader(now, transport)
        elif self.idle:
            since = self.head_at or (self.made_at if self._request_count == 0 else now)
            if now - since > self._listener.head_seconds:
                self.end("slow_head", 408 if self.head_at else None)
        elif (request := self._current_request) is None or request.content.is_eof():
            self._asked = None
        elif self._asked is not request:
            self._asked, self._asked_at = request, now
        elif now - self._asked_at > self._listener.body_seconds + _GRACE_SECONDS:
            self._listener.count("slow_body")
            transport.abort()

    def _look_at_reader(self, now: float, transport: asyncio.Transport) -> None:
        left = transport.get_write_buffer_size()
        since, waiting = self.stall or (now, left)
        if now - since <= STALL_SECONDS:
            self.stall = (since, waiting)
        elif left > waiting - LEAST_BYTES:
            self._listener.count("slow_reader")
            transport.abort()
        else:
            self.stall = (now, left)

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002  it may quote the request
    ) -> web.StreamResponse:
        """Answer what no handler answers; of a request that cannot be read nothing is logged, there may be secrets."""
        if isinstance(exc, HttpProcessingError):
            self._listener.count("malformed")
            if isinstance(exc, LineTooLong):
                status = 414 if exc.args[1] == self.max_line_size else 431
            elif exc.message == _TOO_MANY_HEADERS:
                status = 431
        elif exc is not None:
            _log.error("A request failed", action="http.fault", exc_info=exc)
        if request.writer.output_size > 0:
            raise ConnectionError
        response = web.Response(
            status=status,
            body=self._listener.body(status),
            headers={**HEADERS, "Content-Type": self._listener.media_type},
        )
        response.force_close()
        return response


class Listener(web.Server):
    """The connections of one listener."""

    def __init__(self, made: web.Server, app: web.Application, settings: Settings) -> None:
        """Take what aiohttp made for the application, to serve it with our own connections."""
        handler = app[STRAIGHT](made.request_handler) if STRAIGHT in app else made.request_handler
        super().__init__(handler, request_factory=made.request_factory, **made._kwargs)  # noqa: SLF001
        self.name = app[LISTENER]
        self.media_type = "application/scim+json" if self.name == "public" else "text/plain; charset=utf-8"
        self.head_seconds = settings.head_seconds
        self.body_seconds = settings.body_seconds
        files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._most = min(settings.max_connections, max(_LEAST_PLACES, (files - _OTHER_FILES) // 2))
        self._most_of_peer = settings.peer_connections
        self._peers = Peers(settings)
        self._of_peer: Counter[str] = Counter()
        self._ended: Counter[str] = Counter()
        for reason in REASONS:
            metrics.CONNECTIONS_ENDED.add(0, self.name, reason)  # a rate needs a beginning
        self._told_at = 0.0
        self._turned_away = 0
        self._looking: asyncio.Task[None] | None = None

    def __call__(self) -> web.RequestHandler:
        """Make a connection; the event loop calls it."""
        return Connection(self, loop=self._loop, **self._kwargs)

    def admit(self, transport: asyncio.BaseTransport) -> bool:
        """Tell whether there is a place for another connection; if need be an idle one makes room."""
        peer = _peer(transport)
        if self._of_peer[peer] >= self._most_of_peer and not self._peers.trusts(peer) and not self._make_room(peer):
            return False
        return len(self._connections) < self._most or self._make_room(None)

    def _make_room(self, peer: str | None) -> bool:
        """End the oldest idle connection (of a peer), rather one that no good token came over."""
        for known in (False, True):
            for connection, transport in self._connections.items():
                if (
                    isinstance(connection, Connection)
                    and connection.known is known
                    and connection.idle
                    and not transport.is_closing()
                    and (peer is None or _peer(transport) == peer)
                ):
                    connection.end("crowded")
                    return True
        self.count("refused")
        return False

    def turn_away(self, transport: asyncio.Transport) -> None:
        """Tell a client that there is no place, and have the answer reach it: hanging up on what it sends would not."""
        if self._turned_away >= _MOST_TURNED_AWAY:
            transport.abort()
            return
        self._turned_away += 1
        transport.set_protocol(asyncio.Protocol())  # which takes no notice of anything
        transport.write(self.answer(503))
        transport.write_eof()
        self._loop.call_later(_LOOK_SECONDS, self._let_go, transport)

    def _let_go(self, transport: asyncio.Transport) -> None:
        self._turned_away -= 1
        transport.abort()

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        """Count a connection."""
        super().connection_made(handler, transport)
        self._of_peer[_peer(transport)] += 1
        if self._looking is None:
            self._looking = self._loop.create_task(self._look())

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        """Count it no more."""
        transport = self._connections.get(handler)
        if transport is not None:
            peer = _peer(transport)
            self._of_peer[peer] -= 1
            if not self._of_peer[peer]:
                del self._of_peer[peer]
        super().connection_lost(handler, exc)

    def count(self, reason: str) -> None:
        """Count a connection that was ended, or turned away."""
        metrics.CONNECTIONS_ENDED.add(1, self.name, reason)
        self._ended[reason] += 1

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            now = self._loop.time()
            metrics.CONNECTIONS.set(len(self._connections), self.name)
            for connection, transport in list(self._connections.items()):
                if isinstance(connection, Connection):
                    connection.look(now, transport)
            if self._ended and now - self._told_at > _TELL_SECONDS:
                _log.warning(
                    "Connections were ended", action="connections.ended", listener=self.name, reasons=dict(self._ended)
                )
                self._ended.clear()
                self._told_at = now

    def body(self, status: int) -> bytes:
        """Return the body of an answer that no handler gave."""
        detail = _DETAILS[status]
        if self.name != "public":
            return f"{detail}\n".encode()
        return orjson.dumps({"schemas": [ERROR_SCHEMA], "status": str(status), "detail": detail})

    def answer(self, status: int) -> bytes:
        """Return a whole answer, for a client whose request there is none of."""
        body = self.body(status)
        head = {**HEADERS, "Content-Type": self.media_type, "Content-Length": str(len(body)), "Connection": "close"}
        if status == 503:
            head["Retry-After"] = "5"
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}", *(f"{name}: {text}" for name, text in head.items())]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body

    async def shutdown(self, timeout: float | None = None) -> None:  # noqa: ASYNC109  aiohttp calls it so
        """Stop looking, and close every connection."""
        if self._looking is not None:
            self._looking.cancel()
            self._looking = None
        await super().shutdown(timeout)


class Runner(web.AppRunner):
    """Serves an application with our connections."""

    def __init__(self, app: web.Application, settings: Settings, **options: Any) -> None:
        super().__init__(app, **options)
        self._settings = settings

    async def _make_server(self) -> web.Server:
        return Listener(await super()._make_server(), self.app, self._settings)


def _peer(transport: asyncio.BaseTransport) -> str:
    name = transport.get_extra_info("peername")
    return str(name[0]) if isinstance(name, tuple) else ""


def allow_open_files(settings: Settings) -> None:
    """Raise the number of files that this process may have open to what its connections need, if that is allowed."""
    wanted = 2 * settings.max_connections + _OTHER_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if 0 <= soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted if hard < 0 else min(wanted, hard), hard))
