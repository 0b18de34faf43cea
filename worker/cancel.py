"""Cancelling tasks that may not notice the first time, and tidying up that a cancellation does not interrupt."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

_PAUSE_SECONDS = 0.2


async def cancel_all(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks until every one has ended.

    Once is not enough for a task inside `asyncio.wait_for`, as redis-py's sending is: in Python 3.11 it swallows a
    cancellation that arrives together with the result it waits for, and arq's loop would go on for ever.
    """
    pending = {task for task in tasks if not task.done()}
    while pending:
        for task in pending:
            task.cancel()
        _, pending = await asyncio.wait(pending, timeout=_PAUSE_SECONDS)


async def carry_through(work: Coroutine[Any, Any, None]) -> None:
    """Do work to its end, however often the task that waits for it is cancelled meanwhile.

    Raises:
        asyncio.CancelledError: the task was cancelled; the work is done.
    """
    task = asyncio.create_task(work)
    cancelled: asyncio.CancelledError | None = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled
    task.result()
