"""Ending requests that take too long, without a timer for each: one look a second at those under way."""

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable
    from typing import Any, TypeVar

    Result = TypeVar("Result")

_LOOK_SECONDS = 0.25


class Deadlines:
    """Gives what one process does a number of seconds, to within a quarter of one."""

    def __init__(self, seconds: float) -> None:
        """Take how long each may take."""
        self._seconds = seconds
        self._numbers = count()
        self._running: dict[int, tuple[float, asyncio.Task[Any]]] = {}
        self._late: set[int] = set()
        self._watch: asyncio.Task[None] | None = None

    async def keep(self, work: Awaitable[Result]) -> Result:
        """Return the result of ``work``, which runs in the task that calls.

        Raises:
            TimeoutError: it did not end in time, and was cancelled.
        """
        if self._watch is None or self._watch.done():
            self._watch = asyncio.get_running_loop().create_task(self._look())
        task = asyncio.current_task()
        assert task is not None  # noqa: S101  coroutines run in tasks
        number = next(self._numbers)
        self._running[number] = (time.monotonic() + self._seconds, task)
        try:
            result = await work
        except (Exception, asyncio.CancelledError) as error:
            # What is cancelled may end in an error of its own, such as that of a connection it could not clean up.
            if number not in self._late or (task.uncancel() > 0 and isinstance(error, asyncio.CancelledError)):
                raise
            raise TimeoutError from error
        else:
            if number in self._late:
                task.uncancel()
            return result
        finally:
            self._running.pop(number, None)
            self._late.discard(number)

    async def _look(self) -> None:
        while self._running:
            await asyncio.sleep(_LOOK_SECONDS)
            now = time.monotonic()
            # In the order in which they began, so the first that is in time ends the look.
            for number, (ends_at, task) in list(self._running.items()):
                if ends_at > now:
                    break
                if number not in self._late:
                    self._late.add(number)
                    task.cancel()
