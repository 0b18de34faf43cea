"""What has ended leaves the ledger after its time, in small transactions; what may still matter stays."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import UUID

from uuid_utils.compat import uuid7

from models import upkeep
from tests.support.ledger import new_tenant, old_id, old_job

if TYPE_CHECKING:
    import asyncpg
    import pytest

    from models.db import Connection


async def left(connection: Connection) -> set[UUID]:
    """Return the jobs that are there, each with its attempt."""
    jobs = {row["id"] for row in await connection.fetch("SELECT id FROM job")}
    assert {row["job_id"] for row in await connection.fetch("SELECT job_id FROM job_attempt")} == jobs
    return jobs


async def test_jobs_that_ended_go_with_their_attempts_and_others_stay(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        tenant_id = await new_tenant(connection)
        for number, state in enumerate(("done", "cancelled")):
            await old_job(connection, tenant_id, state, staged=31, ended=30.5, number=number)
        kept = {
            await old_job(connection, tenant_id, "done", staged=40, ended=29),  # an operator had it done lately
            await old_job(connection, tenant_id, "done", staged=29, ended=29),
            await old_job(connection, tenant_id, "dead", staged=50, ended=50),
            await old_job(connection, tenant_id, "staged", staged=51, ended=None),
            await old_job(connection, tenant_id, "retry", staged=52, ended=None),
            await old_job(connection, tenant_id, "running", staged=53, ended=None),
        }
        assert await upkeep.forget_jobs(connection, 30) == 2
        assert await left(connection) == kept
        assert await upkeep.forget_jobs(connection, 30) == 0


async def test_many_go_in_small_transactions_and_what_stays_holds_none_up(
    pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More dead jobs than a chunk has stand before those that go."""
    monkeypatch.setattr(upkeep, "CHUNK", 4)
    async with pool.acquire() as connection:
        tenant_id = await new_tenant(connection)
        dead = {await old_job(connection, tenant_id, "dead", staged=60, ended=60, number=number) for number in range(9)}
        for number in range(14):
            await old_job(connection, tenant_id, "done", staged=50, ended=50, number=number)
        most = 0
        fetch = connection.fetch

        class Counting:
            """The connection, which remembers the largest transaction."""

            async def fetch(self, *values: Any) -> Any:
                nonlocal most
                rows = await fetch(*values)
                most = max(most, rows[0]["gone"])
                return rows

        counting: Any = Counting()
        assert await upkeep.forget_jobs(counting, 30) == 14
        assert most == 4
        assert await left(connection) == dead


async def test_old_jobs_are_found_by_the_primary_key(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        tenant_id = await new_tenant(connection)
        await connection.execute(
            "INSERT INTO job (id, tenant_id, kind, queue, state, correlation_id, finished_at)"
            " SELECT id, $1, 'user.create', 'provision', 'done', id, now()"
            " FROM (SELECT gen_random_uuid() AS id FROM generate_series(1, 20000)) AS made",
            tenant_id,
        )
        await connection.execute("RESET ROLE; ANALYZE job; SET ROLE usher_app")
        plan = await connection.fetchval(
            "EXPLAIN (FORMAT JSON) " + upkeep._FORGET_JOBS, upkeep.CHUNK, UUID(int=0), old_id(30), datetime.now(UTC)
        )
    text = str(plan)
    assert "Seq Scan" not in text
    assert text.count("job_pkey") == 2


async def test_bulk_operations_that_ended_go_and_those_that_run_stay(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        for number, (state, days) in enumerate((("done", 31), ("failed", 31), ("done", 29), ("running", 31))):
            await connection.execute(
                "INSERT INTO bulk_operation (id, action, query, state, expected, requested_by, correlation_id,"
                " finished_at) VALUES ($1, 'retry', 'state:dead', $2, 1, 'olga', $1, $3)",
                old_id(days, number),
                state,
                None if state == "running" else datetime.now(UTC) - timedelta(days=days),
            )
        assert await upkeep.forget_operations(connection, 30) == 2
        rows = await connection.fetch("SELECT state FROM bulk_operation ORDER BY state")
        assert [row["state"] for row in rows] == ["done", "running"]


async def test_links_are_forgotten_a_month_after_their_end(pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        tenant_id = await new_tenant(connection)
        for number, (state, days) in enumerate((("accepted", 31), ("expired", 31), ("expired", 29), ("sent", 31))):
            await connection.execute(
                "INSERT INTO invitation (id, tenant_id, user_id, email, state, token_hash, expires_at)"
                " VALUES ($1, $2, $1, 'a@b', $3, int4send($4), now() - make_interval(days => $5))",
                uuid7(),
                tenant_id,
                state,
                number,
                days,
            )
        assert await upkeep.forget_links(connection) == 2
        rows = await connection.fetch("SELECT state FROM invitation WHERE token_hash IS NOT NULL ORDER BY state")
        assert [row["state"] for row in rows] == ["expired", "sent"]
