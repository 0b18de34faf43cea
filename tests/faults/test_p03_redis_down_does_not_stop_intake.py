"""P3: without Redis creates are accepted as fast as ever, and applied as well."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Final

import aiohttp
import pytest

from tests.support.promises import scale
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.conftest import Measure
    from tests.support.rig import Rig

P95_SECONDS: Final = 0.5


async def readiness(rig: Rig) -> tuple[int, str]:
    """Return the status of the readiness probe, and what it says of Redis."""
    url = f"http://127.0.0.1:{rig.apis[0].settings.admin_port}/readyz"
    async with aiohttp.ClientSession() as session, session.get(url) as response:
        return response.status, (await response.json())["redis"]


@pytest.mark.promise("P3", quick=True)
async def test_every_create_is_accepted_and_the_probe_stays_ready(rig: Rig, measure: Measure) -> None:
    driver = await rig.driver()
    await driver.run(50)
    usual = driver.percentile(0.95)
    assert await readiness(rig) == (200, "ok")
    before = driver.answers[201]
    rig.redis.refuse()
    began = time.monotonic()
    pushing = asyncio.create_task(driver.run(scale(150, 15_000)))
    await driver.until_known(60)
    status, said = await readiness(rig)
    assert (status, said.split()[0]) == (200, "unreachable")

    async def warned() -> bool:
        return await rig.counter("usher_redis_up") == 0

    await wait_until(warned, "the metric says that Redis is away", 30)
    await pushing
    p95 = driver.percentile(0.95, since=began)
    drained = await rig.drain()  # without Redis, by the workers' own looks
    assert set(driver.answers) == {201}
    rig.redis.heal()
    await driver.run(20)
    drained_after = await rig.drain()
    measure(creates_without_redis=driver.answers[201] - before - 20, p95_before=usual, p95=p95)
    measure(seconds_to_drain_without_redis=drained, and_after=drained_after)
    assert p95 < P95_SECONDS + 2 * usual
    await rig.check(driver)
