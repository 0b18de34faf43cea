"""Audit events of refused requests, written beside the request so that refusing stays cheap."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

import structlog

from models.audit.record import Event, record

if TYPE_CHECKING:
    import asyncpg

_MOST_WAITING = 1000
_PAUSE_SECONDS = 0.25

_log = structlog.get_logger("denials")


class Denials:
    """Collects refusals and writes them a few times a second; under a flood it keeps a sample and counts the rest."""

    def __init__(self, pool: asyncpg.Pool) -> None:
        self._pool = pool
        self._waiting: list[Event] = []
        self._dropped = 0
        self._task: asyncio.Task[None] | None = None
        self._closing = asyncio.Event()

    def add(self, event: Event) -> None:
        """Have ``event`` recorded soon; returns at once."""
        if len(self._waiting) >= _MOST_WAITING:
            self._dropped += 1
            return
        self._waiting.append(event)
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            with suppress(TimeoutError):
                async with asyncio.timeout(_PAUSE_SECONDS):
                    await self._closing.wait()
            await self._write()

    async def _write(self) -> None:
        events, self._waiting = self._waiting, []
        dropped, self._dropped = self._dropped, 0
        try:
            async with self._pool.acquire() as connection:
                await record(connection, events)
        except Exception:  # noqa: BLE001  a refusal that cannot be recorded is still a refusal
            _log.exception("Refusals were not recorded", action="denials.lost", lost=len(events) + dropped)
        else:
            if dropped:
                _log.warning("Too many refusals to record each", action="denials.sampled", lost=dropped)

    async def close(self) -> None:
        """Write what waits."""
        self._closing.set()
        if self._task is not None:
            await self._task  # cancelled in the middle of writing, it would lose what it has in hand
