"""A 201 is kept without a worker, through a stop and a silent store (tests/faults has what kills and loses)."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import aiohttp
import psutil
import pytest
import pytest_asyncio

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
    serving,
    store,
    until,
    work_email,
)
from tests.support.processes import Fleet, processes
from tests.support.servers import reachable_folder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = pytest.mark.asyncio(loop_scope="module")

WAITING = "SELECT count(*) FROM job WHERE tenant_id = $1 AND kind = 'user.create' AND state <> 'done'"


@dataclass(frozen=True)
class Ground:
    """Servers that a test may kill."""

    postgres: EmbeddedPostgres
    valkey: EmbeddedValkey
    settings: Settings


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def ground() -> AsyncIterator[Ground]:
    with reachable_folder() as folder:
        postgres, valkey = EmbeddedPostgres(folder), EmbeddedValkey(folder)
        try:
            for server in (postgres, valkey):
                server.launch()
            for server in (postgres, valkey):
                server.ready()
            await run.upgrade(postgres.url)
            settings = load_settings(
                database_url=postgres.url,
                redis_url=valkey.url,
                secret_key=SECRET_KEY,
                lease_seconds=3,
                lease_beat_seconds=1,
                sweep_seconds=0.5,
                port=0,
                admin_port=0,
            )
            yield Ground(postgres, valkey, settings)
        finally:
            valkey.stop()
            postgres.stop()


@asynccontextmanager
async def usher(ground: Ground, folder: Path) -> AsyncIterator[tuple[Fleet, Caller]]:
    """Run an api, with a worker that is not started yet, and a tenant of the test's own."""
    one = await make_tenant(ground.settings)
    async with (
        processes(ground.settings, folder, workers=1) as fleet,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session,
    ):
        yield fleet, Caller(session, fleet.apis[0].scim_url, one, one.token)


async def applied(ground: Ground, caller: Caller, count: int, seconds: float) -> None:
    async with store(ground.settings) as connection:

        async def all_are() -> bool:
            users = await connection.fetchval("SELECT count(*) FROM users WHERE tenant_id = $1", caller.tenant.id)
            return bool(users == count and not await connection.fetchval(WAITING, caller.tenant.id))

        await until(all_are, f"{count} users are applied", seconds)


async def test_without_a_worker_a_create_is_readable_and_applied_later(ground: Ground, tmp_path: Path) -> None:
    async with usher(ground, tmp_path) as (fleet, caller):
        user = await caller.create(document("ana@contoso.example", emails=[work_email("ana@contoso.example")]))

        async def check() -> None:
            assert (await caller.get(f"/Users/{user['id']}")).json == user
            for text in ('userName eq "ANA@contoso.example"', 'emails[type eq "work"].value eq "ana@contoso.example"'):
                assert await caller.match(text) == [user]

        await check()
        async with store(ground.settings) as connection:
            assert await connection.fetchval(WAITING, caller.tenant.id) == 1
        await fleet.workers[0].start()
        await applied(ground, caller, 1, 10)
        await check()
        assert await fleet.workers[0].stop() == 0


async def test_a_stop_answers_what_is_under_way(ground: Ground, tmp_path: Path) -> None:
    async with usher(ground, tmp_path) as (fleet, caller), store(ground.settings) as connection:
        await caller.get("/Users")
        async with connection.transaction():
            await connection.execute("LOCK TABLE identifier IN ACCESS EXCLUSIVE MODE")
            creating = [asyncio.create_task(caller.post("/Users", document(f"user{number}"))) for number in range(50)]

            async def under_way() -> bool:
                return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

            await until(under_way, "creates wait for the table")
            stopping = asyncio.create_task(fleet.apis[0].stop())
            await until(lambda: _said(fleet, "api.stop"), "the api is stopping")
        assert {answer.status for answer in await asyncio.gather(*creating)} == {201}
        assert await stopping == 0
        assert await connection.fetchval(WAITING, caller.tenant.id) == 50


async def _said(fleet: Fleet, action: str) -> bool:
    return f'"action":"{action}"' in fleet.apis[0].said


async def test_a_store_that_falls_silent_is_503_in_time_and_soon_forgotten(ground: Ground) -> None:
    async with serving(altered(ground.settings, request_seconds=0.5)) as api:
        caller = await api.caller()
        await asyncio.gather(*(caller.get("/Users") for _ in range(20)))  # connections and the token are at hand
        leader = psutil.Process(ground.postgres.child.pid)
        stopped = [leader, *leader.children(recursive=True)]
        for process in stopped:
            process.suspend()
        try:
            began = time.monotonic()
            answers = await asyncio.gather(*(caller.post("/Users", document(f"user{number}")) for number in range(30)))
            assert time.monotonic() - began < 5
        finally:
            for process in stopped:
                process.resume()
        for answer in answers:
            answer.error(503)
        await caller.create(document("after"))
