"""A 201 is kept: without a worker, without Redis, through `kill -9` of everything. Real processes, real servers."""

from __future__ import annotations

import asyncio
import signal
import time
from collections import Counter
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
import psutil
import pytest
import pytest_asyncio
from redis.asyncio import Redis

from cli.embedded.postgres import EmbeddedPostgres
from cli.embedded.valkey import EmbeddedValkey
from models.jobs import PROVISION, redis_queue
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
                token_in_flight=1000,
                port=0,
                admin_port=0,
            )
            yield Ground(postgres, valkey, settings)
        finally:
            valkey.stop()
            postgres.stop()


@asynccontextmanager
async def usher(ground: Ground, folder: Path, **tenant: Any) -> AsyncIterator[tuple[Fleet, Caller]]:
    """Run an api, with a worker that is not started yet, and a tenant of the test's own."""
    one = await make_tenant(ground.settings, **tenant)
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


async def test_shows_3_without_a_worker_a_create_is_readable_and_applied_later(ground: Ground, tmp_path: Path) -> None:
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


async def test_shows_3_flushall_with_500_waiting_loses_nobody(ground: Ground, tmp_path: Path) -> None:
    async with usher(ground, tmp_path) as (fleet, caller):
        await asyncio.gather(*(caller.create(document(f"user{number}")) for number in range(500)))
        async with Redis.from_url(ground.valkey.url) as redis:

            async def rung() -> int:
                return int(await redis.zcard(redis_queue(PROVISION)))

            await until(rung, "rings that nobody answers")
            await redis.flushall()
            await fleet.workers[0].start()
            await applied(ground, caller, 500, 60)
            # And once it works: rings that vanish on their way to it.
            fleet.workers[0].send(signal.SIGSTOP)
            await asyncio.gather(*(caller.create(document(f"more{number}")) for number in range(100)))
            await fleet.apis[0].stop()  # with its last ring on the way
            assert await rung()
            await redis.flushall()
            fleet.workers[0].send(signal.SIGCONT)
            await applied(ground, caller, 600, 60)


async def test_shows_3_without_redis_creates_are_accepted_and_even_applied(ground: Ground, tmp_path: Path) -> None:
    async with usher(ground, tmp_path) as (fleet, caller):
        await fleet.workers[0].start()
        ground.valkey.child.kill()
        try:
            began = time.monotonic()
            for number in range(20):
                await caller.create(document(f"user{number}"))
            assert time.monotonic() - began < 5  # nobody waits for Redis
            await applied(ground, caller, 20, 30)  # the worker looks by itself
        finally:
            ground.valkey.start()
        await caller.create(document("after"))
        await applied(ground, caller, 21, 30)


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


class Pusher:
    """Pushes users as Entra does: creates, and after a doubtful answer matches first and creates again if need be."""

    def __init__(self, caller: Caller, count: int) -> None:
        self._caller = caller
        self._names = iter([f"user{number:05}@contoso.example" for number in range(count)])
        self.accepted: dict[str, str] = {}
        """userName → id, of every 201."""
        self.found: dict[str, str] = {}
        """Those whose 201 was lost on its way, matched later."""
        self.doubts = 0

    async def run(self, at_once: int) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(at_once):
                group.create_task(self._push())

    async def _push(self) -> None:
        for name in self._names:
            async with asyncio.timeout(120):
                while not await self._settled(name):
                    self.doubts += 1
                    await asyncio.sleep(0.02)  # the servers are on their way back

    async def _settled(self, name: str) -> bool:
        try:
            if self.doubts:
                matched = await self._caller.get("/Users", filter=f'userName eq "{name}"')
                if matched.status == 503:
                    return False
                if matched.resources():
                    [user] = matched.resources()
                    self.found[name] = user["id"]
                    return True
            mails = [work_email(name, primary=True)]
            answer = await self._caller.post("/Users", document(name, externalId=f"id-{name}", emails=mails))
        except (aiohttp.ClientError, ConnectionError, TimeoutError):
            return False
        if answer.status == 201:
            self.accepted[name] = answer.json["id"]
        else:
            assert answer.status == 503, answer
        return answer.status == 201


async def test_shows_3_kill_9_of_everything_keeps_every_201_exactly_once(ground: Ground, tmp_path: Path) -> None:
    async with usher(ground, tmp_path, invitations=True) as (fleet, caller):
        [api], [worker] = fleet.apis, fleet.workers
        async with store(ground.settings) as connection:
            # Invitations are made but not sent: their number counts.
            await connection.execute(
                "UPDATE tenant SET invitation_delay_seconds = 86400 WHERE id = $1", caller.tenant.id
            )
        await worker.start()
        pusher = Pusher(caller, 2000)
        pushing = asyncio.create_task(pusher.run(24))

        async def reached(count: int) -> None:
            async def enough() -> bool:
                return pushing.done() or len(pusher.accepted) + len(pusher.found) >= count

            await until(enough, f"{count} creates", 60)

        await reached(400)
        await asyncio.gather(api.kill(), worker.kill())
        await asyncio.gather(api.start(), worker.start())
        await reached(900)
        ground.postgres.child.kill()
        await asyncio.to_thread(ground.postgres.start)
        await reached(1400)
        ground.postgres.child.kill()
        ground.valkey.child.kill()
        await asyncio.gather(api.kill(), worker.kill())
        ground.valkey.start()
        await asyncio.to_thread(ground.postgres.start)
        await asyncio.gather(api.start(), worker.start())
        await pushing
        assert pusher.doubts > 3  # they did fall in the middle
        await applied(ground, caller, 2000, 60)
        await check_exactly_once(ground, caller, pusher)
        assert await worker.stop() == 0
        assert await api.stop() == 0


async def check_exactly_once(ground: Ground, caller: Caller, pusher: Pusher) -> None:
    """Check that each accepted create is one user with all that belongs to it, and nothing is left over."""
    tenant_id = caller.tenant.id
    known = {**pusher.found, **pusher.accepted}
    assert len(known) == 2000
    async with store(ground.settings) as connection:
        users = await connection.fetch(
            "SELECT id::text, doc ->> 'userName' AS name FROM users WHERE tenant_id = $1", tenant_id
        )
        assert {row["name"]: row["id"] for row in users} == known
        identifiers = await connection.fetch(
            "SELECT value_key, resource_id::text FROM identifier WHERE tenant_id = $1", tenant_id
        )
        assert {row["value_key"]: row["resource_id"] for row in identifiers} == known
        events = await connection.fetch(
            "SELECT target_id, phase, correlation_id FROM audit_event"
            " WHERE tenant_id = $1 AND action = 'scim.user.create' AND phase IN ('requested', 'applied')",
            tenant_id,
        )
        counted = Counter((row["target_id"], row["phase"]) for row in events)
        assert counted == {(user_id, phase): 1 for user_id in known.values() for phase in ("requested", "applied")}
        assert len({row["correlation_id"] for row in events}) == 2000
        invited = await connection.fetch("SELECT user_id::text FROM invitation WHERE tenant_id = $1", tenant_id)
        assert Counter(row["user_id"] for row in invited) == Counter(known.values())
        states = await connection.fetch(
            "SELECT kind, state, count(*) FROM job WHERE tenant_id = $1 GROUP BY kind, state", tenant_id
        )
        assert {(row["kind"], row["state"]): row["count"] for row in states} == {
            ("user.create", "done"): 2000,
            ("invitation.send", "staged"): 2000,
        }
    assert (await caller.get("/Users", count=0)).json["totalResults"] == 2000
    for name in list(known)[::97]:
        assert [one["id"] for one in await caller.match(f'userName eq "{name}"')] == [known[name]]
