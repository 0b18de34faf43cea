"""Ringing for jobs that a commit has staged: best effort, because the ledger is what remembers them."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from models import metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from uuid import UUID

LONGEST_RING = 1000
"""Most job ids of one ring; the worker looks into the ledger anyway, so further ones need no mention."""

_PAUSE_SECONDS = 0.025
"""Shortest time from one ring to the next: under load it makes many small rings one."""

_log = structlog.get_logger("doorbell")


class Doorbell:
    """Coalesces rings: what is rung for while one ring is on its way goes with the next."""

    def __init__(
        self,
        press: Callable[[str, list[UUID]], Awaitable[None]],
        *,
        unanswered: Callable[[str], None] | None = None,
    ) -> None:
        """Take ``press(queue, ids)``, which may raise, and what to do for a queue when it does."""
        self._press = press
        self._unanswered = unanswered
        self._waiting: dict[str, list[UUID]] = {}
        self._task: asyncio.Task[None] | None = None
        self._silent_since: float | None = None
        self._closing = False

    @property
    def silent_seconds(self) -> float:
        """How long Redis has refused to be rung; 0 if the last ring got through."""
        return 0.0 if self._silent_since is None else time.monotonic() - self._silent_since

    def heard(self) -> None:
        """Take note that Redis answers again, as somebody else found out."""
        if self._silent_since is not None:
            _log.info("The doorbell rings again", action="doorbell.back")
        self._silent_since = None

    def ring(self, queue: str, job_ids: list[UUID]) -> None:
        """Ring for jobs of a queue; returns at once and never raises."""
        waiting = self._waiting.setdefault(queue, [])
        if len(waiting) < LONGEST_RING:
            waiting.extend(job_ids[: LONGEST_RING - len(waiting)])
        if self._task is None or self._task.done():
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        while self._waiting:
            queue, job_ids = next(iter(self._waiting.items()))
            del self._waiting[queue]
            try:
                await self._press(queue, job_ids)
            except Exception as error:  # noqa: BLE001  Redis may be down in any way; the relay rings again
                if self._silent_since is None:
                    self._silent_since = time.monotonic()
                    _log.warning("The doorbell is silent", action="doorbell.silent", error=type(error).__name__)
                if self._unanswered is not None:
                    self._unanswered(queue)
            else:
                metrics.RELAY_ROWS.add(len(job_ids))
                self.heard()
            if not self._closing:
                await asyncio.sleep(_PAUSE_SECONDS)

    async def close(self, seconds: float = 2.0) -> None:
        """Let a ring that is on its way arrive, but wait no longer than ``seconds``."""
        self._closing = True
        if self._task is not None:
            await asyncio.wait([self._task], timeout=seconds)
            self._task.cancel()
