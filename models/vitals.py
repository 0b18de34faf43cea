"""What a process says of itself on `/metrics`: memory, files, lateness of its event loop, pools, doorbell."""

from __future__ import annotations

import asyncio
import time
from importlib.metadata import version
from typing import TYPE_CHECKING

import psutil
import structlog

from models import metrics

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping
    from pathlib import Path

    import asyncpg

    from models.doorbell import Doorbell
    from models.settings import Settings

_LAG_SECONDS = 0.1  # between looks at how late the event loop is
_GAUGES_SECONDS = 1.0
_ASK_SECONDS = 5.0  # between questions to a Redis that refused a ring
_ANSWER_SECONDS = 2.0
_STUCK_SECONDS = 10.0

_log = structlog.get_logger("metrics")


def _share(folder: Path) -> None:
    try:
        metrics.COUNTS.share(folder)
    except OSError as error:  # a number less is no reason to serve nobody
        _log.error("Counts are not shared", action="metrics.alone", folder=str(folder), error=error.strerror)


class Vitals:
    """Keeps the gauges of one process true; counts how late its event loop comes back."""

    def __init__(
        self,
        settings: Settings,
        role: str,
        *,
        pools: Mapping[str, asyncpg.Pool],
        doorbell: Doorbell,
        ping: Callable[[], Awaitable[object]],
        slots: Callable[[], Iterable[tuple[str, int, int]]] = tuple,
    ) -> None:
        """Take what to look at.

        Args:
            settings: tell the revision.
            role: `api` or `worker`.
            pools: of connections to PostgreSQL, by name.
            doorbell: which may have fallen silent.
            ping: asks Redis whether it is there; may raise or return something false.
            slots: returns queue, slots and busy slots of each runner.
        """
        self._role = role
        self._pools = pools
        self._doorbell = doorbell
        self._ping = ping
        self._slots = slots
        self._self = psutil.Process()
        self._turned = time.monotonic()
        self._ask_at = 0.0
        if settings.metrics_dir is not None:
            _share(settings.metrics_dir)
        metrics.BUILD.set(1, version("usher"), settings.revision)

    @property
    def turning(self) -> bool:
        """Whether the event loop turns; may be asked from another thread."""
        return time.monotonic() - self._turned < _STUCK_SECONDS

    async def run(self) -> None:
        """Look until cancelled."""
        loop = asyncio.get_running_loop()
        look_at = 0.0
        while True:
            due = loop.time() + _LAG_SECONDS
            await asyncio.sleep(_LAG_SECONDS)
            metrics.LOOP_LAG.observe(max(loop.time() - due, 0.0), self._role)
            self._turned = time.monotonic()
            if loop.time() >= look_at:
                look_at = loop.time() + _GAUGES_SECONDS
                await self._listen()
                self._look()

    async def _listen(self) -> None:
        """Find out whether Redis is back: a process that has nothing to ring for would not notice."""
        if self._doorbell.silent_seconds and time.monotonic() >= self._ask_at:
            self._ask_at = time.monotonic() + _ASK_SECONDS
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    answered = await self._ping()
            except Exception:  # noqa: BLE001  however it fails, Redis does not answer
                return
            if answered:
                self._doorbell.heard()

    def _look(self) -> None:
        metrics.COUNTS.beat()
        metrics.RELAY_LAG.set(self._doorbell.silent_seconds)
        for name, pool in self._pools.items():
            metrics.DB_POOL_SIZE.set(pool.get_max_size(), name)
            metrics.DB_POOL_IN_USE.set(pool.get_size() - pool.get_idle_size(), name)
        for queue, slots, busy in self._slots():
            metrics.WORKER_SLOTS.set(slots, queue)
            metrics.WORKER_SLOTS_BUSY.set(busy, queue)
        which = (self._role, str(metrics.COUNTS.number))
        with self._self.oneshot():
            metrics.RSS.set(self._self.memory_info().rss, *which)
            times = self._self.cpu_times()
            metrics.CPU.set(times.user + times.system, *which)
            metrics.OPEN_FILES.set(self._self.num_fds(), *which)
            metrics.STARTED_AT.set(self._self.create_time(), *which)

    def close(self) -> None:
        """Leave the folder where processes count together; after everything else has ended."""
        metrics.COUNTS.close()
