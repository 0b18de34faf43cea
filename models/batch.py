"""Doing together what arrives together: group commit without a timer."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Hashable, Sequence

Item = TypeVar("Item")
Result = TypeVar("Result")


class Batcher(Generic[Item, Result]):
    """Collects items while a flush is under way and hands them to the next one together.

    A lone item is flushed at once, so nobody waits for company. When a flush of several fails, each of its
    items is flushed again alone: one that the store refuses cannot fail its neighbours.
    """

    def __init__(
        self,
        flush: Callable[[Sequence[Item]], Awaitable[Sequence[Result]]],
        *,
        limit: int,
        in_flight: int = 1,
        isolate: Callable[[BaseException], bool] = lambda _: True,
        apart: Callable[[Item], Hashable] = lambda _: None,
    ) -> None:
        """Take what is needed to flush.

        Args:
            flush: gets 1 to ``limit`` items and returns as many results, in their order; all or nothing.
            limit: most items of one flush.
            in_flight: most flushes at once.
            isolate: tells of a flush's error whether it may lie with one item.
            apart: tells of an item what all of one flush have in common; what waits is taken in turn by it.
        """
        self._flush = flush
        self._limit = limit
        self._in_flight = in_flight
        self._isolate = isolate
        self._apart = apart
        self._waiting: dict[Hashable, deque[tuple[Item, asyncio.Future[Result]]]] = {}
        self._running: set[asyncio.Task[None]] = set()

    def __len__(self) -> int:
        """Return how many items wait for a flush to begin."""
        return sum(map(len, self._waiting.values()))

    async def submit(self, item: Item) -> Result:
        """Have ``item`` flushed and return its result; the flush goes on if the caller is cancelled."""
        future: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(self._apart(item), deque()).append((item, future))
        if len(self._running) < self._in_flight:
            self._start()
        return await future

    def _start(self) -> None:
        task = asyncio.get_running_loop().create_task(self._run())
        self._running.add(task)
        task.add_done_callback(self._running.discard)

    async def _run(self) -> None:
        # One turn of the loop first: requests that were read from their sockets together go together.
        await asyncio.sleep(0)
        while self._waiting:
            await self._settle(self._next())

    def _next(self) -> list[tuple[Item, asyncio.Future[Result]]]:
        common = next(iter(self._waiting))
        waiting = self._waiting.pop(common)
        batch = [waiting.popleft() for _ in range(min(self._limit, len(waiting)))]
        if waiting:
            self._waiting[common] = waiting  # behind the others
        return batch

    async def _settle(self, batch: list[tuple[Item, asyncio.Future[Result]]]) -> None:
        try:
            results = await self._flush([item for item, _ in batch])
        except Exception as error:  # noqa: BLE001  whatever it is belongs to the callers
            if len(batch) > 1 and self._isolate(error):
                for pair in batch:
                    await self._settle([pair])
                return
            for _, future in batch:
                if not future.done():
                    future.set_exception(error)
            return
        for (_, future), result in zip(batch, results, strict=True):
            if not future.done():
                future.set_result(result)

    async def drain(self) -> None:
        """Wait until nothing waits and nothing is under way."""
        while self._running:
            await asyncio.gather(*self._running)
