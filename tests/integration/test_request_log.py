"""What operators see of requests: in batches, capped, counted, redacted, and not for ever."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import asyncpg
import pytest
from aiohttp import web
from uuid_utils.compat import uuid7

from api.request_log import MOST_CAPTURED, MOST_SUCCESSES, MOST_WAITING, RequestLog
from api.scim.call import Call
from api.scim.inner import make_request
from models.audit.record import Actor
from models.errors import InvalidValueError
from models.request_log import (
    Count,
    LoggedRequest,
    find_request,
    list_requests,
    prune,
    set_capture,
    traffic,
    write_requests,
)
from tests.support.api import document, serving, work_email
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from models.settings import Settings
    from tests.support.api import Api, Caller

PERSON = Actor("operator", "1", "test")


@pytest.fixture
async def api(settings: Settings) -> AsyncIterator[Api]:
    async with serving(settings) as served:
        yield served


def seen(tenant_id: UUID | None, body: bytes = b"", capture_until: datetime | None = None) -> Call:
    """Return an answered call of a tenant."""
    request = make_request("POST", "/scim/v2/Users", headers={}, body=body, remote=None)
    sender = SimpleNamespace(tenant_id=tenant_id, capture_until=capture_until)
    call = Call(cast("Any", None), request, uuid7(), route="/Users")
    call.principal = cast("Any", sender)
    return call


async def logged(pool: asyncpg.Pool, count: int = 1, **wanted: Any) -> list[dict[str, Any]]:
    """Return at least so many rows, newest first."""

    async def rows() -> list[dict[str, Any]]:
        found = await list_requests(cast("Any", pool), **wanted)
        return found if len(found) >= count else []

    return await wait_until(rows, f"{count} logged requests")


async def test_successes_are_capped_refusals_are_not_and_all_are_counted(pool: asyncpg.Pool) -> None:
    log, tenant_id = RequestLog(pool, pause_seconds=0.2), uuid7()
    for _ in range(MOST_SUCCESSES + 25):
        log.add(seen(tenant_id), web.Response(status=201), 0.01, None)
    for _ in range(30):
        log.add(seen(tenant_id), web.Response(status=400), 0.01, InvalidValueError("userName is required."))
    rows = await logged(pool, MOST_SUCCESSES + 30, tenant_id=tenant_id, limit=500)
    assert len(rows) == MOST_SUCCESSES + 30
    assert len(await logged(pool, 30, tenant_id=tenant_id, failed=True)) == 30
    async with pool.acquire() as connection:
        counted = await traffic(connection, tenant_id, seconds=300)
    assert counted == {"succeeded": MOST_SUCCESSES + 25, "refused": 30, "omitted": 25}
    # The next second has a share of its own.
    log.add(seen(tenant_id), web.Response(status=201), 0.01, None)
    await log.close()
    assert len(await list_requests(cast("Any", pool), tenant_id=tenant_id, limit=500)) == MOST_SUCCESSES + 31


async def test_a_flood_of_refusals_is_bounded(pool: asyncpg.Pool) -> None:
    log = RequestLog(pool, pause_seconds=60)
    call = seen(None)
    for _ in range(MOST_WAITING + 7):
        log.add(call, web.Response(status=400), 0.01, InvalidValueError())
    await log.close()
    async with pool.acquire() as connection:
        counted = await traffic(connection, None, seconds=300)
    assert counted == {"succeeded": 0, "refused": MOST_WAITING + 7, "omitted": 7}


async def test_what_the_store_was_not_there_for_is_noted_once_it_is_back(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, tenant_id = RequestLog(pool, pause_seconds=0.01), uuid7()
    refusals: list[int] = []
    real = write_requests

    async def away(connection: Any, requests: Any, counts: Any) -> None:
        refusals.append(len(requests))
        if len(refusals) <= 3:
            raise asyncpg.CannotConnectNowError("the database system is starting up")
        await real(connection, requests, counts)

    monkeypatch.setattr("api.request_log.write_requests", away)
    log.add(seen(tenant_id), web.Response(status=201), 0.01, None)
    await wait_until(lambda: len(refusals) >= 2, "the store is asked again")
    log.add(seen(tenant_id), web.Response(status=400), 0.01, InvalidValueError())
    await wait_until(lambda: log.idle, "all is noted")
    assert refusals[-1] == 2
    assert len(await logged(pool, 2, tenant_id=tenant_id)) == 2
    async with pool.acquire() as connection:
        assert await traffic(connection, tenant_id, seconds=300) == {"succeeded": 1, "refused": 1, "omitted": 0}


async def test_a_store_that_stays_away_costs_no_memory_and_no_request() -> None:
    pool = await asyncpg.create_pool("postgresql://127.0.0.1:1/none", min_size=0, timeout=1)
    log, call = RequestLog(pool, pause_seconds=0.01), seen(uuid7())
    log.add(call, web.Response(status=400), 0.01, InvalidValueError())
    await wait_until(lambda: log._rows, "the attempt to write")
    for _ in range(MOST_WAITING + 5):
        log.add(call, web.Response(status=400), 0.01, InvalidValueError())
    assert len(log._rows) + len(log._seen) == MOST_WAITING
    await log.close()
    await pool.close()


async def test_processes_that_count_at_once_add_up(pool: asyncpg.Pool) -> None:
    tenants = [uuid7() for _ in range(20)]

    async def write(order: list[UUID]) -> None:
        async with pool.acquire() as connection:
            for _ in range(20):
                await write_requests(connection, [], {each: Count(1, 2, 3) for each in order})

    await asyncio.gather(*(write(tenants[::step]) for step in (1, -1, 1, -1)))
    async with pool.acquire() as connection:
        for each in tenants:
            assert await traffic(connection, each, seconds=300) == {"succeeded": 80, "refused": 160, "omitted": 240}


async def test_what_entra_sent_is_told_without_its_people(api: Api, pool: asyncpg.Pool) -> None:
    caller = await api.caller()
    user = await caller.create(document("ana@contoso.example", emails=[work_email("ana@contoso.example")]))
    await caller.post("/Users", document("ana@contoso.example"))
    await caller.get("/Users", filter='userName eq ana@contoso.example or "')
    await caller.get(f"/Users/{user['id']}")
    await caller.get("/Users/ana@contoso.example")
    patch = {"Operations": [{"op": "Replace", "path": "active", "value": "False"}]}
    await caller.send("PATCH", f"/Users/{user['id']}", body=str(patch).replace("'", '"').encode())
    rows = (await logged(pool, 6, tenant_id=caller.tenant.id))[::-1]
    assert [(row["method"], row["path"], row["status"], row["scim_type"]) for row in rows] == [
        ("POST", "/Users", 201, None),
        ("POST", "/Users", 409, "uniqueness"),
        ("GET", "/Users", 400, "invalidFilter"),
        ("GET", f"/Users/{user['id']}", 200, None),
        ("GET", "/Users/(no id)", 404, None),
        ("PATCH", f"/Users/{user['id']}", 200, None),
    ]
    assert rows[0]["note"] is None
    assert "filter" in rows[2]["note"]
    assert rows[5]["note"] == (
        'Tolerated: op is written Replace, not replace; active is the string "False", not a boolean.'
    )
    assert not any("ana" in str(row["note"]) or "contoso" in str(row) for row in rows)
    assert not any(row["has_bodies"] for row in rows)
    assert all(0 < row["duration_seconds"] < 30 for row in rows)


async def test_a_stranger_is_logged_without_tenant_and_an_expired_token_with_its_own(
    api: Api, pool: asyncpg.Pool
) -> None:
    caller = await api.caller()
    await caller.bearing("nonsense").get("/Users")
    assert (await logged(pool, 1))[0]["tenant_id"] is None
    async with pool.acquire() as connection:
        await connection.execute("UPDATE token SET expires_at = now() WHERE id = $1", caller.tenant.token_id)
    await caller.get("/Users")
    (row,) = await logged(pool, 1, tenant_id=caller.tenant.id)
    assert (row["status"], row["tenant"]) == (401, caller.tenant.name)


async def capture(pool: asyncpg.Pool, caller: Caller, minutes: int) -> datetime | None:
    async with pool.acquire() as connection:
        return await set_capture(connection, caller.tenant.name, minutes, actor=PERSON, correlation_id=uuid7())


async def test_bodies_are_kept_while_the_capture_is_on_and_a_day_longer(api: Api, pool: asyncpg.Pool) -> None:
    caller = await api.caller()
    until = await capture(pool, caller, 30)
    assert until is not None
    user = document("ana@contoso.example", password="correct horse", title="Herzogin")
    await caller.post("/Users", user)
    await caller.post("/Users", user)
    second, first = await logged(pool, 2, tenant_id=caller.tenant.id)
    async with pool.acquire() as connection:
        found, refused = await find_request(connection, first["id"]), await find_request(connection, second["id"])
    assert found is not None
    assert refused is not None
    assert found["captured"]["request"]["password"] == "(removed)"
    assert found["captured"]["request"]["title"] == "(text, 8 characters)"
    assert found["captured"]["response"]["userName"] == "(address, 19 characters)"
    assert refused["captured"]["response"]["scimType"] == "uniqueness"
    assert not any(word in str([found, refused]) for word in ("ana@", "correct horse", "Herzogin"))
    assert found["captured_until"] == until + timedelta(hours=24)

    await capture(pool, caller, 0)  # ended early: so ends the day
    async with pool.acquire() as connection:
        ends = (await find_request(connection, first["id"]) or {})["captured_until"]
        assert ends < until + timedelta(hours=24)
        await prune(connection, now=ends - timedelta(minutes=1))
        assert (await find_request(connection, first["id"]) or {})["captured"]
        await prune(connection, now=ends)
        assert (await find_request(connection, first["id"]) or {})["captured"] is None
        event = await connection.fetchrow("SELECT * FROM audit_event WHERE action = 'tenant.capture.change' LIMIT 1")
    assert event is not None
    assert event["diff"][0]["path"] == "capture_until"


async def test_a_capture_that_is_over_is_not_shown_even_before_it_is_deleted(pool: asyncpg.Pool) -> None:
    now = datetime.now(UTC)
    row = LoggedRequest(
        None, now, "GET", "/Users", "/Users", 200, None, 0.1, uuid7(), captured={"request": 1}, captured_until=now
    )
    async with pool.acquire() as connection:
        await write_requests(connection, [row], {})
        (listed,) = await list_requests(connection)
        found = await find_request(connection, listed["id"])
    assert listed["has_bodies"] is False
    assert found is not None
    assert found["captured"] is None


async def test_rows_go_after_three_days_and_beyond_the_most_of_a_tenant(pool: asyncpg.Pool) -> None:
    noisy, quiet = uuid7(), uuid7()
    rows = [
        LoggedRequest(tenant, datetime.now(UTC), "GET", "/Users", "/Users", 200, None, 0.1, uuid7())
        for tenant in [noisy] * 15 + [quiet] * 3
    ]
    async with pool.acquire() as connection:
        await connection.executemany(
            "INSERT INTO tenant (id, name, display_name) VALUES ($1, $2, 'x')", [(noisy, "noisy"), (quiet, "quiet")]
        )
        await write_requests(connection, rows, {})
        newest = [row["id"] for row in await list_requests(connection, tenant_id=noisy, limit=10)]
        assert await prune(connection, most_rows=10) == 5
        assert [row["id"] for row in await list_requests(connection, tenant_id=noisy)] == newest
        assert len(await list_requests(connection, tenant_id=quiet)) == 3
        assert await prune(connection, now=datetime.now(UTC) + timedelta(days=3, minutes=-5)) == 0
        assert await prune(connection, now=datetime.now(UTC) + timedelta(days=3, minutes=5)) == 13


async def test_pages_follow_each_other(pool: asyncpg.Pool) -> None:
    rows = [
        LoggedRequest(None, datetime.now(UTC), "GET", "/Users", "/Users", 200, None, number, uuid7())
        for number in range(25)
    ]
    async with pool.acquire() as connection:
        await write_requests(connection, rows, {})
        first = await list_requests(connection, limit=10)
        second = await list_requests(connection, limit=10, before=first[-1]["id"])
        assert [row["duration_seconds"] for row in first + second] == list(range(24, 4, -1))
        assert [row["duration_seconds"] for row in await list_requests(connection, after=second[0]["id"], limit=3)] == [
            15,
            16,
            17,
        ]
        assert await list_requests(connection, correlation_id=rows[3].correlation_id) == [
            row for row in await list_requests(connection) if row["correlation_id"] == rows[3].correlation_id
        ]
        assert await list_requests(connection, route="/Groups") == []


async def test_a_capture_keeps_more_but_not_everything(pool: asyncpg.Pool) -> None:
    log, tenant_id = RequestLog(pool, pause_seconds=60), uuid7()
    call = seen(tenant_id, capture_until=datetime.now(UTC) + timedelta(minutes=5))
    for _ in range(MOST_CAPTURED + 3):
        log.add(call, web.Response(status=201), 0.01, None)
    await log.close()
    async with pool.acquire() as connection:
        counted = await traffic(connection, tenant_id, seconds=300)
    assert counted == {"succeeded": MOST_CAPTURED + 3, "refused": 0, "omitted": 3}
