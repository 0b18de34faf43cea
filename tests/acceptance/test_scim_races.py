"""Creates at the same moment: one user, whoever asks and wherever (entra-cases.md 43)."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.api import Answer, document, store
from tests.support.processes import processes

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")


def spellings(name: str, count: int) -> list[str]:
    dice = random.Random(7)  # noqa: S311  letters, not secrets
    return ["".join(dice.choice([letter.upper(), letter.lower()]) for letter in name) for _ in range(count)]


async def at_once(callers: Sequence[Caller], documents: Sequence[Any]) -> list[Answer]:
    """POST every document at the same moment, in turn to each of the callers."""
    tasks = [callers[number % len(callers)].post("/Users", one) for number, one in enumerate(documents)]
    return list(await asyncio.gather(*tasks))


async def check_one_of(name: str, answers: Sequence[Answer], api: Api, caller: Caller) -> None:
    """Check that one of many creates of a userName came to be, and all its traces are of that one."""
    assert Counter(answer.status for answer in answers) == {201: 1, 409: len(answers) - 1}
    [created] = [answer.json for answer in answers if answer.status == 201]
    for answer in answers:
        if answer.status == 409:
            answer.error(409, "uniqueness")
    assert await caller.match(f'userName eq "{name}"') == [created]
    assert (await caller.get("/Users")).resources() == [created]
    async with store(api.settings) as connection:
        query = "SELECT resource_id FROM {} WHERE tenant_id = $1"
        for table in ("job", "identifier"):
            rows = await connection.fetch(query.format(table), caller.tenant.id)
            assert [str(row["resource_id"]) for row in rows] == [created["id"]]
        phases = await connection.fetch(
            "SELECT phase, count(*) FROM audit_event WHERE tenant_id = $1 AND action = 'scim.user.create'"
            " GROUP BY phase",
            caller.tenant.id,
        )
    assert {row["phase"]: row["count"] for row in phases} == {"requested": 1, "denied": len(answers) - 1}


async def test_fifty_creates_of_one_name_in_one_process(api: Api, caller: Caller) -> None:
    name = "ana.nováková@contoso.example"
    answers = await at_once([caller], [document(spelling) for spelling in spellings(name, 50)])
    await check_one_of(name, answers, api, caller)


async def test_fifty_creates_of_one_name_across_two_processes(api: Api, caller: Caller, tmp_path: Path) -> None:
    async with processes(api.settings, tmp_path, apis=2) as fleet:
        callers = [caller.at(one.scim_url) for one in fleet.apis]
        await asyncio.gather(*(one.get("/Users") for one in callers * 10))  # connections and token are at hand
        name = "ana.nov@contoso.example"
        answers = await at_once(callers, [document(spelling) for spelling in spellings(name, 50)])
        await check_one_of(name, answers, api, caller.at(fleet.apis[0].scim_url))


async def test_creates_of_many_names_and_tenants_at_once(api: Api) -> None:
    callers = [await api.caller() for _ in range(3)]
    names = [f"user{number % 40}@contoso.example" for number in range(240)]
    answers = await asyncio.gather(
        *(
            caller.post("/Users", document(name.upper() if turn % 2 else name))
            for caller in callers
            for turn, name in enumerate(names)
        )
    )
    assert Counter(answer.status for answer in answers) == {201: 3 * 40, 409: 3 * 200}
    for caller in callers:
        users = (await caller.get("/Users")).resources()
        assert sorted(one["userName"].lower() for one in users) == sorted(set(names))


async def test_a_create_that_the_client_gives_up_is_made_whole_or_not_at_all(api: Api, caller: Caller) -> None:
    async def give_up(number: int) -> None:
        task = asyncio.create_task(caller.post("/Users", document(f"user{number}")))
        for _ in range(number % 7):  # at another moment each
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    await asyncio.gather(*(give_up(number) for number in range(60)))
    await caller.create(document("last"))  # its commit is behind those of all the others
    users = (await caller.get("/Users")).resources()
    async with store(api.settings) as connection:
        for query in (
            "SELECT count(*) FROM job WHERE tenant_id = $1",
            "SELECT count(*) FROM identifier WHERE tenant_id = $1",
            "SELECT count(*) FROM audit_event WHERE tenant_id = $1 AND phase = 'requested'",
        ):
            assert await connection.fetchval(query, caller.tenant.id) == len(users)
    for user in users:
        (await caller.post("/Users", document(user["userName"]))).error(409, "uniqueness")
