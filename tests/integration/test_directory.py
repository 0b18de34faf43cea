"""Reading users, applied and waiting, as one directory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from uuid_utils.compat import uuid7

from models.jobs import PROVISION, claim, read_job
from models.provision import apply_creates
from models.scim.schema import ENTERPRISE_URN
from tests.support.api import Caller, apply_all, document, serving, store, work_email
from tests.support.samples import sample

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from models.settings import Settings

ANA = "Ana.Nov@contoso.example"


@pytest.fixture
async def caller(settings: Settings) -> AsyncIterator[Caller]:
    async with serving(settings) as api:
        yield await api.caller()


async def test_nothing_tells_a_waiting_user_from_an_applied_one(settings: Settings, caller: Caller) -> None:
    emails = [{"type": "home", "value": "ana@home.example"}, work_email(ANA), work_email("Second@contoso.example")]
    boss = (await caller.create(sample("rfc7643-8.2-user-full")))["id"]
    enterprise = {"department": "Sales", "employeeNumber": "4711", "manager": {"value": boss}}
    user = await caller.create(
        document(ANA, externalId="B3c2", active=False, title="Buyer", emails=emails, **{ENTERPRISE_URN: enterprise})
    )
    await caller.create(document("third", emails=[]))
    queries: list[dict[str, Any]] = [
        {"filter": f'userName eq "{ANA.lower()}"'},
        {"filter": f'id eq "{user["id"]}"'},
        {"filter": 'externalId eq "B3c2"'},
        {"filter": 'emails[type eq "work"].value eq "ana.nov@CONTOSO.example"'},
        {"filter": 'emails[type eq "work"].value eq "second@contoso.example"'},
        {"filter": 'emails.value eq "ana@home.example"'},
        {"filter": f'{ENTERPRISE_URN}:employeeNumber eq "4711"'},
        {"filter": f'id eq "{user["id"]}" and {ENTERPRISE_URN}:manager eq "{boss}"'},
        {"filter": 'active eq false and title sw "bu"'},
        {"filter": f'meta.created eq "{user["meta"]["created"]}"'},
        {"filter": 'meta.version eq "W/\\"1\\"" and userName co "ana"'},
    ]
    everybody: list[dict[str, Any]] = [{}, {"startIndex": 2, "count": 1}, {"count": 0}, {"filter": "userName pr"}]
    before = [await caller.get("/Users", **query) for query in (*queries, *everybody)]
    single = await caller.get(f"/Users/{user['id']}")
    for query, answer in zip(queries, before, strict=False):
        assert answer.resources() == [user], query
    assert before[len(queries)].json["totalResults"] == 3
    assert await apply_all(settings) == 3
    after = [await caller.get("/Users", **query) for query in (*queries, *everybody)]
    assert [one.content for one in after] == [one.content for one in before]
    again = await caller.get(f"/Users/{user['id']}")
    assert (again.content, again.headers["ETag"]) == (single.content, single.headers["ETag"])


async def test_a_list_goes_through_applied_and_waiting_users_in_the_order_of_their_coming(
    settings: Settings, caller: Caller
) -> None:
    created = []
    for number in range(30):
        created.append((await caller.create(document(f"user{number}", title=f"odd{number % 2}")))["id"])
        if number == 11:
            await apply_all(settings)
    async with store(settings) as connection:  # one is applied out of turn, as when another worker is quicker
        lease = uuid7()
        await connection.execute(
            "UPDATE job SET state = 'running', lease_token = $1 WHERE resource_id = $2", lease, UUID(created[20])
        )
        row = await connection.fetchrow("SELECT * FROM job WHERE lease_token = $1", lease)
        assert row
        await apply_creates(connection, [read_job(row)], lease)
        assert await connection.fetchval("SELECT count(*) FROM users") == 13
    for size in (1, 7, 100):
        seen: list[str] = []
        while len(seen) < 30:
            page = await caller.get("/Users", startIndex=len(seen) + 1, count=size)
            assert page.json["totalResults"] == 30
            seen += [one["id"] for one in page.resources()]
        assert seen == created
    filtered = await caller.get("/Users", filter='title eq "ODD1"', startIndex=3, count=5)
    assert filtered.json["totalResults"] == 15
    assert [one["id"] for one in filtered.resources()] == created[5:15:2]


async def test_every_state_of_a_waiting_create_is_readable(settings: Settings, caller: Caller) -> None:
    user = await caller.create(document(ANA, externalId="b3c2", emails=[work_email(ANA)]))
    queries = [
        f'userName eq "{ANA}"',
        'externalId eq "b3c2"',
        f'emails[type eq "work"].value eq "{ANA}"',
        "userName pr",
    ]
    async with store(settings) as connection:
        for state, seen in (("staged", 1), ("running", 1), ("retry", 1), ("dead", 1), ("cancelled", 0)):
            await connection.execute("UPDATE job SET state = $1", state)
            for text in queries:
                assert len(await caller.match(text)) == seen, (state, text)
            assert (await caller.get(f"/Users/{user['id']}")).status == (200 if seen else 404)


async def test_reading_while_users_are_applied_sees_each_once(settings: Settings, caller: Caller) -> None:
    created = [(await caller.create(document(f"user{number}")))["id"] for number in range(120)]

    async def apply() -> None:
        async with store(settings) as connection:
            while True:
                lease = uuid7()
                jobs = await claim(connection, PROVISION, lease_token=lease, lease_seconds=30, limit=3)
                if not jobs:
                    return
                await apply_creates(connection, jobs, lease)

    applying = asyncio.create_task(apply())
    looks = 0
    while not applying.done():
        page = (await caller.get("/Users", count=500)).resources()
        assert [one["id"] for one in page] == created
        assert len(await caller.match(f'userName eq "user{looks % 120}"')) == 1
        looks += 1
    await applying
    assert looks > 3
