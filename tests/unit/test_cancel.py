from __future__ import annotations

import asyncio

import pytest

from worker.cancel import cancel_all, carry_through


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


async def test_what_is_carried_through_ends_although_its_waiter_is_cancelled_again_and_again() -> None:
    may_end, ended = asyncio.Event(), []

    async def tidy() -> None:
        await may_end.wait()
        ended.append(True)

    waiter = asyncio.create_task(carry_through(tidy()))
    for _ in range(3):
        await asyncio.sleep(0)
        waiter.cancel()
    await asyncio.sleep(0)
    assert not waiter.done()
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert ended == [True]


async def test_what_is_carried_through_tells_of_its_failure() -> None:
    async def fail() -> None:
        raise OSError("away")

    with pytest.raises(OSError, match="away"):
        await carry_through(fail())
