"""Clients that mean harm: what they send, how many of them, and how long each was put up with."""

from __future__ import annotations

import asyncio
import json
import resource
import time
import zlib
from contextlib import suppress
from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from tests.support.api import document
from tests.support.raw import exchange, request_bytes

if TYPE_CHECKING:
    from tests.support.api import Caller

_PATCH: Final = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
_LONGEST_SECONDS: Final = 60.0
_SPARE_FILES: Final = 2_000


async def _open(url: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    parts = urlsplit(url)
    return await asyncio.open_connection(parts.hostname, parts.port)


async def _until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, drip: bytes | None) -> float:
    """Send a byte a second, if that is wanted, until the server hangs up; return the seconds that it took."""
    began = time.monotonic()
    closed = asyncio.create_task(reader.read())
    try:
        while not closed.done() and time.monotonic() - began < _LONGEST_SECONDS:
            await asyncio.wait([closed], timeout=1)
            if drip is not None and not closed.done():
                with suppress(ConnectionError):
                    writer.write(drip)
    finally:
        closed.cancel()
        await asyncio.gather(closed, return_exceptions=True)
        writer.close()
    return time.monotonic() - began


async def drip_heads(url: str, count: int) -> float:
    """Send heads a byte a second over many connections; return how long the last of them lasted."""
    made = [await _open(url) for _ in range(count)]
    for _, writer in made:
        writer.write(b"GET /scim/v2/Users HTTP/1.1\r\nHost: scim.example\r\nX-Note: ")
    return max(await asyncio.gather(*(_until_closed(*one, b"a") for one in made)))


async def stall_bodies(caller: Caller, count: int) -> float:
    """Begin bodies and never end them, half of them with a good token; return how long the last lasted."""
    made = [await _open(caller.scim_url) for _ in range(count)]
    for number, (_, writer) in enumerate(made):
        token = caller.token if number % 2 else "ush_nobody"
        head = f"POST /scim/v2/Users HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {token}\r\n"
        writer.write(f"{head}Content-Type: application/scim+json\r\nContent-Length: 1000\r\n\r\n{{".encode())
    return max(await asyncio.gather(*(_until_closed(*one, b" " if n % 3 else None) for n, one in enumerate(made))))


async def abandon(url: str, count: int) -> float:
    """Open connections, as many as this machine lets us, and say nothing; return how long the last lasted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, count + _SPARE_FILES)), hard))
    left = min(count, resource.getrlimit(resource.RLIMIT_NOFILE)[0] - _SPARE_FILES)
    waiting = []
    for _ in range(left):
        with suppress(ConnectionError):  # of a server that has had enough of us
            waiting.append(asyncio.create_task(_until_closed(*await _open(url), None)))
    return max(await asyncio.gather(*waiting))


async def send_bombs(caller: Caller) -> dict[str, int]:
    """Send what is too large, too deep, too many or packed; return the status of each answer."""
    user = await caller.create(document("victim@contoso.example"))
    operations = [{"op": "add", "path": "title", "value": "x"}] * 10_000
    bearer, kind = (b"Authorization", f"Bearer {caller.token}".encode()), (b"Content-Type", b"application/scim+json")
    packed = zlib.compress(b'{"userName":"' + b"a" * 10_000_000 + b'"}', wbits=31)
    deep = b'{"userName":"x","roles":' + b"[" * 1000 + b"]" * 1000 + b"}"
    patch = json.dumps({"schemas": [_PATCH], "Operations": operations}).encode()
    users, one = b"/scim/v2/Users", f"/scim/v2/Users/{user['id']}".encode()
    bombs = {
        "a body of 3 MB": request_bytes(b"POST", users, [bearer, kind], b" " * 3_000_000),
        "200 headers": request_bytes(b"GET", users, [bearer, *[(b"X-Note", b"a")] * 200]),
        "10 000 operations": request_bytes(b"PATCH", one, [bearer, kind], patch),
        "1 000 levels": request_bytes(b"POST", users, [bearer, kind], deep),
        "a gzip bomb": request_bytes(b"POST", users, [bearer, kind, (b"Content-Encoding", b"gzip")], packed),
        "two lengths": request_bytes(b"POST", users, [bearer, (b"Content-Length", b"5")], b""),
        "a length and chunks": request_bytes(b"POST", users, [bearer, (b"Transfer-Encoding", b"chunked")], b""),
    }
    answers = {}
    for name, bomb in bombs.items():
        answer = await exchange(caller.scim_url, bomb, seconds=_LONGEST_SECONDS)
        answers[name] = 0 if answer is None else answer.status
    return answers
