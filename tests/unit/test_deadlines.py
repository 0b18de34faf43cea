"""Deadlines: what takes too long ends, what does not is left alone, and whoever cancels is heard."""

from __future__ import annotations

import asyncio

import pytest

from api.deadlines import Deadlines


async def _give(value: int) -> int:
    await asyncio.sleep(0)
    return value


async def test_what_is_in_time_is_returned() -> None:
    deadlines = Deadlines(30)
    assert await asyncio.gather(*(deadlines.keep(_give(n)) for n in range(50))) == list(range(50))
    assert not deadlines._running


async def test_an_error_is_passed_on() -> None:
    async def fail() -> None:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await Deadlines(30).keep(fail())


async def test_what_takes_too_long_is_ended_and_its_task_goes_on() -> None:
    ended = asyncio.Event()

    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    deadlines = Deadlines(0.01)
    with pytest.raises(TimeoutError):
        await deadlines.keep(wait())
    assert ended.is_set()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    assert await deadlines.keep(_give(3)) == 3  # and the next is measured anew


async def test_what_cannot_even_end_in_order_is_late_all_the_same() -> None:
    async def wait() -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            raise ConnectionError("it cannot be cleaned up") from None

    async def finish_late() -> int:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return 3
        return 0

    deadlines = Deadlines(0.01)
    with pytest.raises(TimeoutError):
        await deadlines.keep(wait())
    assert await deadlines.keep(finish_late()) == 3
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    with pytest.raises(TimeoutError):  # and those that follow in the same task are measured as ever
        await deadlines.keep(wait())


async def test_one_that_is_late_does_not_end_the_others() -> None:
    deadlines = Deadlines(0.3)
    late = asyncio.create_task(deadlines.keep(asyncio.Event().wait()))
    await asyncio.sleep(0)
    with pytest.raises(TimeoutError):
        await late
    assert await deadlines.keep(_give(1)) == 1


async def test_a_cancellation_from_outside_stays_one() -> None:
    task = asyncio.create_task(Deadlines(30).keep(asyncio.Event().wait()))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
