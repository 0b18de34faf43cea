from __future__ import annotations

import asyncio

from worker.cancel import cancel_all


async def test_a_task_that_swallows_its_cancellation_is_cancelled_again() -> None:
    swallowed = 0

    async def stubborn() -> None:
        nonlocal swallowed
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                swallowed += 1
                if swallowed == 3:
                    raise

    task = asyncio.create_task(stubborn())
    await asyncio.sleep(0)
    async with asyncio.timeout(10):
        await cancel_all([task])
    assert task.cancelled()
    assert swallowed == 3


async def test_nothing_to_cancel_is_fine() -> None:
    await cancel_all([])
