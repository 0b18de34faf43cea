"""P1: whoever was answered 201 is there, once, whatever was killed meanwhile."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.support.promises import scale

if TYPE_CHECKING:
    from tests.faults.conftest import Measure
    from tests.support.rig import Rig


@pytest.mark.promise("P1", quick=True)
async def test_kill_9_of_one_front_end_and_then_of_everything_loses_nobody(rig: Rig, measure: Measure) -> None:
    dice = Random(rig.seed)  # noqa: S311  a plan that comes back
    count = scale(200, 2000)
    driver = await rig.driver(invitations=True)
    pushing = asyncio.create_task(driver.run())
    await driver.until_known(dice.randrange(count // 8, count // 4))
    await rig.kill(dice.choice(rig.apis))
    await rig.heal()
    await driver.until_known(len(driver.known) + dice.randrange(count // 8, count // 4))
    await asyncio.gather(rig.kill(), rig.crash_postgres(), rig.crash_redis())
    killed = time.monotonic()
    await rig.heal()
    await driver.until_known(max(count, len(driver.known) + count // 4))
    driver.enough = True
    await pushing
    drained = await rig.drain()
    await rig.check(driver, mails=True, copies=3)
    answers = driver.answers
    assert answers[None] > 0, "they were killed in the middle"
    assert driver.recovery(killed) < 120
    measure(users=len(driver.known), doubts=answers[None] + answers[503])
    measure(next_201_after_the_end_of_everything=driver.recovery(killed), seconds_to_drain=drained)
