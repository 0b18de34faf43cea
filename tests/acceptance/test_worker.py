"""`usher worker` as real processes: stopped, and with its servers taken away (tests/faults has what kills it)."""

from __future__ import annotations

import asyncio
import json
import re
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import psutil
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.valkey import EmbeddedValkey
from models.migrations import run
from models.settings import Settings, load_settings
from tests.support.api import (
    SECRET_KEY,
    Caller,
    altered,
    document,
    make_tenant,
    store,
    work_email,
)
from tests.support.ledger import counts, empty_ledger, new_tenant, stage
from tests.support.processes import Process, processes
from tests.support.servers import reachable_folder
from tests.support.waiting import wait_until
from worker.settings import make_redis, press

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    import asyncpg

    from tests.support.ledger import Staged

pytestmark = pytest.mark.asyncio(loop_scope="module")

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class Ground:
    """Servers that a test may kill, and a connection that sees them from outside."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    settings: Settings

    def store(self) -> AbstractAsyncContextManager[asyncpg.Connection]:
        return store(self.settings)

    async def counts(self) -> dict[str, int]:
        async with self.store() as connection:
            return await counts(connection)

    async def until(self, expected: dict[str, int], seconds: float = 60) -> None:
        """Wait until the creates are in these states."""

        async def reached() -> bool:
            return await self.counts() == expected

        try:
            await wait_until(reached, f"jobs {expected}", seconds)
        except AssertionError as late:
            async with self.store() as connection:
                rows = await connection.fetch("SELECT state, attempts, error_code, count(*) FROM job GROUP BY 1, 2, 3")
            raise AssertionError(f"{late}; there are {[tuple(row) for row in rows]}") from late

    async def until_all_are_applied(self, staged: list[Staged], seconds: float = 60) -> None:
        """Wait until every job is done; then check that each was applied once, by the user store and by the log."""

        await self.until({"done": len(staged)}, seconds)
        async with self.store() as connection:
            users = await connection.fetch("SELECT id FROM users")
            assert Counter(row["id"] for row in users) == Counter(one.resource_id for one in staged)
            events = await connection.fetch(
                "SELECT job_id FROM audit_event WHERE phase = 'applied' AND job_id = ANY ($1::uuid[])",
                [one.id for one in staged],
            )
            assert Counter(row["job_id"] for row in events) == Counter(one.id for one in staged)

    async def attempts(self) -> int:
        async with self.store() as connection:
            return int(await connection.fetchval("SELECT max(attempts) FROM job"))

    async def until_done(self, least: int) -> None:
        """Wait until some jobs are done."""

        async def enough() -> bool:
            return (await self.counts()).get("done", 0) >= least

        await wait_until(enough, f"{least} jobs are done", 30)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def servers_to_kill() -> AsyncIterator[Ground]:
    with reachable_folder() as folder:
        postgres, valkey = EmbeddedPostgres(folder), EmbeddedValkey(folder)
        try:
            for server in (postgres, valkey):
                server.launch()
            for server in (postgres, valkey):
                server.ready()
            await run.upgrade(postgres.url)
            settings = load_settings(
                database_url=postgres.url, redis_url=valkey.url, secret_key=SECRET_KEY, sweep_seconds=0.5
            )
            yield Ground(postgres, valkey, settings)
        finally:
            valkey.stop()
            postgres.stop()


@pytest_asyncio.fixture(loop_scope="module")
async def ground(servers_to_kill: Ground) -> Ground:
    await empty_ledger(servers_to_kill.postgres.url)
    async with Redis.from_url(servers_to_kill.valkey.url) as redis:
        await redis.flushall()
    return servers_to_kill


@asynccontextmanager
async def workers(settings: Settings, folder: Path, count: int = 1) -> AsyncIterator[list[Process]]:
    """Make worker processes that are not started yet; kill what is left of them at the end."""
    made = [Process(settings, ["worker"], folder / f"worker-{number}.log") for number in range(count)]
    try:
        yield made
    finally:
        await asyncio.gather(*(one.kill() for one in made))


async def staged(ground: Ground, count: int) -> list[Staged]:
    async with ground.store() as connection:
        return await stage(connection, await new_tenant(connection), count)


# Stopping


async def test_what_does_not_end_in_time_is_given_back(ground: Ground, tmp_path: Path) -> None:
    jobs = await staged(ground, 10)
    settings = altered(ground.settings, shutdown_seconds=0.5)
    async with workers(settings, tmp_path) as (worker,), ground.store() as connection:
        # Whoever holds the table holds up every batch.
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute("LOCK TABLE users IN EXCLUSIVE MODE")
        await worker.start()

        async def held_up() -> bool:
            return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

        await wait_until(held_up, "a batch waits for the table")
        assert await worker.stop() == 0
        assert await ground.counts() == {"staged": 10}
        await transaction.rollback()
        assert '"action":"job.release"' in worker.said
        await worker.start()
        await ground.until_all_are_applied(jobs)
    assert await ground.attempts() == 1


# PostgreSQL away


async def test_postgresql_away_at_the_start_and_killed_in_the_middle_costs_no_attempt_and_no_worker(
    ground: Ground, tmp_path: Path
) -> None:
    jobs = await staged(ground, 1000)
    ground.postgres.child.kill()
    async with workers(altered(ground.settings, job_batch=10), tmp_path) as (worker,):
        try:
            await worker.start()
            await wait_until(lambda: "ledger.unavailable" in worker.said, "it has missed the ledger")
        finally:
            await asyncio.to_thread(ground.postgres.start)
        await ground.until_done(50)
        process = await process_of(worker)
        ground.postgres.child.kill()
        await asyncio.to_thread(ground.postgres.start)
        assert (await ground.counts()).get("done", 0) < 1000, "it was killed in the middle"
        await ground.until_all_are_applied(jobs)
        assert process.is_running()
        assert await worker.stop() == 0
    assert await ground.attempts() == 1


async def process_of(worker: Process) -> psutil.Process:
    started = worker._process
    assert started is not None
    return psutil.Process(started.pid)


# Redis away


async def test_redis_killed_and_back_with_nothing_in_it(ground: Ground, tmp_path: Path) -> None:
    # Only a ring makes it look: nothing is overdue for the sweeper within this test.
    settings = altered(ground.settings, sweep_seconds=600)
    async with workers(settings, tmp_path) as (worker,):
        await worker.start()
        process = await process_of(worker)
        first = await staged(ground, 5)
        await ring(ground, first)
        await ground.until_all_are_applied(first, 10)
        for _ in range(2):
            said = len(worker.said)
            ground.valkey.child.kill()

            def missed(said: int = said) -> bool:
                return "worker.redis_lost" in worker.said[said:]

            await wait_until(missed, "it has missed Redis", 30)
            await asyncio.to_thread(ground.valkey.start)
            async with Redis.from_url(ground.valkey.url) as redis:
                await redis.flushall()
        second = await staged(ground, 5)

        async def answered() -> bool:
            await ring(ground, second)
            return (await ground.counts()).get("done") == 10

        await wait_until(answered, "a ring is answered again", 20)
        assert process.is_running()
        assert await worker.stop() == 0


async def ring(ground: Ground, jobs: list[Staged]) -> None:
    redis = make_redis(ground.settings)
    try:
        await press(redis, "provision", [one.id for one in jobs])
    finally:
        await redis.aclose(close_connection_pool=True)


async def test_without_redis_from_the_start_and_with_one_that_forgets_the_ledger_is_served(
    ground: Ground, tmp_path: Path
) -> None:
    ground.valkey.child.kill()
    async with workers(ground.settings, tmp_path) as (worker,):
        try:
            await worker.start()
            jobs = await staged(ground, 300)
            await ground.until_all_are_applied(jobs, 30)
            assert await worker.stop() == 0
        finally:
            await asyncio.to_thread(ground.valkey.start)
        forgotten = await staged(ground, 500)
        await ring(ground, forgotten)
        async with Redis.from_url(ground.valkey.url) as redis:
            assert await redis.dbsize() > 0
            await redis.flushall()
        await worker.start()
        await ground.until_all_are_applied(jobs + forgotten, 30)
        assert await worker.stop() == 0


# What others get to see


async def test_neither_redis_nor_the_logs_tell_anything_about_anybody(ground: Ground, tmp_path: Path) -> None:
    tenant = await make_tenant(ground.settings, invitations=True)
    async with (
        processes(ground.settings, tmp_path) as fleet,
        aiohttp.ClientSession() as session,
        Redis.from_url(ground.valkey.url) as redis,
    ):
        caller = Caller(session, fleet.apis[0].scim_url, tenant, tenant.token)
        user = document(
            "ana.mark@example.com",
            externalId="external-mark",
            name={"familyName": "Markmann"},
            password="passw0rd-mark",
            emails=[work_email("ana.mark@example.com")],
        )
        answer = await caller.post("/Users", user)
        (await caller.post("/Users", user)).error(409, "uniqueness")
        assert len(await caller.match('userName eq "ana.mark@example.com"')) == 1
        (await caller.bearing("ush_nonsense-mark").get("/Users")).error(401)

        async def rung(queue: str) -> bool:
            return bool(await redis.zcard(f"usher:{queue}"))

        await wait_until(lambda: rung("provision"), "the api has rung")
        kept = await dump(redis)
        # A worker for creates only, so that the ring for the invitation stays.
        worker = Process(ground.settings, ["worker", "--queue", "provision"], tmp_path / "worker.log")
        try:
            await worker.start()
            await wait_until(lambda: rung("email"), "the worker has rung for the invitation", 20)
            assert await ground.counts() == {"done": 1}
            kept |= await dump(redis)
            await asyncio.gather(fleet.apis[0].stop(), worker.stop())
        finally:
            await worker.kill()
        logs = fleet.apis[0].said + worker.said

    rings = {key: value for key, value in kept.items() if key.startswith("arq:job:")}
    assert sorted(len(job_ids(ring)) for ring in rings.values()) == [1, 1]
    held = " ".join(f"{key} {value!r}" for key, value in kept.items())
    marks = ["mark", "Mark", "example.com", tenant.token, tenant.token.rpartition("_")[2]]
    assert [mark for mark in [*marks, answer.json["id"]] if mark in held] == []
    assert [mark for mark in [*marks, "userName eq", "Bearer"] if mark in logs] == []

    lines = [json.loads(line) for line in logs.splitlines()]
    assert all({"action", "event", "level", "at"} <= set(line) for line in lines)
    told = {line["action"] for line in lines if line.get("correlation_id") == answer.headers["X-Correlation-Id"]}
    assert {"scim.request", "job.done"} <= told


def job_ids(stored: object) -> list[str]:
    """Return the ids in what arq stored, after checking that it is JSON, nothing pickled, and holds nothing else."""
    assert isinstance(stored, bytes)
    ring = json.loads(stored)
    found = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", stored.decode())
    assert ring["f"] == "run_jobs"
    assert ring["k"] == {}
    assert ring["a"] == [found]
    return found


async def dump(redis: Redis) -> dict[str, object]:
    """Return every key of Redis with its value."""
    values: dict[str, object] = {}
    async for key in redis.scan_iter():
        kind = (await redis.type(key)).decode()
        if kind == "string":
            values[key.decode()] = await redis.get(key)
        elif kind == "zset":
            values[key.decode()] = await redis.zrange(key, 0, -1, withscores=True)
        else:
            values[key.decode()] = await redis.dump(key)
    return values
