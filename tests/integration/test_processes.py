"""Processes on a real store: their rows, their statistics, their probe file, and workers that are told to rest."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from arq.worker import Worker
from uuid_utils.compat import uuid7

from models import processes
from models.audit.record import Actor
from models.db import UNAVAILABLE, is_unavailable, open_pool
from models.errors import UsageError
from models.heartbeat import Heartbeat, identify
from models.jobs import PROVISION
from models.processes import (
    Process,
    Vitals,
    beat,
    end_silent_sessions,
    forget_processes,
    list_processes,
    set_quiet,
)
from models.tally import Tally
from tests.support.api import altered
from tests.support.ledger import Interrupted, counts, new_tenant, stage
from tests.support.waiting import wait_until
from worker.context import Context
from worker.duty import Duty
from worker.handlers import create
from worker.runner import Runner
from worker.settings import answer_rings, make_redis, press
from worker.smtp import SmtpPool

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from uuid import UUID

    from arq.connections import ArqRedis

    from models.db import Connection
    from models.processes import Identity
    from models.settings import Settings
    from tests.support.servers import Servers

ACTOR = Actor("operator", "7", "olga")


@asynccontextmanager
async def beating(heartbeat: Heartbeat) -> AsyncIterator[None]:
    task = asyncio.create_task(heartbeat.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def only(pool: asyncpg.Pool) -> Process:
    async with pool.acquire() as connection:
        (process,) = await list_processes(connection)
    return process


async def test_a_process_is_there_as_long_as_it_beats(pool: asyncpg.Pool, tmp_path: Path) -> None:
    tally = Tally()
    identity = identify(uuid7(), "worker", queues=["provision"], slots=2)
    probe = tmp_path / "beat"
    heartbeat = Heartbeat(pool, identity, tally=tally, busy=lambda: 1, file=probe, seconds=0.02)
    async with beating(heartbeat):
        await wait_until(lambda: _living(pool), "the first beat")
        first = await only(pool)
        assert (first.role, first.queues, first.slots, first.busy) == ("worker", ["provision"], 2, 1)
        assert (first.state, first.pid, first.version) == ("working", identity.pid, identity.version)
        assert first.rss_bytes > 1_000_000
        probe.unlink()
        tally.done("user.create", 5, 0.2)
        tally.failed("user.create", 0.3, dead=True)

        async def told() -> bool:
            return (await only(pool)).jobs_done == 5

        await wait_until(told, "what was done is told")
        later = await only(pool)
        assert later.jobs_failed == 1
        assert later.beat_at > first.beat_at
        await wait_until(probe.exists, "the probe file is touched again")
    await heartbeat.stop()
    assert (await only(pool)).state == "stopped"
    assert not probe.exists()
    row = await pool.fetchrow("SELECT * FROM job_minute")
    assert row is not None
    assert (row["process_id"], row["done"], row["failed"], row["dead"]) == (identity.id, 5, 1, 1)
    assert sum(row["running"]) == 6


async def _living(pool: asyncpg.Pool) -> bool:
    async with pool.acquire() as connection:
        return bool(await list_processes(connection))


async def test_an_outage_loses_no_count(pool: asyncpg.Pool, tmp_path: Path) -> None:
    away = Interrupted(pool)
    away.away = True
    interrupted: Any = away
    tally = Tally()
    probe = tmp_path / "beat"
    heartbeat = Heartbeat(interrupted, identify(uuid7(), "worker"), tally=tally, file=probe, seconds=0.01)
    async with beating(heartbeat):
        tally.done("user.create", 3, 0.1)
        await wait_until(lambda: away.asked > 2, "it goes on beating")
        assert probe.exists(), "the loop turns, whatever PostgreSQL does"
        away.away = False

        async def written() -> bool:
            return bool(await pool.fetchval("SELECT sum(done) = 3 FROM job_minute"))

        await wait_until(written, "the count is written")


async def test_a_late_event_loop_is_told(pool: asyncpg.Pool) -> None:
    import time

    heartbeat = Heartbeat(pool, identify(uuid7(), "api"), seconds=0.6)
    async with beating(heartbeat):
        await wait_until(lambda: _living(pool), "the first beat")
        time.sleep(0.5)  # noqa: ASYNC251  this is what a late event loop is

        async def late() -> bool:
            return (await only(pool)).loop_lag_seconds > 0.2

        await wait_until(late, "the lag is told")


async def test_the_silent_are_told_from_the_living_and_forgotten_after_a_day(pool: asyncpg.Pool) -> None:
    heartbeat = Heartbeat(pool, identify(uuid7(), "worker"))
    await heartbeat._beat()
    await pool.execute("UPDATE process SET beat_at = now() - interval '1 minute'")
    assert (await only(pool)).state == "silent"
    async with pool.acquire() as connection:
        assert await forget_processes(connection) == 0
        await pool.execute("UPDATE process SET beat_at = now() - interval '25 hours'")
        assert await forget_processes(connection) == 1


async def test_what_a_silent_process_holds_is_taken_from_it_and_nothing_else(
    settings: Settings, pool: asyncpg.Pool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "SILENT_SECONDS", 0.0)
    frozen, living = identify(uuid7(), "worker"), identify(uuid7(), "worker")
    async with AsyncExitStack() as stack:

        async def session(process: Identity) -> Connection:
            called = {"application_name": f"usher worker {process.id}"}
            one = await asyncpg.connect(settings.database_url.get_secret_value(), server_settings=called)
            stack.push_async_callback(one.close)
            return one

        async def sessions(process: Identity) -> list[Connection]:
            half_read, locking, idle = [await session(process) for _ in range(3)]
            await beat(idle, process, Vitals(0, 0, 0, 0, 0.0))
            await half_read.execute("BEGIN; LOCK TABLE request_log IN SHARE ROW EXCLUSIVE MODE")
            # PostgreSQL has the text of a statement and waits for the rest, which no timeout of its own ends.
            await half_read.prepare("SELECT 1")
            await locking.fetchval("SELECT pg_advisory_lock(7)")
            return [half_read, locking, idle]

        its = await sessions(frozen)
        async with pool.acquire() as connection:
            ended = await end_silent_sessions(connection)
            assert ended == 2 * [f"usher worker {frozen.id}"]
            assert await its[2].fetchval("SELECT true"), "who holds nothing may have come back just now"
            for one in its[:2]:
                with pytest.raises((*UNAVAILABLE, asyncpg.InterfaceError)) as raised:
                    await one.fetchval("SELECT true")
                assert is_unavailable(raised.value), "it is an outage to whoever wakes up"
            its = await sessions(living)
            await connection.execute(
                "UPDATE process SET beat_at = now() + interval '1 minute' WHERE id = $1", living.id
            )
            assert await end_silent_sessions(connection) == []
            assert [await one.fetchval("SELECT true") for one in its] == [True, True, True]


async def test_a_login_that_may_do_nothing_by_itself_can_end_its_own_sessions(
    servers: Servers, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As api and worker sign in where deploy/postgres-logins.sql was run."""
    monkeypatch.setattr(processes, "SILENT_SECONDS", 0.0)
    login, frozen = f"service_{uuid7().hex[-8:]}", identify(uuid7(), "worker")
    url = settings.database_url.get_secret_value()
    own = altered(settings, database_url=f"postgresql://{login}:of-the-service@{url.split('@', 1)[1]}")
    admin = await asyncpg.connect(servers.admin_url)
    await admin.execute(f"CREATE ROLE {login} LOGIN NOINHERIT PASSWORD 'of-the-service' IN ROLE usher_app")
    called = {"application_name": f"usher worker {frozen.id}"}
    session = await asyncpg.connect(own.database_url.get_secret_value(), server_settings=called)
    pool = await open_pool(own, name="worker", size=1)
    try:
        async with pool.acquire() as connection:
            assert await connection.fetchval("SELECT session_user || ' ' || current_user") == f"{login} usher_app"
            await beat(connection, frozen, Vitals(0, 0, 0, 0, 0.0))
            await session.fetchval("SELECT pg_advisory_lock(7)")
            assert await end_silent_sessions(connection) == [f"usher worker {frozen.id}"]
            assert await connection.fetchval("SELECT current_user") == "usher_app"
    finally:
        await pool.close()
        await session.close()
        await admin.execute(f"DROP ROLE {login}")
        await admin.close()


@asynccontextmanager
async def worker(settings: Settings, pool: asyncpg.Pool) -> AsyncIterator[tuple[Context, Runner]]:
    """Run one provisioning runner as `worker.main` does, with its ear at Redis and a quick heart."""
    context = Context(settings, pool, SmtpPool(settings), lambda _queue, _ids: None)
    runner = Runner(context, PROVISION, {"user.create": create.HANDLER}, lanes=2, batch=10)
    duty = Duty(settings, {PROVISION: runner})
    heartbeat = Heartbeat(
        pool, identify(context.process_id, "worker"), tally=context.tally, told=duty.told, seconds=0.02
    )
    tasks = [
        asyncio.create_task(runner.serve()),
        asyncio.create_task(duty.listen(PROVISION)),
        asyncio.create_task(heartbeat.run()),
    ]
    try:
        yield context, runner
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


async def quiet(pool: asyncpg.Pool, process_id: UUID, quiet: bool) -> bool:
    async with pool.acquire() as connection:
        return await set_quiet(connection, process_id, quiet=quiet, actor=ACTOR)


async def test_a_quiet_worker_takes_no_job_and_leaves_its_ring_until_it_is_called_back(
    settings: Settings, pool: asyncpg.Pool
) -> None:
    redis = make_redis(settings)
    redis.auto_close_connection_pool = True
    async with redis, worker(settings, pool) as (context, runner):
        await wait_until(lambda: _living(pool), "the first beat")
        assert await quiet(pool, context.process_id, True)
        await wait_until(lambda: runner._resting, "the worker heard of it")
        async with pool.acquire() as connection:
            staged = await stage(connection, await new_tenant(connection), 3)
        runner.wake()
        await press(redis, PROVISION, [one.id for one in staged])

        async def beats(seen: list[Any]) -> bool:
            seen.append((await only(pool)).beat_at)
            return len(set(seen)) > 5

        moments: list[Any] = []
        await wait_until(lambda: beats(moments), "some time passes")
        assert await counts(pool) == {"staged": 3}
        assert await redis.zcard("usher:provision") == 1, "another worker may have the ring"
        assert (await only(pool)).state == "quiet"

        assert await quiet(pool, context.process_id, False)

        async def done() -> bool:
            return await counts(pool) == {"done": 3}

        await wait_until(done, "the jobs are done")
        assert context.tally.done_total == 3
    events = await pool.fetch("SELECT action, actor_label, targets, diff FROM audit_event ORDER BY occurred_at, id")
    told = [event for event in events if event["action"].startswith("ops.worker")]
    assert [event["action"] for event in told] == ["ops.worker.quiet", "ops.worker.unquiet"]
    assert told[0]["actor_label"] == "olga"
    assert told[0]["targets"][0]["id"] == str(context.process_id)
    assert told[0]["diff"] == [{"op": "replace", "path": "quiet", "before": False, "after": True}]


class Clients:
    """Who else is connected to a number of Redis."""

    def __init__(self, redis: ArqRedis, mine: dict[str, Any]) -> None:
        self._redis, self._mine = redis, mine

    async def others(self) -> list[Any]:
        clients = [one for one in await self._redis.client_list() if one["db"] == str(self._mine["db"])]
        return [one for one in clients if int(one["id"]) > self._mine["id"]]

    async def none(self) -> bool:
        return not await self.others()


async def test_a_worker_that_stops_while_a_ring_is_being_finished_leaves_no_connection(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    finishes, begun, go, finished = Worker.finish_job, asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def slowly(*args: Any) -> None:
        begun.set()
        await go.wait()
        await finishes(*args)
        finished.set()

    monkeypatch.setattr(Worker, "finish_job", slowly)
    redis = make_redis(settings)
    redis.auto_close_connection_pool = True
    async with redis:
        clients = Clients(redis, await redis.client_info())
        listening = asyncio.create_task(answer_rings(settings, PROVISION, lambda: asyncio.sleep(0)))
        await press(redis, PROVISION, [uuid7()])
        await begun.wait()
        listening.cancel()
        await asyncio.wait([listening], timeout=0.5)
        go.set()
        await finished.wait()
        await asyncio.wait([listening])
        assert listening.cancelled()
        await wait_until(clients.none, "it has hung up")


async def test_a_worker_that_is_stopped_while_it_hangs_up_leaves_no_connection(settings: Settings) -> None:
    redis = make_redis(settings)
    redis.auto_close_connection_pool = True
    async with redis:
        clients = Clients(redis, await redis.client_info())
        listening = asyncio.create_task(answer_rings(settings, PROVISION, lambda: asyncio.sleep(0)))
        await wait_until(clients.others, "it listens")
        for _ in range(5):
            listening.cancel()
            await asyncio.sleep(0)
        await asyncio.wait([listening])
        assert listening.cancelled()
        await wait_until(clients.none, "it has hung up")


async def test_telling_twice_is_one_effect_and_one_event(pool: asyncpg.Pool) -> None:
    identity = identify(uuid7(), "worker")
    heartbeat = Heartbeat(pool, identity)
    await heartbeat._beat()
    outcomes = await asyncio.gather(*(quiet(pool, identity.id, True) for _ in range(5)))
    assert sorted(outcomes) == [False, False, False, False, True]
    assert await pool.fetchval("SELECT count(*) FROM audit_event WHERE action = 'ops.worker.quiet'") == 1
    assert (await only(pool)).quiet, "and no beat takes it back"
    await heartbeat._beat()
    assert (await only(pool)).quiet


async def test_only_a_worker_that_lives_can_be_told(pool: asyncpg.Pool) -> None:
    with pytest.raises(UsageError, match="no worker"):
        await quiet(pool, uuid7(), True)
    api, gone = (Heartbeat(pool, identify(uuid7(), role)) for role in ("api", "worker"))
    await api._beat()
    await gone.stop()
    with pytest.raises(UsageError, match="no worker"):
        await quiet(pool, api._identity.id, True)
    with pytest.raises(UsageError, match="has stopped"):
        await quiet(pool, gone._identity.id, True)
