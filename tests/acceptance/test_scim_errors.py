"""Faults, outages and what is written about them: sections J and K of Entra's cases, by number."""

from __future__ import annotations

import asyncio
import gc
import json
from typing import TYPE_CHECKING

import pytest
from structlog.testing import capture_logs

from api.scim.call import Call
from models.intake import Intake
from tests.support.api import altered, document, serving, store, work_email
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANA = "Ana.Nov@contoso.example"


async def test_case_133_a_fault_is_a_scim_error_that_names_nothing(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object) -> None:
        raise RuntimeError("the secret reason")

    monkeypatch.setattr(Intake, "accept", broken)
    with capture_logs() as lines:
        answer = await caller.post("/Users", document(ANA))
    answer.error(500)
    assert b"secret" not in answer.content
    [fault] = [line for line in lines if line["action"] == "scim.fault"]
    assert fault["correlation_id"] == answer.headers["X-Correlation-Id"]


async def test_case_134_and_138_an_answer_in_time_when_the_store_does_not(api: Api) -> None:
    async with serving(altered(api.settings, request_seconds=0.3)) as served, store(api.settings) as connection:
        caller = await served.caller()
        async with connection.transaction():
            await connection.execute("LOCK TABLE identifier IN ACCESS EXCLUSIVE MODE")
            answers = [
                await caller.post("/Users", document(ANA)),
                await caller.get("/Users", filter=f'userName eq "{ANA}"'),
            ]
        for answer in answers:
            answer.error(503)
            assert int(answer.headers["Retry-After"]) > 0
        again = await caller.post("/Users", document(ANA))
        assert again.status in (201, 409)  # 409: the first went through once the lock was gone
        assert len(await caller.match(f'userName eq "{ANA}"')) == 1


async def test_case_146_and_148_no_query_and_no_person_in_the_logs(caller: Caller) -> None:
    with capture_logs() as lines:
        await caller.create(document(ANA, emails=[work_email(ANA)], unknownThing="x"))
        await caller.match(f'userName eq "{ANA}"')
        await caller.get("/Users", filter=f'nonsense eq "{ANA}"')
        await caller.get(f"/Users/{ANA}")
        await caller.post("/Users", document(ANA))
    assert [line["status"] for line in lines if line["action"] == "scim.request"] == [201, 200, 400, 404, 409]
    assert "contoso" not in json.dumps(lines, default=str).lower()
    assert "filter" not in json.dumps([line["route"] for line in lines if "route" in line])


async def test_case_147_a_restart_finds_everybody_and_makes_nobody(caller: Caller) -> None:
    users = [await caller.create(document(f"user{number}@contoso.example")) for number in range(30)]
    found = await asyncio.gather(*(caller.match(f'userName eq "{one["userName"].upper()}"') for one in users))
    assert found == [[user] for user in users]
    again = await asyncio.gather(*(caller.post("/Users", document(one["userName"].upper())) for one in users))
    assert {one.status for one in again} == {409}
    assert (await caller.get("/Users")).resources() == users


async def test_a_refused_request_leaves_nothing_to_the_garbage_collector(caller: Caller) -> None:
    """It comes after tens of thousands of objects, so what it alone could free would be megabytes."""
    await caller.create(document("twice@contoso.example"))
    gc.collect()
    gc.disable()
    try:
        for _ in range(20):
            (await caller.post("/Users", document("twice@contoso.example"))).error(409, "uniqueness")
            (await caller.get("/Users", filter="nothing")).error(400, "invalidFilter")
            (await caller.bearing("ush_nobody").get("/Users")).error(401)

        def left() -> int:
            return sum(type(one) is Call for one in gc.get_objects())

        # The request log holds each for a second.
        await wait_until(lambda: left() < 20, "the requests are gone")
    finally:
        gc.enable()
