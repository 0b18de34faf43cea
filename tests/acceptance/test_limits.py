"""A token that asks for too much is answered 429 with a time to come back; the others do not notice."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from cli.simulate import tenant
from cli.simulate.report import Report
from cli.simulate.wire import Wire
from models import metrics
from tests.support.api import altered, document, serving, store, until
from tests.support.writing import audited

if TYPE_CHECKING:
    from tests.support.api import Answer, Api

pytestmark = pytest.mark.asyncio(loop_scope="module")


def is_limited(answer: Answer) -> bool:
    """Tell whether an answer is a refusal, and check its form if it is."""
    if answer.status == 429:
        assert "token" in answer.error(429)
        assert int(answer.headers["Retry-After"]) >= 1
    return answer.status == 429


def counted(limit: str) -> float:
    return metrics.COUNTS.read().get((metrics.REQUESTS_LIMITED.name, (limit,)), [0.0])[0]


async def test_the_rate_of_a_token(api: Api) -> None:
    async with serving(altered(api.settings, token_rate=2)) as served:
        caller, other = await served.caller(), await served.caller()
        before = counted("rate")
        answers = [await caller.get("/Users", filter=f'userName eq "u{number}"') for number in range(30)]
        limited = [is_limited(answer) for answer in answers]
        assert limited[:4] == [False] * 4
        assert sum(limited) > 20
        assert counted("rate") - before == sum(limited)
        assert await other.match('userName eq "x"') == []
        assert (await caller.bearing(None).send("GET", "/Schemas")).status == 200, "who bears no token has no limit"

    async with store(api.settings) as connection:
        rows = await connection.fetch(
            "SELECT status, note FROM request_log WHERE tenant_id = $1 ORDER BY occurred_at", caller.tenant.id
        )
        minutes = await connection.fetchrow(
            "SELECT sum(refused) AS refused, sum(omitted) AS omitted FROM request_minute WHERE tenant_id = $1",
            caller.tenant.id,
        )
    assert minutes is not None
    assert [row["status"] for row in rows].count(429) == 1, "of the many one is shown"
    assert (minutes["refused"], minutes["omitted"]) == (sum(limited), sum(limited) - 1), "and all are counted"
    (event,) = await audited(api.settings, caller.tenant.id, "scim.request.deny")
    assert event["reason"] == "rate"
    assert event["context"]["status"] == 429
    assert event["context"]["refused"] == 1


async def test_requests_of_a_token_that_are_under_way(api: Api) -> None:
    async with serving(altered(api.settings, token_in_flight=5)) as served, store(api.settings) as connection:
        caller, other = await served.caller(), await served.caller()
        await asyncio.gather(*(one.get("/Users") for one in (caller, other)))  # their tokens are known
        async with connection.transaction():
            await connection.execute("LOCK TABLE identifier IN ACCESS EXCLUSIVE MODE")
            held = [asyncio.create_task(caller.post("/Users", document(f"held{number}"))) for number in range(5)]

            async def refused() -> bool:
                return is_limited(await caller.send("GET", "/Schemas"))

            await until(refused, "five requests are in hand")
            assert (await other.send("GET", "/Schemas")).status == 200
        assert [answer.status for answer in await asyncio.gather(*held)] == [201] * 5
        assert (await caller.get("/Users")).status == 200, "what was answered counts no more"


async def test_operations_of_a_bulk_request_count_as_requests(api: Api) -> None:
    async with serving(altered(api.settings, token_rate=10)) as served:
        caller = await served.caller()
        operations = [
            {"method": "POST", "path": "/Users", "bulkId": f"b{number}", "data": document(f"bulk{number}")}
            for number in range(100)
        ]
        answer = await caller.post(
            "/Bulk", {"schemas": ["urn:ietf:params:scim:api:messages:2.0:BulkRequest"], "Operations": operations}
        )
        assert {one["status"] for one in answer.json["Operations"]} == {"201"}, "a request that was let in is done"
        assert is_limited(await caller.get("/Users"))


@pytest.mark.parametrize("listener", ["public", "internal"])
async def test_the_audit_api_has_the_same_limit(api: Api, listener: str) -> None:
    async with serving(altered(api.settings, token_rate=1)) as served:
        caller = await served.caller(scopes=["audit"])
        url = served.internal_url if listener == "internal" else served.scim_url.removesuffix("/scim/v2")
        headers = {"Authorization": f"Bearer {caller.token}"}
        statuses = []
        for _ in range(6):
            async with served.session.get(f"{url}/audit/events", headers=headers) as answer:
                statuses.append(answer.status)
                body = await answer.json(content_type=None)
        assert (statuses[0], statuses[-1]) == (200, 429)
        assert (body["status"], body["title"]) == (429, "Too Many Requests")
        assert int(answer.headers["Retry-After"]) >= 1
    (event,) = await audited(api.settings, caller.tenant.id, "auth.request.deny")
    assert (event["reason"], event["actor_id"]) == ("rate", caller.tenant.token_id)


async def test_the_simulator_comes_again_as_entra_does(api: Api) -> None:
    async with serving(altered(api.settings, token_rate=25)) as served:
        caller = await served.caller()
        report = Report(url=served.scim_url, seed=7, dialect="mixed", users=30, groups=0, concurrency=8)
        assert caller.token is not None
        async with Wire(served.scim_url, caller.token, 8, report) as wire:
            await tenant.run(wire, report, "mixed", lambda *_: lambda: None)
    assert report.retries > 0
    assert (report.created, report.deviations) == (30, [])
