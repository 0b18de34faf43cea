from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from models.batch import Batcher

if TYPE_CHECKING:
    from collections.abc import Sequence


class Store:
    """Records flushes, and holds them until the test lets them go."""

    def __init__(self) -> None:
        self.batches: list[list[int]] = []
        self.gate = asyncio.Event()
        self.begun = asyncio.Event()
        self.poison: int | None = None

    async def flush(self, items: Sequence[int]) -> list[int]:
        self.batches.append(list(items))
        self.begun.set()
        await self.gate.wait()
        if self.poison in items:
            raise ValueError("poison")
        return [item * 10 for item in items]


async def test_a_lone_item_is_flushed_at_once() -> None:
    store = Store()
    store.gate.set()
    assert await Batcher(store.flush, limit=10).submit(4) == 40
    assert store.batches == [[4]]


async def test_what_arrives_during_a_flush_goes_with_the_next() -> None:
    store = Store()
    batcher = Batcher(store.flush, limit=10)
    first = asyncio.create_task(batcher.submit(1))
    await store.begun.wait()
    others = [asyncio.create_task(batcher.submit(number)) for number in (2, 3, 4)]
    while len(batcher) < 3:
        await asyncio.sleep(0)
    store.gate.set()
    assert await asyncio.gather(first, *others) == [10, 20, 30, 40]
    assert store.batches == [[1], [2, 3, 4]]


async def test_no_flush_is_larger_than_the_limit() -> None:
    store = Store()
    store.gate.set()
    batcher = Batcher(store.flush, limit=3)
    results = await asyncio.gather(*(batcher.submit(number) for number in range(8)))
    assert results == [number * 10 for number in range(8)]
    assert [len(batch) for batch in store.batches] == [3, 3, 2]


async def test_no_more_flushes_at_once_than_allowed() -> None:
    store = Store()
    batcher = Batcher(store.flush, limit=1, in_flight=2)
    tasks = [asyncio.create_task(batcher.submit(number)) for number in range(5)]
    while len(store.batches) < 2:
        await asyncio.sleep(0)
    for _ in range(10):
        await asyncio.sleep(0)
    assert len(store.batches) == 2
    store.gate.set()
    assert await asyncio.gather(*tasks) == [0, 10, 20, 30, 40]


async def test_one_bad_item_fails_alone() -> None:
    store = Store()
    store.gate.set()
    store.poison = 2
    batcher = Batcher(store.flush, limit=10)
    results = await asyncio.gather(*(batcher.submit(number) for number in (1, 2, 3)), return_exceptions=True)
    assert results[0] == 10
    assert isinstance(results[1], ValueError)
    assert results[2] == 30


async def test_an_outage_fails_all_without_trying_each() -> None:
    store = Store()
    store.gate.set()
    store.poison = 2
    batcher = Batcher(store.flush, limit=10, isolate=lambda _: False)
    results = await asyncio.gather(*(batcher.submit(number) for number in (1, 2, 3)), return_exceptions=True)
    assert all(isinstance(result, ValueError) for result in results)
    assert len(store.batches) == 1


async def test_a_cancelled_caller_does_not_take_its_batch_along() -> None:
    store = Store()
    batcher = Batcher(store.flush, limit=10)
    first, second = asyncio.create_task(batcher.submit(1)), asyncio.create_task(batcher.submit(2))
    await store.begun.wait()
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    store.gate.set()
    assert await second == 20
    await batcher.drain()
