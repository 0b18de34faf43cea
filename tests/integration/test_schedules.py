"""What runs again and again: once for all workers, told, tried again when it failed."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from uuid_utils.compat import uuid7

from models import schedules
from models.audit.record import Actor
from models.errors import UsageError
from models.heartbeat import Heartbeat, identify
from models.schedules import SCHEDULES, SWEEP, list_schedules, run_now
from tests.support.ledger import Interrupted, new_tenant, old_id, old_job
from tests.support.waiting import wait_until
from worker.context import Context
from worker.schedules import RUNS, Scheduler, run_one
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import asyncpg

    from models.db import Connection
    from models.schedules import Schedule
    from models.settings import Settings
    from worker.schedules import Run

ACTOR = Actor("operator", "7", "olga")
NAME = "audit.partitions"


@pytest.fixture
def context(settings: Settings, pool: asyncpg.Pool) -> Context:
    return Context(settings, pool, SmtpPool(settings), lambda _queue, _ids: None)


@asynccontextmanager
async def keeping(context: Context, **runs: Run) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(
        Scheduler(context, {name.replace("_", "."): run for name, run in runs.items()}).keep(tick_seconds=0.02)
    )
    try:
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def told(pool: asyncpg.Pool, name: str = NAME) -> Schedule:
    async with pool.acquire() as connection:
        return next(one for one in await list_schedules(connection) if one.entry.name == name)


async def in_state(pool: asyncpg.Pool, state: str) -> bool:
    return (await told(pool)).state == state


async def ask(pool: asyncpg.Pool, name: str = NAME) -> bool:
    async with pool.acquire() as connection:
        return await run_now(connection, name, actor=ACTOR)


def test_every_schedule_that_can_be_asked_for_has_its_function_and_the_other_way_round() -> None:
    assert {name for name, entry in SCHEDULES.items() if entry.every_seconds is not None} == set(RUNS)
    assert SCHEDULES[SWEEP].every_seconds is None


async def test_it_runs_at_the_start_and_then_not_before_its_time(context: Context, pool: asyncpg.Pool) -> None:
    assert (await told(pool)).state == "waiting"
    runs = 0

    async def run(_: Context, __: Connection) -> str:
        nonlocal runs
        runs += 1
        return "three things done"

    async with keeping(context, audit_partitions=run):
        await wait_until(lambda: in_state(pool, "ok"), "the first run")
        first = await told(pool)
        assert (first.detail, first.outcome, first.run_now) == ("three things done", "ok", False)
        assert first.finished_at is not None
        assert first.next_at is not None
        assert (first.next_at - first.finished_at).total_seconds() == pytest.approx(3600, abs=1)
        assert first.seconds is not None
        assert first.seconds < 5
        assert await ask(pool)
        await wait_until(lambda: runs == 2, "the run that was asked for")
    assert runs == 2


async def test_many_workers_run_it_once(context: Context, pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        await schedules.register(connection, [NAME])
    inside, most, runs = 0, 0, 0

    async def run(_: Context, connection: Connection) -> str:
        nonlocal inside, most, runs
        inside, runs = inside + 1, runs + 1
        most = max(most, inside)
        await connection.execute("SELECT pg_sleep(0.05)")
        inside -= 1
        return ""

    for wanted in range(1, 6):
        outcomes = await asyncio.gather(*(run_one(context, NAME, run) for _ in range(4)))
        assert sorted(outcomes) == [False, False, False, True]
        assert (runs, most) == (wanted, 1)
        await ask(pool)


async def test_a_failure_is_told_and_tried_again(
    context: Context, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "RETRY_SECONDS", 0.05)
    broken = True

    async def run(_: Context, connection: Connection) -> str:
        if broken:
            await connection.execute("SELECT * FROM no_such_table")
        return "mended"

    async with keeping(context, audit_partitions=run) as task:
        await wait_until(lambda: in_state(pool, "failed"), "the failure is told")
        assert (await told(pool)).detail == 'UndefinedTableError: relation "no_such_table" does not exist'
        broken = False
        await wait_until(lambda: in_state(pool, "ok"), "it is tried again")
        assert (await told(pool)).detail == "mended"
        assert not task.done()


async def test_a_run_whose_worker_is_gone_is_run_by_another(
    context: Context, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schedules, "RETRY_SECONDS", 0.05)
    begun = asyncio.Event()

    async def endless(_: Context, __: Connection) -> str:
        begun.set()
        await asyncio.Event().wait()
        return ""

    async def run(_: Context, __: Connection) -> str:
        return "taken over"

    async with keeping(context, audit_partitions=endless):
        await begun.wait()
        assert await in_state(pool, "running")

        async def due_again() -> bool:
            async with pool.acquire() as connection:
                return await schedules.due(connection, [NAME]) == [NAME]

        await wait_until(due_again, "it is due again while it runs")
        assert not await run_one(context, NAME, run), "one at a time, whatever the clock says"
    async with keeping(context, audit_partitions=run):
        await wait_until(lambda: in_state(pool, "ok"), "another worker runs it")
    assert (await told(pool)).detail == "taken over"


async def test_an_outage_is_outlived(context: Context, pool: asyncpg.Pool) -> None:
    away = Interrupted(pool)
    away.away = True
    interrupted: Any = away

    async def run(_: Context, __: Connection) -> str:
        return "after all"

    async with keeping(replace(context, pool=interrupted), audit_partitions=run):
        await wait_until(lambda: away.asked > 2, "it looks again and again")
        away.away = False
        await wait_until(lambda: in_state(pool, "ok"), "it runs")


async def test_asking_twice_is_one_run_and_one_event(pool: asyncpg.Pool) -> None:
    assert sorted(await asyncio.gather(*(ask(pool) for _ in range(5)))) == [False, False, False, False, True]
    (event,) = await pool.fetch("SELECT * FROM audit_event WHERE action = 'ops.schedule.run'")
    assert (event["actor_label"], event["targets"][0]["id"]) == ("olga", NAME)
    with pytest.raises(UsageError, match="There is no schedule backup; there are"):
        await ask(pool, "backup")
    with pytest.raises(UsageError, match="pace of its own"):
        await ask(pool, SWEEP)


async def test_everything_in_the_registry_does_its_work(context: Context, pool: asyncpg.Pool) -> None:
    async with pool.acquire() as connection:
        tenant = await new_tenant(connection)
        name = await connection.fetchval("SELECT to_char(now() AT TIME ZONE 'UTC' + interval '2 months', 'YYYYMM')")
        partition = f"audit_event_{name}"
        await connection.execute(f"RESET ROLE; DROP TABLE {partition}; SET ROLE usher_app")
        await connection.execute(
            "INSERT INTO invitation (id, tenant_id, user_id, email, state, expires_at)"
            " SELECT gen_random_uuid(), $1, gen_random_uuid(), 'a@b', state, now() + make_interval(secs => seconds)"
            " FROM (VALUES ('sent', -1), ('sent', 60), ('accepted', -1)) AS v (state, seconds)",
            tenant,
        )
        await connection.execute(
            "UPDATE invitation SET token_hash = '\\x01', expires_at = now() - interval '31 days'"
            " WHERE state = 'accepted'"
        )
        for number, state in enumerate(("done", "cancelled")):
            await old_job(connection, tenant, state, staged=31, ended=31, number=number)
        await connection.execute(
            "INSERT INTO bulk_operation (id, action, query, state, expected, requested_by, correlation_id, created_at,"
            " finished_at) SELECT $1, 'retry', 'state:dead', 'done', 1, 'olga', $1, at, at"
            " FROM (VALUES (now() - interval '31 days')) AS v (at)",
            old_id(31),
        )
        await connection.execute(
            "INSERT INTO deferred_request (id, tenant_id, result, finished_at)"
            " SELECT gen_random_uuid(), $1, '{}', now() - make_interval(days => days) FROM unnest(ARRAY[6, 8]) AS days",
            tenant,
        )
        await connection.execute(
            "INSERT INTO job_minute (minute, kind, process_id, queueing, running)"
            " SELECT date_trunc('minute', now()) - make_interval(days => days), 'user.create', $1, '{}', '{}'"
            " FROM unnest(ARRAY[7, 9]) AS days",
            uuid7(),
        )
        await connection.execute(
            "INSERT INTO operator (id, name, email, role) VALUES ($1, 'olga', 'olga@example.com', 'admin')", uuid7()
        )
        await connection.execute(
            "INSERT INTO operator_session (id_hash, operator_id, expires_at)"
            " SELECT int4send(hours), operator.id, now() + make_interval(hours => hours)"
            " FROM operator, unnest(ARRAY[-10, 10]) AS hours"
        )
        await Heartbeat(pool, identify(uuid7(), "worker"))._beat()
        await connection.execute("UPDATE process SET beat_at = now() - interval '2 days'")
        await schedules.register(connection, RUNS)

    # sealing has tests of its own
    mine = ("audit.partitions", "invitation.", "job.", "request.", "session.", "statistics.")
    for name, run in RUNS.items():
        if name.startswith(mine):
            assert await run_one(context, name, run), name
    async with pool.acquire() as connection:
        assert await connection.fetchval("SELECT to_regclass($1) IS NOT NULL", partition)
        states = await connection.fetch("SELECT state FROM invitation ORDER BY state")
        assert [one["state"] for one in states] == ["accepted", "expired", "sent"]
        for table, left in (("deferred_request", 1), ("job_minute", 1), ("operator_session", 1), ("process", 0)):
            assert await connection.fetchval(f"SELECT count(*) FROM {table}") == left, table  # noqa: S608  constants
        found = {one.entry.name: one.detail for one in await list_schedules(connection)}
        assert {name: detail for name, detail in found.items() if name.startswith(mine)} == {
            "audit.partitions": "1 partition made",
            "invitation.expiry": "1 invitation expired, 1 link forgotten",
            "job.cleanup": "2 jobs deleted, 1 bulk operation deleted",
            "request.deferred": "1 outcome forgotten",
            "request.log": "",
            "session.cleanup": "1 row deleted",
            "statistics.cleanup": "2 rows deleted",
        }
