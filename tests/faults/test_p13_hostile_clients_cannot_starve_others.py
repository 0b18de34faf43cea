"""P13: clients that drip, stall, crowd and bomb do not keep a good one from being served."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import psutil
import pytest

from cli.simulate.report import percentile
from tests.support import hostile
from tests.support.api import document, make_tenant
from tests.support.promises import ALL, scale

if TYPE_CHECKING:
    from tests.faults.conftest import MakeRig, Measure
    from tests.support.api import Caller

RATE = 25.0  # requests a second, as Entra's
MOST_SECONDS = 30.0
MOST_BYTES = 100 * 1024 * 1024
REFUSED = {
    "a body of 3 MB": 413,
    "200 headers": 431,
    "10 000 operations": 413,
    "1 000 levels": 400,
    "a gzip bomb": 415,
    "two lengths": 400,
    "a length and chunks": 400,
}


async def provision(caller: Caller, ended: asyncio.Event) -> list[float]:
    """Create and match people at Entra's pace until told to stop; return how long each answer took."""
    took: list[float] = []
    sent: list[asyncio.Task[None]] = []

    async def send(number: int) -> None:
        began = time.monotonic()
        if number % 2:
            await caller.match(f'userName eq "good{number}@contoso.example"')
        else:
            await caller.create(document(f"good{number}@contoso.example"))
        took.append(time.monotonic() - began)

    began = time.monotonic()
    while not ended.is_set():
        sent.append(asyncio.create_task(send(len(sent))))
        await asyncio.sleep(max(0.0, began + len(sent) / RATE - time.monotonic()))
    await asyncio.gather(*sent)  # whichever was refused or cut off raises here
    return sorted(took)


@pytest.mark.promise("P13")
async def test_a_good_client_is_served_while_others_drip_stall_crowd_and_bomb(
    make_rig: MakeRig, measure: Measure
) -> None:
    quick = {} if ALL else {"head_seconds": 2.0, "body_seconds": 2.0}
    async with make_rig(apis=1, workers=1, **quick) as rig:
        [api] = rig.apis
        tenants = [await make_tenant(rig.direct) for _ in range(2)]
        # Straight to the front end: the rig's own proxies are no part of what is hostile here.
        good, bad = (rig.callers(tenant)[0].at(api.scim_url) for tenant in tenants)
        process, ended = psutil.Process(api.pid), asyncio.Event()
        for number in range(20):  # what a process needs when it first answers is not theirs
            await bad.match(f'userName eq "warm{number}@contoso.example"')
        before = process.memory_info().rss
        working = asyncio.create_task(provision(good, ended))
        *lasted, answers = await asyncio.gather(
            hostile.drip_heads(api.scim_url, scale(60, 500)),
            hostile.stall_bodies(bad, scale(30, 200)),
            hostile.abandon(api.scim_url, scale(500, 10_000)),
            hostile.send_bombs(bad),
        )
        ended.set()
        took = await working
        grown = process.memory_info().rss - before
    p95 = percentile(took, 0.95)
    measure(requests=len(took), p95_seconds=p95, worst_seconds=took[-1], MiB_more=grown / 2**20)
    measure(longest_drip=lasted[0], longest_stall=lasted[1], longest_silence=lasted[2])
    assert answers == REFUSED
    assert max(lasted) < MOST_SECONDS
    assert grown < MOST_BYTES
    if ALL:
        assert p95 < 1
