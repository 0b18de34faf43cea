"""Faults at random: one after the other, each of them as often as the others."""

from __future__ import annotations

import asyncio
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from random import Random

    from tests.soak.stage import Stage

EVERY_SECONDS: Final = (20.0, 60.0)
"""Between the end of one fault and the next, at least and at most."""


async def trouble(stage: Stage, dice: Random, over: asyncio.Event, say: Callable[[str], None]) -> Counter[str]:
    """Let faults happen until it is over; return how often each did. Whatever was taken away is there again then."""
    deeds: dict[str, Callable[[], Awaitable[None]]] = {
        "kill -9 of an api": stage.kill_api,
        "kill -9 of a worker": stage.kill_worker,
        "FLUSHALL": stage.empty_redis,
        "kill -9 of Redis": stage.kill_redis,
        "PostgreSQL restarted at once": stage.restart_postgres,
        "SMTP refuses": stage.refuse_mail,
    }
    happened: Counter[str] = Counter()
    waiting: list[str] = []
    while not over.is_set():
        with suppress(TimeoutError):
            await asyncio.wait_for(over.wait(), dice.uniform(*EVERY_SECONDS))
            break
        if not waiting:
            waiting = list(deeds)
            dice.shuffle(waiting)
        name = waiting.pop()
        say(f"fault: {name}")
        await deeds[name]()
        happened[name] += 1
    return happened
