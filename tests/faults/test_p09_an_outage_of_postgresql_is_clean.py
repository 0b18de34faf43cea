"""P9: while PostgreSQL is away every answer is 503 with Retry-After, soon; when it is back, so is Usher."""

from __future__ import annotations

import asyncio
import json
import time
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio

from tests.support.api import document, make_tenant
from tests.support.promises import SEED, scale
from tests.support.proxy import READY_FOR_QUERY
from tests.support.rig import rigged
from tests.support.waiting import wait_until
from tests.support.writing import PATCH_URN

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from tests.faults.conftest import Measure
    from tests.support.api import Answer, Caller
    from tests.support.driver import Driver
    from tests.support.rig import Grounds, Rig

pytestmark = pytest.mark.asyncio(loop_scope="module")
HANG_SECONDS: Final = 10.0
RECOVERY_SECONDS: Final = 10.0
BULK: Final = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
# What ends a transaction, and the one statement by which creates are accepted, which is a transaction of its own.
COMMITS: Final = rb'COMMIT|"user_name_key":'


def requests(user_id: str) -> list[tuple[str, str, Any]]:
    """Return one request of every kind that needs the store."""
    patch = {"schemas": [PATCH_URN], "Operations": [{"op": "replace", "value": {"title": "Buyer"}}]}
    creates = [
        {"method": "POST", "path": "/Users", "bulkId": str(number), "data": document(f"bulk{number}")}
        for number in range(3)
    ]
    changes = [{"method": "PATCH", "path": f"/Users/{user_id}", "data": patch} for _ in range(3)]
    return [
        ("GET", "/Users?count=1", None),
        ("GET", f"/Users/{user_id}", None),
        ("GET", "/Users?filter=userName+eq+%22nobody%22", None),
        ("GET", "/Groups?count=1", None),
        ("POST", "/Users", document("during")),
        ("PUT", f"/Users/{user_id}", document("changed")),
        ("PATCH", f"/Users/{user_id}", patch),
        ("DELETE", f"/Users/{user_id}", None),
        ("POST", "/Groups", {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:Group"], "displayName": "all"}),
        ("POST", "/Bulk", {"schemas": [BULK], "Operations": [*creates, *changes]}),
    ]


async def timed(caller: Caller, method: str, path: str, value: Any) -> tuple[Answer, float]:
    began = time.monotonic()
    body = None if value is None else json.dumps(value).encode()
    answer = await caller.send(method, path, body=body)
    return answer, time.monotonic() - began


async def ask_everything(caller: Caller, stranger: Caller, user_id: str) -> float:
    """Send one request of every kind while the store is away; return the most seconds that any took."""
    asked = [timed(caller, *request) for request in requests(user_id)]
    asked += [timed(stranger, "GET", "/Users?count=1", None), timed(stranger, "POST", "/Users", document("x"))]
    slowest = 0.0
    for answer, seconds in await asyncio.gather(*asked):
        slowest = max(slowest, seconds)
        if answer.status == 200 and "Operations" in answer.json:  # a bulk request is answered, its operations are not
            assert {each["status"] for each in answer.json["Operations"]} == {"503"}, answer
            continue
        answer.error(503)
        assert int(answer.headers["Retry-After"]) > 0
    return slowest


async def away(
    driver: Driver,
    begin: Callable[[], Any],
    end: Callable[[], Any],
    *,
    refused: int,
    meanwhile: Callable[[], Awaitable[None]] | None = None,
) -> tuple[float, float]:
    """Take PostgreSQL away until so many requests were refused; return seconds of the first refusal and of recovery."""
    began = time.monotonic()
    outcome = begin()
    if asyncio.iscoroutine(outcome):
        await outcome
    if meanwhile is not None:
        await meanwhile()
    await wait_until(lambda: driver.since(began, 503) >= refused or driver.wrong, "requests are refused", 30)
    # Also of what was under way when it went: with every client held up, nothing is sent until that is refused.
    refusals = (one.sent_at + one.seconds for one in driver.tried if one.status == 503)
    first = min(moment for moment in refusals if moment >= began)
    outcome = end()
    if asyncio.iscoroutine(outcome):
        await outcome
    healed = time.monotonic()
    await wait_until(lambda: driver.recovery(healed) < 60 or driver.wrong, "creates are accepted again", 60)
    return first - began, driver.recovery(healed)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig(grounds: Grounds, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Rig]:
    """One for all of them: each leaves everything well."""
    async with rigged(grounds, tmp_path_factory.mktemp("outage"), SEED) as made:
        yield made


@pytest.mark.promise("P9", quick=True)
async def test_every_answer_is_503_soon_and_all_is_well_soon_after(rig: Rig, measure: Measure) -> None:
    driver = await rig.driver()
    pushing = asyncio.create_task(driver.run(clients=8, rate=30))
    await driver.until_known(20)
    # Whose token no process has seen: whether it is good cannot be known while the store is away.
    stranger = rig.callers(await make_tenant(rig.direct))[0]
    caller = rig.callers(await make_tenant(rig.direct))[0]
    user = await caller.create(document("somebody"))
    longest: list[float] = []

    async def ask() -> None:
        slowest, pages = await asyncio.gather(ask_everything(caller, stranger, user["id"]), rig.pages())
        assert {status for status, _ in pages.values()} == {503}, pages
        longest.extend([slowest, *(seconds for _, seconds in pages.values())])

    for name, begin, end, meanwhile in (
        ("reset", rig.postgres.reset, rig.postgres.heal, None),
        ("restart", rig.crash_postgres, rig.start_servers, None),
        ("blackhole", rig.postgres.blackhole, rig.postgres.heal, ask),
        ("half open", rig.postgres.blackhole, rig.postgres.strand, None),
    ):
        first, recovery = await away(driver, begin, end, refused=scale(8, 16), meanwhile=meanwhile)
        measure(**{f"{name}:_first_503": first, f"{name}:_recovery": recovery})
        assert recovery < RECOVERY_SECONDS, name
        assert first < (HANG_SECONDS if begin == rig.postgres.blackhole else 2), name
    driver.enough = True
    await pushing
    assert driver.answers[None] == 0, "no connection was dropped"
    slowest = max(driver.slowest(), *longest)
    measure(longest_answer=slowest)
    assert slowest < HANG_SECONDS
    await rig.drain()
    await rig.check(driver)


@pytest.mark.promise("P9", quick=True)
async def test_a_commit_whose_answer_is_lost_makes_one_user_and_no_second(rig: Rig, measure: Measure) -> None:
    await rig.heal()
    driver = await rig.driver(invitations=True)
    dice = Random(rig.seed)  # noqa: S311  a plan that comes back
    chance = scale(20, 2) / 100
    rig.postgres.swallow_reply_after(COMMITS, chance=chance, dice=dice, answered=READY_FOR_QUERY)
    await driver.run(scale(120, 1500))
    rig.postgres.heal()
    await rig.drain()
    measure(users=len(driver.known), answers_swallowed=rig.postgres.swallowed, doubts=driver.answers[503])
    assert rig.postgres.swallowed > 3
    assert driver.answers[503] > 0
    await rig.check(driver, mails=True, copies=1 + rig.postgres.swallowed)
