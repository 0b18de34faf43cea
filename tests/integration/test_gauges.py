"""The gauges of `/metrics` that come from the servers."""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any

import pytest
from redis.asyncio import Redis
from uuid_utils.compat import uuid7

from models import metrics
from models.gauges import Gauges
from models.jobs import PROVISION, claim
from tests.support.api import altered, store
from tests.support.ledger import new_tenant, stage
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import asyncpg

    from models.counts import Metric
    from models.settings import Settings


@pytest.fixture
async def gauges(settings: Settings, redis_url: str) -> AsyncIterator[Gauges]:
    async with Redis.from_url(redis_url) as redis:

        async def info() -> Mapping[str, object]:
            found: Mapping[str, object] = await redis.info()
            return found

        made = Gauges(settings, info)
        yield made
        await made.close()


async def values(gauges: Gauges, metric: Metric) -> dict[tuple[str, ...], float]:
    gauges._read_at = -math.inf  # asked again within five seconds it would answer what it knows
    return {labels: numbers[0] for (name, labels), numbers in (await gauges.read()).items() if name == metric.name}


async def test_an_empty_ledger_has_zeros(gauges: Gauges) -> None:
    assert set((await values(gauges, metrics.QUEUE_JOBS)).values()) == {0.0}
    assert set((await values(gauges, metrics.DEAD_JOBS)).values()) == {0.0}
    assert await values(gauges, metrics.WORKER_LAST_BEAT) == {("provision",): math.inf, ("email",): math.inf}
    assert await values(gauges, metrics.DATABASE_UP) == {(): 1.0}
    assert await values(gauges, metrics.REDIS_UP) == {(): 1.0}


async def test_jobs_are_told_apart_by_queue_and_state(gauges: Gauges, pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        tenant_id = await new_tenant(connection)
        await stage(connection, tenant_id, 9)
        await claim(connection, PROVISION, lease_token=uuid7(), lease_seconds=30, limit=2)
        await _set(connection, "state = 'retry', staged_at = now() - interval '70 seconds'", 3)
        await _set(connection, "state = 'dead'", 1)
        await _set(connection, "run_at = now() + interval '1 day'", 1)
        await connection.execute("UPDATE job SET run_at = now() - interval '30 seconds' WHERE run_at < now()")
    jobs = await values(gauges, metrics.QUEUE_JOBS)
    assert {state: jobs["provision", state] for state in ("staged", "scheduled", "retry", "running")} == {
        "staged": 2,
        "scheduled": 1,
        "retry": 3,
        "running": 2,
    }
    assert (await values(gauges, metrics.DEAD_JOBS))["provision", "user.create"] == 1
    ages = await values(gauges, metrics.QUEUE_OLDEST)
    assert ages["provision", "staged"] == pytest.approx(30, abs=5)
    assert ages["provision", "retry"] == pytest.approx(70, abs=5)
    assert 0 <= ages["provision", "running"] < 5
    assert ages["email", "staged"] == 0


async def _set(connection: Any, change: str, count: int) -> None:
    await connection.execute(
        f"UPDATE job SET {change} WHERE id IN (SELECT id FROM job WHERE state = 'staged' AND run_at <= now()"  # noqa: S608  of this file
        f" ORDER BY id LIMIT {count})"
    )


async def test_a_pause_of_a_kind_or_of_all_shows_until_it_is_over(gauges: Gauges, pool: asyncpg.Pool) -> None:
    async def pause(kind: str | None, tenant: bool, until: str) -> None:
        await pool.execute(
            "INSERT INTO job_pause (id, kind, tenant_id, reason, paused_by, expires_at)"
            " VALUES ($1, $2, $3, 'test', 'test', now() + $4::text::interval)",
            uuid7(),
            kind,
            uuid7() if tenant else None,
            until,
        )

    await pause("user.create", tenant=True, until="1 day")
    await pause("user.create", tenant=False, until="-1 day")
    assert await values(gauges, metrics.QUEUE_PAUSED) == {("provision",): 0.0, ("email",): 0.0}
    await pause("invitation.send", tenant=False, until="1 day")
    assert await values(gauges, metrics.QUEUE_PAUSED) == {("provision",): 0.0, ("email",): 1.0}
    await pause(None, tenant=False, until="1 day")
    assert await values(gauges, metrics.QUEUE_PAUSED) == {("provision",): 1.0, ("email",): 1.0}


async def test_workers_are_counted_while_they_give_signs_of_life(gauges: Gauges, pool: asyncpg.Pool) -> None:
    for role, queues, age, stopped in (
        ("worker", ["provision", "email"], 3, False),
        ("worker", ["provision"], 300, False),
        ("worker", ["email"], 1, True),
        ("api", [], 1, False),
    ):
        await pool.execute(
            "INSERT INTO process (id, role, host, pid, version, queues, slots, beat_at, stopped_at)"
            " VALUES ($1, $2, 'host', 1, '0', $3, 1, now() - make_interval(secs => $4),"
            " CASE WHEN $5 THEN now() END)",
            uuid7(),
            role,
            queues,
            age,
            stopped,
        )
    assert await values(gauges, metrics.WORKERS) == {("provision",): 1.0, ("email",): 1.0}
    beats = await values(gauges, metrics.WORKER_LAST_BEAT)
    assert beats["provision",] == pytest.approx(3, abs=2)


async def test_tokens_that_end_count_once_a_tenant_and_not_while_a_later_one_is_there(
    gauges: Gauges, pool: asyncpg.Pool
) -> None:
    async with pool.acquire() as connection:
        ending, renewed, ended = [await new_tenant(connection) for _ in range(3)]
        for tenant_id, days in ((ending, 2), (ending, 1), (renewed, 2), (renewed, 300), (ended, -1)):
            await connection.execute(
                "INSERT INTO token (id, tenant_id, secret_hash, scopes, label, expires_at)"
                " VALUES ($1, $2, $3, '{scim}', 'x', now() + make_interval(days => $4) - interval '1 hour')",
                uuid7().hex[-12:],
                tenant_id,
                b"x" * 32,
                days,
            )
    assert await values(gauges, metrics.TOKENS_EXPIRING) == {("1",): 0.0, ("3",): 1.0, ("14",): 1.0}


async def test_tenants_with_the_oldest_work_are_named_only_when_asked_for(
    gauges: Gauges, settings: Settings, pool: asyncpg.Pool
) -> None:
    async with pool.acquire() as connection:
        for age in (10, 500, 100):
            tenant_id = await new_tenant(connection)
            await stage(connection, tenant_id, 2)
            await connection.execute(
                "UPDATE job SET run_at = now() - make_interval(secs => $2) WHERE tenant_id = $1", tenant_id, age
            )
    assert await values(gauges, metrics.TENANT_OLDEST) == {}
    gauges._settings = altered(settings, metrics_tenants=2)
    assert sorted((await values(gauges, metrics.TENANT_OLDEST)).values()) == pytest.approx([100, 500], abs=5)


async def test_what_is_known_is_told_while_the_store_takes_its_time(gauges: Gauges, pool: asyncpg.Pool) -> None:
    assert (await values(gauges, metrics.QUEUE_JOBS))["provision", "staged"] == 0
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("LOCK TABLE job_pause IN ACCESS EXCLUSIVE MODE")
        gauges._read_at -= 10
        known = await gauges.read()
        assert gauges._reading is not None
        assert not gauges._reading.done()
        assert known[metrics.DATABASE_UP.name, ()] == [1.0]
    await gauges._reading


async def test_what_is_known_is_kept_fresh_while_somebody_scrapes(
    gauges: Gauges, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.gauges._KEPT_SECONDS", 0.2)
    await gauges.read()
    async with pool.acquire() as connection:
        await stage(connection, await new_tenant(connection), 1)
    key = (metrics.QUEUE_JOBS.name, ("provision", "staged"))
    await wait_until(lambda: gauges._known[key] == [1.0], "the job is counted without another scrape")
    assert gauges._keeping is not None
    gauges._asked_at = -math.inf
    await wait_until(gauges._keeping.done, "nobody scrapes any more, so nothing is read")


async def test_a_part_that_cannot_be_read_is_left_out_alone(gauges: Gauges, settings: Settings) -> None:
    async with store(settings) as connection:
        await connection.execute("DROP TABLE audit_seal CASCADE")
    assert (await values(gauges, metrics.QUEUE_JOBS))["email", "staged"] == 0
    assert await values(gauges, metrics.AUDIT_UNSEALED) == {}
    assert await values(gauges, metrics.DATABASE_UP) == {(): 1.0}


async def test_without_postgresql_it_says_so_and_nothing_old(settings: Settings, redis_url: str) -> None:
    async def refused() -> Mapping[str, object]:
        raise ConnectionError

    gauges = Gauges(altered(settings, database_url="postgresql://usher@127.0.0.1:1/none"), refused)
    async with asyncio.timeout(10):
        found = await gauges.read()
    assert found == {(metrics.DATABASE_UP.name, ()): [0.0], (metrics.REDIS_UP.name, ()): [0.0]}
    await gauges.close()


async def test_events_without_a_seal_age_once_there_is_a_key(gauges: Gauges, pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        await new_tenant(connection)  # which is audited
    assert await values(gauges, metrics.AUDIT_UNSEALED) == {("log",): 0.0}
    await pool.execute("INSERT INTO audit_key (key_id, verifier) VALUES ('k', 'v')")
    assert (await values(gauges, metrics.AUDIT_UNSEALED))["log",] > 0
    await pool.execute(
        "INSERT INTO audit_seal (stream, seq, kind, from_xid, to_xid, count, root, previous, hash, sealed_at, key_id,"
        " signature) SELECT $1, 1, 'events', 0, pg_current_xact_id()::text::bigint, 1, '', '', '', now(), 'k', ''",
        uuid7(),
    )
    assert await values(gauges, metrics.AUDIT_UNSEALED) == {("log",): 0.0}
