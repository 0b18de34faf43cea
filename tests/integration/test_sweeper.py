"""Looking after the ledger: lost jobs are freed and told about, forgotten ones are rung for."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from uuid_utils.compat import uuid7

from models import jobs as ledger
from models import processes
from models.heartbeat import identify
from models.jobs import EMAIL, PROVISION, QUEUES
from models.ledger_sql import LOST
from models.processes import Vitals
from tests.support.api import altered
from tests.support.ledger import (
    Interrupted,
    counts,
    empty_ledger,
    expire,
    new_tenant,
    row,
    shared_database,
    stage,
    take,
)
from tests.support.waiting import wait_until
from worker import sweeper
from worker.context import Context, Handler
from worker.handlers import HANDLERS
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from uuid import UUID

    from models.db import Connection
    from models.jobs import Ending
    from models.settings import Settings
    from tests.support.servers import Servers


@pytest.fixture(scope="module")
def database_url(servers: Servers) -> Iterator[str]:
    with shared_database(servers) as url:
        yield url


@pytest.fixture
async def connection(database_url: str, pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    await empty_ledger(database_url)
    async with pool.acquire() as one:
        yield one


@pytest.fixture
async def tenant(connection: Connection) -> UUID:
    return await new_tenant(connection)


@pytest.fixture
def rung() -> list[tuple[str, list[UUID]]]:
    return []


@pytest.fixture
def context(settings: Settings, pool: asyncpg.Pool, rung: list[tuple[str, list[UUID]]]) -> Context:
    return Context(settings, pool, SmtpPool(settings), lambda queue, job_ids: rung.append((queue, job_ids)))


@pytest.fixture(autouse=True)
def no_grace(monkeypatch: pytest.MonkeyPatch) -> None:
    """The server of the tests may have been started just now."""
    monkeypatch.setattr(sweeper, "_GRACE_SECONDS", 0.0)


async def lose(connection: Connection, tenant: UUID, count: int) -> list[UUID]:
    """Stage jobs and have their worker fall silent."""
    lease = uuid7()
    staged = await stage(connection, tenant, count)
    await take(connection, lease)
    await expire(connection, lease)
    return [one.id for one in staged]


async def test_lost_jobs_are_freed_and_rung_for(
    context: Context, connection: Connection, tenant: UUID, rung: list[tuple[str, list[UUID]]]
) -> None:
    lost = await lose(connection, tenant, 3)
    await sweeper.sweep(context, HANDLERS, QUEUES)
    assert await counts(connection) == {"retry": 3}
    assert {job_id for queue, job_ids in rung for job_id in job_ids if queue == PROVISION} == set(lost)


async def test_a_worker_that_gives_signs_of_life_keeps_its_jobs(
    context: Context, connection: Connection, tenant: UUID, rung: list[tuple[str, list[UUID]]]
) -> None:
    await stage(connection, tenant, 3)
    await take(connection, uuid7())
    await sweeper.sweep(context, HANDLERS, QUEUES)
    assert await counts(connection) == {"running": 3}
    assert rung == []


async def test_after_postgresql_was_away_workers_have_time_to_give_a_sign_of_life(
    context: Context, connection: Connection, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    await lose(connection, tenant, 1)
    monkeypatch.setattr(sweeper, "_GRACE_SECONDS", 1e9)  # as if the server had just been started
    await sweeper.sweep(context, HANDLERS, QUEUES)
    assert await counts(connection) == {"running": 1}


async def test_more_than_one_transaction_frees_are_freed_in_one_look(
    context: Context, connection: Connection, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "_MOST_RESCUED", 3)
    await lose(connection, tenant, 8)
    await sweeper.sweep(context, HANDLERS, QUEUES)
    assert await counts(connection) == {"retry": 8}


async def test_a_sweeper_that_does_not_go_on_holds_up_no_other(
    pool: asyncpg.Pool, connection: Connection, tenant: UUID
) -> None:
    (held,) = await lose(connection, tenant, 1)
    async with pool.acquire() as other, other.transaction():
        assert [row["id"] for row in await ledger.rescue(other)] == [held]
        lost = await lose(connection, tenant, 2)
        freed, more = await sweeper.rescue_lost(connection, HANDLERS)
        assert (set(freed[PROVISION]), more) == (set(lost), False)
    assert await sweeper.rescue_lost(connection, HANDLERS) == ({}, False), "what the other one freed is free"


async def test_a_silent_process_that_holds_a_lost_job_is_taken_its_session(
    context: Context, settings: Settings, connection: Connection, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SILENT_SECONDS", 0.0)
    (held,) = await lose(connection, tenant, 1)
    identity = identify(uuid7(), "worker")
    await processes.beat(connection, identity, Vitals(0, 0, 0, 0, 0.0))
    called = {"application_name": f"usher worker {identity.id}"}
    frozen = await asyncpg.connect(settings.database_url.get_secret_value(), server_settings=called)
    try:
        await frozen.execute("BEGIN")
        assert await frozen.fetchval("SELECT id FROM job FOR UPDATE") == held
        await sweeper.sweep(context, HANDLERS, QUEUES)  # ends it; until its locks are gone, the next one is due
        over = "SELECT NOT EXISTS (SELECT FROM pg_stat_activity WHERE pid = $1)"
        await wait_until(lambda: connection.fetchval(over, frozen.get_server_pid()), "its session is over")
        await sweeper.sweep(context, HANDLERS, QUEUES)
    finally:
        await frozen.close()
    assert await counts(connection) == {"retry": 1}


async def test_jobs_are_freed_also_where_a_silent_session_may_not_be_ended(
    context: Context, connection: Connection, tenant: UUID, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: Connection) -> list[str]:
        raise asyncpg.InsufficientPrivilegeError("permission denied to terminate process")

    monkeypatch.setattr(sweeper, "end_silent_sessions", refuse)
    await lose(connection, tenant, 1)
    await sweeper.sweep(context, HANDLERS, QUEUES)
    assert await counts(connection) == {"retry": 1}


async def test_a_job_that_lost_its_last_attempt_is_dead_and_audited_once(
    context: Context, connection: Connection, tenant: UUID, rung: list[tuple[str, list[UUID]]]
) -> None:
    (lost,) = await lose(connection, tenant, 1)
    most = ledger.KINDS["user.create"].max_attempts
    await connection.execute("UPDATE job SET attempts = $1", most)
    for _ in range(2):
        await sweeper.sweep(context, HANDLERS, QUEUES)
    found = await row(connection, lost)
    assert (found["state"], found["attempts"], found["error_code"]) == ("dead", most, LOST)
    events = await connection.fetch(
        "SELECT action, phase, reason FROM audit_event WHERE job_id = $1 ORDER BY occurred_at, id", lost
    )
    assert [tuple(one) for one in events] == [
        ("job.attempt.rescue", "failed", LOST),
        ("scim.user.create", "failed", LOST),
    ]
    assert rung == []


async def test_a_handler_that_cannot_tell_does_not_keep_jobs_from_being_freed(
    context: Context, connection: Connection, tenant: UUID
) -> None:
    first, second = await lose(connection, tenant, 2)

    async def run(*_: Any) -> set[UUID]:
        raise AssertionError("whoever sweeps does no job")

    async def failed(connection: Connection, ending: Ending) -> None:
        await connection.execute("INSERT INTO identifier VALUES ($1, 'told', $2, $1)", tenant, str(ending.job.id))
        if ending.job.id == first:
            await connection.execute("SELECT 1 / 0")

    await sweeper.sweep(context, {"user.create": Handler("user.create", run, failed, together=True)}, QUEUES)
    assert await counts(connection) == {"retry": 2}
    told = await connection.fetch("SELECT value_key FROM identifier WHERE kind = 'told'")
    assert [one["value_key"] for one in told] == [str(second)]


async def test_only_what_should_have_been_taken_by_now_is_rung_for(
    context: Context, connection: Connection, tenant: UUID, rung: list[tuple[str, list[UUID]]]
) -> None:
    forgotten, mail = (await stage(connection, tenant))[0], (await stage(connection, tenant, kind="invitation.send"))[0]
    await connection.execute("UPDATE job SET run_at = now() - interval '2 seconds'")
    (retry,) = await stage(connection, tenant)
    await connection.execute(
        "UPDATE job SET state = 'retry', run_at = now() - interval '5 seconds' WHERE id = $1", retry.id
    )
    await stage(connection, tenant, 3)  # just now
    (later,) = await stage(connection, tenant)
    await connection.execute("UPDATE job SET run_at = now() + interval '1 hour' WHERE id = $1", later.id)
    await sweeper.sweep(context, HANDLERS, QUEUES)
    assert rung == [(PROVISION, [retry.id, forgotten.id]), (EMAIL, [mail.id])]
    rung.clear()
    await sweeper.sweep(context, HANDLERS, (EMAIL,))
    assert rung == [(EMAIL, [mail.id])]


async def test_lost_attempts_are_counted_as_failed(context: Context, connection: Connection, tenant: UUID) -> None:
    await lose(connection, tenant, 2)
    await sweeper.sweep(context, HANDLERS, QUEUES)
    ((minute, _),) = context.tally.unwritten()
    assert (minute.kind, minute.failed, minute.dead) == ("user.create", 2, 0)


async def test_it_goes_on_sweeping_through_an_outage(
    context: Context, pool: asyncpg.Pool, connection: Connection, tenant: UUID
) -> None:
    away = Interrupted(pool)
    away.away = True
    interrupted: Any = away
    settings = altered(context.settings, sweep_seconds=0.02)
    sweeping = asyncio.create_task(
        sweeper.sweep_forever(replace(context, settings=settings, pool=interrupted), HANDLERS, QUEUES)
    )
    try:
        await lose(connection, tenant, 1)
        await wait_until(lambda: away.asked > 2, "it looks again and again")
        away.away = False

        async def freed() -> bool:
            return await counts(connection) == {"retry": 1}

        await wait_until(freed, "the lost job is freed")
        assert not sweeping.done()

        async def told() -> bool:
            return bool(await pool.fetchval("SELECT outcome = 'ok' FROM schedule WHERE name = 'ledger.sweep'"))

        await wait_until(told, "the Schedules page knows of it")
    finally:
        sweeping.cancel()
        await asyncio.gather(sweeping, return_exceptions=True)


async def test_a_fault_that_is_no_outage_ends_it_rather_than_let_it_limp(
    context: Context, connection: Connection, tenant: UUID
) -> None:
    await lose(connection, tenant, 1)

    def ring(_queue: str, _job_ids: list[UUID]) -> None:
        raise RuntimeError("a fault")

    async with asyncio.timeout(5):
        with pytest.raises(RuntimeError, match="a fault"):
            await sweeper.sweep_forever(replace(context, ring=ring), HANDLERS, QUEUES)
