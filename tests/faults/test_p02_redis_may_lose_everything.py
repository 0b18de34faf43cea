"""P2: whatever Redis forgets costs seconds, and nobody."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

import psutil
import pytest

from tests.support.promises import scale
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.faults.conftest import MakeRig, Measure
    from tests.support.rig import Rig

BACK_SECONDS: Final = 60.0
_WAITING: Final = "SELECT count(*) FROM job WHERE state IN ('staged', 'retry')"
_RESCUED: Final = "SELECT count(*) FROM audit_event WHERE action = 'job.attempt.rescue'"


async def rings(rig: Rig) -> int:
    """Return how many rings wait in Redis."""
    async with rig.valkey() as redis:
        return sum([await redis.zcard(f"usher:{queue}") for queue in ("provision", "email")])


async def flushed(rig: Rig) -> int:
    """Empty Redis; return how many rings were in it."""
    held = await rings(rig)
    async with rig.valkey() as redis:
        await redis.flushall()
    return held


async def killed(rig: Rig) -> int:
    """Kill Redis, and have it come back with nothing."""
    held = await rings(rig)
    await rig.crash_redis()
    rig.forget_redis()
    await rig.start_servers()
    assert await rings(rig) == 0
    return held


async def evicted(rig: Rig) -> int:
    """Have so little memory that it throws keys away, and fill that with something else."""
    held = await rings(rig)
    async with rig.valkey() as redis:
        await redis.config_set("maxmemory-policy", "allkeys-lru")
        await redis.config_set("maxmemory", "2mb")
        for number in range(400):
            await redis.set(f"filler:{number}", b"x" * 10_000)
        assert (await redis.info("stats"))["evicted_keys"] > 0
        await redis.flushall()
        await redis.config_set("maxmemory", "0")
        await redis.config_set("maxmemory-policy", "noeviction")
    return held


async def frozen(rig: Rig) -> int:
    """Have it say nothing for a while, as `DEBUG SLEEP` does, while workers ask."""
    process = psutil.Process(rig.grounds.valkey.child.pid)
    held = await rings(rig)
    process.suspend()
    try:
        for worker in rig.workers:
            worker.send(signal.SIGCONT)
        await asyncio.sleep(scale(4, 20))  # the fault itself
    finally:
        process.resume()
    return held


@pytest.mark.promise("P2", quick=True)
async def test_flushed_killed_starved_and_frozen_it_costs_seconds(make_rig: MakeRig, measure: Measure) -> None:
    faults: dict[str, Callable[[Rig], Awaitable[int]]] = {
        "flushed": flushed,
        "killed": killed,
        "starved": evicted,
        "frozen": frozen,
    }
    sweep = scale(2, 5)
    async with make_rig(sweep_seconds=sweep, lease_seconds=30, lease_beat_seconds=10) as rig, rig.store() as connection:
        driver = await rig.driver()
        each = scale(60, 500)
        for number, (name, fault) in enumerate(faults.items(), 1):
            for worker in rig.workers:
                worker.send(signal.SIGSTOP)
            await driver.run(each, rate=200)
            await wait_until(lambda: rings(rig), "rings wait in Redis")
            waiting = await connection.fetchval(_WAITING)
            assert waiting > each / 2, "workers hold few of them"
            held = await fault(rig)
            for worker in rig.workers:
                worker.send(signal.SIGCONT)
            drained = await rig.drain()
            assert drained < BACK_SECONDS, name
            measure(**{f"{name}:_jobs_waiting": waiting, f"{name}:_rings_lost": held, f"{name}:_seconds": drained})
            assert len(driver.known) == number * each
        assert set(driver.answers) == {201}, "nobody waits for Redis"
        measure(rescued=await connection.fetchval(_RESCUED))
        await rig.check(driver)
