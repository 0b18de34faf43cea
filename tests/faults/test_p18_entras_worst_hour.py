"""P18: a whole initial cycle, twins, lost answers, a storm of changes and a huge group, all at once, and none wrong."""

from __future__ import annotations

import asyncio
import json
import sys
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.support.api import Caller, document, make_tenant
from tests.support.groups import adding, create_group, patch_group
from tests.support.promises import scale
from tests.support.writing import DIALECTS, patch, setting

if TYPE_CHECKING:
    from tests.faults.conftest import Measure
    from tests.support.api import Answer
    from tests.support.driver import Driver
    from tests.support.rig import Rig

CREATES: Final = rb"POST /scim/v2/Users"
BULK: Final = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
_MEMBERS: Final = "SELECT count(DISTINCT member_id) FROM membership WHERE group_id = $1::text::uuid"


async def simulate(rig: Rig, number: int) -> dict[str, Any]:
    """Have `usher simulate` play a whole tenant against one door; return its report."""
    tenant = await make_tenant(rig.direct)
    caller = rig.callers(tenant)[number % len(rig.doors)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "cli.main", "simulate", "--url", caller.scim_url, "--token", tenant.token, "--json"),
        *("--users", str(scale(20, 5000)), "--groups", str(scale(3, 50)), "--seed", str(rig.seed)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await process.communicate()
    assert process.returncode == 0, (out.decode()[-3000:], err.decode()[-3000:])
    return dict(json.loads(out))


@dataclass(frozen=True)
class Patient(Caller):
    """Asks again what is refused for now, as Entra does: by a machine with nothing to spare, or by a token's limit."""

    async def send(self, method: str, path: str, **how: Any) -> Answer:
        """Send a request until it is answered otherwise than with 429 or 503."""
        async with asyncio.timeout(120):
            while (answer := await super().send(method, path, **how)).status in (429, 503):
                await asyncio.sleep(float(answer.headers["Retry-After"]))
        return answer


async def patients(rig: Rig) -> list[Caller]:
    """Return a caller of a new tenant at each door."""
    return [
        Patient(one.session, one.scim_url, one.tenant, one.token) for one in rig.callers(await make_tenant(rig.direct))
    ]


async def twins(callers: list[Caller], count: int) -> None:
    """Send each create twice at once, through two doors: no more than one is taken, and everybody finds the same."""
    for number in range(count):
        body = document(f"twin{number}@contoso.example", externalId=f"twin-{number}")
        answers = await asyncio.gather(*(caller.post("/Users", body) for caller in callers))
        made = [answer.json["id"] for answer in answers if answer.status == 201]
        assert len(made) <= 1, answers
        # Whose answer was 503 may have been taken all the same, and is told so.
        assert {answer.status for answer in answers} <= {201, 409}, answers
        for caller in callers:
            [found] = (await caller.get("/Users", filter=f'userName eq "twin{number}@contoso.example"')).resources()
            made.append(found["id"])
        assert len(set(made)) == 1, made


async def storm(callers: list[Caller], count: int, dice: Random) -> None:
    """Change few users from many sides at once: nothing is refused, and nothing is lost."""
    users = [await callers[0].create(document(f"storm{number}@contoso.example")) for number in range(5)]

    async def change(number: int) -> None:
        values = {"title": f"title {number}", "active": dice.random() < 0.5}
        answer = await patch(dice.choice(callers), dice.choice(users)["id"], setting(dice.choice(DIALECTS), values))
        assert answer.status == 200, answer

    for start in range(0, count, 50):
        await asyncio.gather(*map(change, range(start, min(count, start + 50))))


async def huge_group(rig: Rig, caller: Caller, count: int, chunk: int) -> None:
    """Make users and put them all into one group, chunk by chunk as Entra does, in both of its dialects."""
    ids: list[str] = []
    for start in range(0, count, chunk):
        creates = [
            {"method": "POST", "path": "/Users", "bulkId": str(each), "data": document(f"member{each}")}
            for each in range(start, min(count, start + chunk))
        ]
        answer = await caller.post("/Bulk", {"schemas": [BULK], "Operations": creates})
        outcomes = answer.json["Operations"]
        assert {each["status"] for each in outcomes} == {"201"}, outcomes[:3]
        ids += [each["location"].rpartition("/")[2] for each in outcomes]
    made = await create_group(caller, "everybody")
    for turn, start in enumerate(range(0, count, chunk)):
        operations = adding(DIALECTS[turn % 2], *ids[start : start + chunk])
        answer = await patch_group(caller, made["id"], operations)
        assert answer.status in (200, 204), answer
    async with rig.store() as connection:
        assert await connection.fetchval(_MEMBERS, made["id"]) == count


async def steady(rig: Rig, driver: Driver, count: int) -> None:
    """Push users at Entra's own pace, 25 a second and tenant, while one answer in twenty is lost on its way."""
    dice = Random(rig.seed)  # noqa: S311  a plan that comes back
    for door in rig.doors:
        door.swallow_reply_after(CREATES, chance=0.05, dice=dice)
    await driver.run(count, rate=25.0 * len(driver.tenants), clients=32)
    for door in rig.doors:
        door.heal()


@pytest.mark.promise("P18")
async def test_lost_answers_at_entras_pace_leave_one_user_each(rig: Rig, measure: Measure) -> None:
    driver = await rig.driver(tenants=4)
    await steady(rig, driver, scale(200, 6000))
    drained = await rig.drain()
    lost = sum(door.swallowed for door in rig.doors)
    assert lost > 0
    measure(users=len(driver.known), answers_lost=lost, p95=driver.percentile(0.95), seconds_to_drain=drained)
    await rig.check(driver)


@pytest.mark.promise("P18")
async def test_cycles_twins_storms_and_a_huge_group_at_once_deviate_nowhere(rig: Rig, measure: Measure) -> None:
    dice = Random(rig.seed)  # noqa: S311  a plan that comes back
    people, [crowd, *_] = await patients(rig), await patients(rig)
    members = scale(600, 20_000)
    async with asyncio.TaskGroup() as tasks:
        cycles = [tasks.create_task(simulate(rig, number)) for number in range(scale(1, 4))]
        tasks.create_task(twins(people, scale(20, 300)))
        tasks.create_task(storm(people, scale(100, 3000), dice))
        tasks.create_task(huge_group(rig, crowd, members, scale(100, 1000)))
    reports = [task.result() for task in cycles]
    drained = await rig.drain(120)
    assert [report["deviations"] for report in reports if report["deviations"]] == []
    measure(cycles=len(reports), members=members, seconds_to_drain=drained)
    await rig.check()
