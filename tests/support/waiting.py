"""Waiting for something to become true, with a deadline that says what was awaited."""

from __future__ import annotations

import asyncio
import inspect
import time
from typing import TYPE_CHECKING, Any, TypeVar, overload

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


@overload
async def wait_until(predicate: Callable[[], Awaitable[T]], what: str, seconds: float = 10) -> T: ...


@overload
async def wait_until(predicate: Callable[[], T], what: str, seconds: float = 10) -> T: ...


async def wait_until(predicate: Callable[[], Any], what: str, seconds: float = 10) -> Any:
    """Poll a predicate, plain or asynchronous, until it is truthy, and return what it returned.

    Raises:
        AssertionError: it was not so within ``seconds``; names ``what`` and the last value.
    """
    deadline = time.monotonic() + seconds
    while True:
        outcome = predicate()
        value = await outcome if inspect.isawaitable(outcome) else outcome
        if value:
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds:g} s: {what} (last seen: {value!r})")
        await asyncio.sleep(0.02)
