"""P6: while every process is stopped and started anew in turn, nobody is refused and no attempt is lost."""

from __future__ import annotations

import asyncio
import itertools
import time
from typing import TYPE_CHECKING, Final

import pytest

from tests.support.promises import FULL, scale
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.conftest import MakeRig, Measure
    from tests.support.driver import Driver
    from tests.support.processes import Process
    from tests.support.rig import Rig

DRAIN_SECONDS: Final = 2.0
LOOK_SECONDS: Final = 0.2
BETWEEN_SECONDS: Final = 5.0 if FULL else 0.0
RATE: Final = float(scale(10, 20))


@pytest.mark.promise("P6", quick=True)
async def test_every_process_is_replaced_in_turn_under_load_and_nobody_notices(
    make_rig: MakeRig, measure: Measure
) -> None:
    async with make_rig(drain_seconds=DRAIN_SECONDS) as rig, rig.store() as connection:
        driver = await rig.driver(invitations=True)
        balancing = asyncio.create_task(balance(rig, driver))
        pushing = asyncio.create_task(driver.run(rate=RATE))
        try:
            await driver.until_known(20)
            slowest = await replace_in_turn(rig, driver, scale(0, 300), pushing, balancing)
            await driver.until_known(len(driver.known) + 20)
            driver.enough = True
            await pushing
        finally:
            balancing.cancel()
            await asyncio.gather(balancing, return_exceptions=True)
        drained = await rig.drain()
        refused = driver.answers[503]
        measure(users=len(driver.known), stops=sum(one.starts - 1 for one in (*rig.apis, *rig.workers)))
        measure(answered_503=refused, longest_stop=slowest, longest_answer=driver.slowest(), seconds_to_drain=drained)
        assert set(driver.answers) <= {200, 201, 503}, driver.answers
        assert await connection.fetchval("SELECT max(attempts) FROM job") == 1
        assert await connection.fetchval("SELECT count(*) FROM job WHERE state = 'dead'") == 0
        await rig.check(driver, mails=True, copies=1)


async def balance(rig: Rig, driver: Driver) -> None:
    """Have the driver knock only where `/readyz` says 200, as a load balancer does."""
    while True:
        ready = await asyncio.gather(*(rig.ready(api) for api in rig.apis))
        driver.doors = [number for number, well in enumerate(ready) if well] or driver.doors
        await asyncio.sleep(LOOK_SECONDS)


async def replace_in_turn(rig: Rig, driver: Driver, seconds: float, *working: asyncio.Task[None]) -> float:
    """Stop and start each process, again and again for so long; return the most seconds that one took to stop."""
    slowest, end = 0.0, time.monotonic() + seconds
    pairs = list(zip(rig.apis, rig.workers, strict=True))
    # In short, a front end and a worker go at once.
    in_turn = [[one] for pair in pairs for one in pair] if FULL else [list(pair) for pair in pairs]
    for number, group in enumerate(itertools.cycle(in_turn)):
        began = time.monotonic()
        if number >= len(in_turn) and began >= end:
            break
        for task in working:
            assert not task.done(), task.exception()
        slowest = max(slowest, *await asyncio.gather(*(replace(one) for one in group)))
        # The next one is not stopped before requests reach this one.
        await wait_until(lambda: len(driver.doors) == len(rig.apis) or driver.wrong, "all front ends are ready", 60)
        await asyncio.sleep(began + BETWEEN_SECONDS - time.monotonic())
    return slowest


async def replace(process: Process) -> float:
    """Stop a process and start it anew; return the seconds that it took to stop."""
    began = time.monotonic()
    assert await process.stop() == 0, process.said
    took = time.monotonic() - began
    await process.start()
    return took
