"""Whether the servers behind us answer, for the Overview page: asked in the background, never while a page waits."""

from __future__ import annotations

import asyncio
import ssl
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from aiohttp import web

from api.keys import PAGES_POOL, RING, SETTINGS
from models.jobs import QUEUES

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import asyncpg

    from api.ring import Ring
    from models.settings import Settings

FRESH_SECONDS = 10.0
"""How old an answer may be before the server is asked again."""
_PATIENCE_SECONDS = 5.0
_SMTP_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


PROBES: web.AppKey[Probes] = web.AppKey("probes")


def set_up(app: web.Application) -> None:
    """Give the internal application its probes."""
    app[PROBES] = Probes(app[SETTINGS], app[PAGES_POOL], app[RING])

    async def close(app: web.Application) -> None:
        await app[PROBES].close()

    app.on_cleanup.append(close)


@dataclass(frozen=True, slots=True)
class Probe:
    """What a server answered last."""

    name: str
    ok: bool | None = None
    """None while nobody has asked yet."""
    detail: str = "not asked yet"
    seconds: float | None = None
    """How long the answer took."""

    @property
    def state(self) -> str:
        """`ok`, `trouble` or `unknown`."""
        return "unknown" if self.ok is None else "ok" if self.ok else "trouble"


@dataclass(slots=True)
class Probes:
    """The last answers of PostgreSQL, Redis and the SMTP server."""

    settings: Settings
    pool: asyncpg.Pool
    ring: Ring
    rings: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(QUEUES))
    """By queue, how many rings wait in Redis; None if it does not answer."""
    _found: dict[str, Probe] = field(default_factory=dict)
    _asked: float = -FRESH_SECONDS
    _task: asyncio.Task[None] | None = None

    def latest(self) -> list[Probe]:
        """Return what is known, and ask anew in the background if that is old."""
        if time.monotonic() - self._asked >= FRESH_SECONDS and (self._task is None or self._task.done()):
            self._asked = time.monotonic()
            self._task = asyncio.create_task(self._ask(), name="probes")
        return [self._found.get(name, Probe(name)) for name in ("PostgreSQL", "Redis", "SMTP")]

    async def settled(self, seconds: float) -> list[Probe]:
        """Return the same, waiting at most ``seconds`` for the first answers there are."""
        found = self.latest()
        if self._task is not None and any(probe.ok is None for probe in found):
            await asyncio.wait([self._task], timeout=seconds)
        return self.latest()

    async def close(self) -> None:
        """Stop asking."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _ask(self) -> None:
        await asyncio.gather(
            self._probe("PostgreSQL", self._postgresql),
            self._probe("Redis", self._redis),
            self._probe("SMTP", self._smtp),
        )

    async def _probe(self, name: str, ask: Callable[[], Awaitable[str]]) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(_PATIENCE_SECONDS):
                detail = await ask()
        except TimeoutError:
            self._found[name] = Probe(name, ok=False, detail=f"no answer within {_PATIENCE_SECONDS:g} s")
        except Exception as error:  # noqa: BLE001  however it fails, it does not answer
            self._found[name] = Probe(name, ok=False, detail=f"unreachable ({type(error).__name__})")
        else:
            self._found[name] = Probe(name, ok=True, detail=detail, seconds=time.monotonic() - began)

    async def _postgresql(self) -> str:
        async with self.pool.acquire() as connection:
            version: str = await connection.fetchval("SHOW server_version")
        return f"version {version.split(maxsplit=1)[0]}"

    async def _redis(self) -> str:
        self.rings = dict.fromkeys(QUEUES)
        waiting = {queue: await self.ring.waiting(queue) for queue in QUEUES}
        self.rings.update(waiting)
        return f"rings waiting: {sum(waiting.values())}"

    async def _smtp(self) -> str:
        """Connect and read the greeting (RFC 5321 §3.1); nothing is said that a server would count as a failure."""
        url = urlsplit(self.settings.smtp_url.get_secret_value())
        context = ssl.create_default_context() if url.scheme == "smtps" else None
        reader, writer = await asyncio.open_connection(url.hostname, url.port or _SMTP_PORTS[url.scheme], ssl=context)
        try:
            greeting = await reader.readline()
            with suppress(OSError):
                writer.write(b"QUIT\r\n")
                await writer.drain()
        finally:
            writer.close()
            with suppress(OSError):
                await writer.wait_closed()
        if not greeting.startswith(b"220"):
            raise ConnectionRefusedError
        return "greets"
