"""Whether this process takes jobs, as operators tell it on the Workers page."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from worker.settings import answer_rings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from models.settings import Settings
    from worker.runner import Runner

_log = structlog.get_logger("worker")


class Duty:
    """Lets a worker rest: it claims nothing and leaves the rings in Redis to others, until it is told otherwise."""

    def __init__(self, settings: Settings, runners: Mapping[str, Runner]) -> None:
        """Take the runners by queue."""
        self._settings = settings
        self._runners = runners
        self._working = asyncio.Event()
        self._working.set()
        self._resting = asyncio.Event()

    def told(self, quiet: bool) -> None:
        """Rest or work on, as the row of this process says; what is in hand is finished in any case."""
        if quiet == self._resting.is_set():
            return
        _log.info("Taking no more jobs" if quiet else "Taking jobs again", action="worker.quiet", quiet=quiet)
        for runner in self._runners.values():
            runner.rest(resting=quiet)
        if quiet:
            self._working.clear()
            self._resting.set()
        else:
            self._resting.clear()
            self._working.set()

    async def listen(self, queue: str) -> None:
        """Answer the rings of a queue while on duty, until cancelled."""
        while True:
            await self._working.wait()
            tasks: list[asyncio.Task[object]] = [
                asyncio.create_task(answer_rings(self._settings, queue, self._runners[queue].answer)),
                asyncio.create_task(self._resting.wait()),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                if tasks[0].done():
                    tasks[0].result()
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
