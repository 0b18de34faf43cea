"""HTTP by hand: bytes as a test wants them, and whatever comes back."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit


@dataclass(frozen=True)
class RawAnswer:
    """The first answer on a connection."""

    status: int
    headers: dict[str, str]
    """By lower-case name."""
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


async def exchange(base_url: str, request: bytes, *, half_close: bool = False, seconds: float = 10) -> RawAnswer | None:
    """Send bytes over a connection of their own, read until the server closes it, and return the first answer.

    Args:
        base_url: names host and port.
        request: should ask for `Connection: close`.
        half_close: whether to say that nothing more will come.
        seconds: longest time for all of it.

    Returns:
        The first answer that is not interim; None if the server hung up without one.

    Raises:
        TimeoutError: the server neither answered nor hung up.
    """
    return _first_answer(await everything(base_url, request, half_close=half_close, seconds=seconds))


async def everything(base_url: str, request: bytes, *, half_close: bool = False, seconds: float = 10) -> bytes:
    """Do the same, and return all that came back."""
    parts = urlsplit(base_url)
    async with asyncio.timeout(seconds):
        reader, writer = await asyncio.open_connection(parts.hostname, parts.port)
        received = b""
        try:
            # A server that refuses may hang up before it has read everything; its answer is what counts.
            with suppress(ConnectionError):
                writer.write(request)
                await writer.drain()
                if half_close:
                    writer.write_eof()
            with suppress(ConnectionError):
                while part := await reader.read(65_536):
                    received += part
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
    return received


def _first_answer(received: bytes) -> RawAnswer | None:
    while received:
        head, _, rest = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        status = int(status_line.split(" ", 2)[1])
        if status < 200:
            received = rest
            continue
        pairs = (line.partition(":") for line in lines)
        headers = {name.lower(): value.strip() for name, _, value in pairs}
        length = int(headers.get("content-length", len(rest)))
        assert len(rest) >= length, "the answer was cut off"
        return RawAnswer(status, headers, rest[:length])
    return None


def request_bytes(method: bytes, target: bytes, headers: list[tuple[bytes, bytes]], body: bytes | None = None) -> bytes:
    """Return a request, framed as HTTP/1.1 wants it, whatever its parts hold."""
    lines = [method + b" " + target + b" HTTP/1.1", b"Host: scim.example", b"Connection: close"]
    lines += [name + b": " + value for name, value in headers]
    if body is not None:
        lines.append(b"Content-Length: %d" % len(body))
    return b"\r\n".join(lines) + b"\r\n\r\n" + (body or b"")
