"""P5: a worker that was frozen while another took over changes nothing when it goes on."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from random import Random
from typing import TYPE_CHECKING

import pytest

from tests.support.api import document, make_tenant, until
from tests.support.groups import PATCH_URN
from tests.support.promises import scale
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.conftest import MakeRig, Measure
    from tests.support.api import Answer, Caller

USERS = 5
SHORT = {"lease_seconds": 2, "lease_beat_seconds": 0.5, "sweep_seconds": 0.3}


@pytest.mark.promise("P5", quick=True)
async def test_whoever_wakes_up_after_its_lease_finds_its_jobs_done_and_walks_away(
    make_rig: MakeRig, measure: Measure
) -> None:
    async with make_rig(apis=1, **SHORT) as rig:
        frozen, other = rig.workers
        other.send(signal.SIGSTOP)  # until the first one has everything in hand
        [caller] = rig.callers(await make_tenant(rig.direct))
        async with rig.store() as connection, rig.store() as watcher:
            lock = connection.transaction()
            await lock.start()
            await connection.execute("LOCK TABLE users IN EXCLUSIVE MODE")
            frozen.send(signal.SIGSTOP)  # so that it takes them all at once, and not as they come
            for number in range(USERS):
                await caller.create(document(f"user{number}@example.com"))
            frozen.send(signal.SIGCONT)

            async def held(attempt: int, count: int) -> bool:
                query = "SELECT count(*) FROM job WHERE state = 'running' AND attempts >= $1"
                waits = await watcher.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted")
                return bool(waits and await watcher.fetchval(query, attempt) == count)

            await until(lambda: held(1, USERS), "the first worker has them all in hand", 60)
            frozen.send(signal.SIGSTOP)
            other.send(signal.SIGCONT)
            await until(lambda: held(2, USERS), "the second worker has them all in hand", 60)
            await lock.rollback()  # now the statements of both go on, that of the frozen one first
            await rig.drain()
            theirs = await watcher.fetchval("SELECT array_agg(id::text) FROM job")
            first = await watcher.fetch("SELECT id, version, last_modified FROM users ORDER BY id")
            frozen.send(signal.SIGCONT)
            await other.stop()
            # It works on as if nothing had been, and has changed nothing of what the other did.
            await caller.create(document("after@example.com"))
            await rig.drain()
            then = await watcher.fetch("SELECT id, version, last_modified FROM users ORDER BY id")
        assert len(first) == USERS
        assert [row for row in then if row in first] == first
        assert '"action":"job.overtaken"' in frozen.said
        assert all(f'"job_id":"{job_id}"' not in frozen.said for job_id in theirs), "it says nothing of their outcome"
        await rig.check()
        measure(overtaken=USERS)


@pytest.mark.promise("P5")
async def test_workers_frozen_at_random_under_load_apply_everybody_once(make_rig: MakeRig, measure: Measure) -> None:
    async with make_rig(**SHORT) as rig:
        dice = Random(rig.seed)  # noqa: S311  a plan that comes back
        driver = await rig.driver(invitations=True)
        pushing = asyncio.create_task(driver.run(scale(100, 1500)))
        freezes = 0
        while not pushing.done():
            victim = dice.choice(rig.workers)
            victim.send(signal.SIGSTOP)
            await asyncio.sleep(dice.uniform(0.5, 5))  # some of it beyond the lease
            victim.send(signal.SIGCONT)
            freezes += 1
            await asyncio.sleep(dice.uniform(0.1, 1))
        await pushing
        await rig.drain()
        await rig.check(driver, mails=True, copies=1 + freezes)
        async with rig.store() as connection:
            assert await connection.fetchval("SELECT count(*) FROM job WHERE state = 'dead'") == 0
            measure(freezes=freezes, most_attempts=await connection.fetchval("SELECT max(attempts) FROM job"))


@pytest.mark.promise("P5")
async def test_a_front_end_frozen_in_the_middle_of_a_change_lets_go_of_the_user(
    make_rig: MakeRig, measure: Measure
) -> None:
    async with make_rig(workers=1) as rig:
        frozen, _ = rig.apis
        through, beside = rig.callers(await make_tenant(rig.direct))
        user_id = (await through.create(document("ana@example.com")))["id"]
        await rig.drain()

        async def change(caller: Caller, path: str, value: str) -> Answer:
            operation = {"op": "replace", "path": path, "value": value}
            body = json.dumps({"schemas": [PATCH_URN], "Operations": [operation]}).encode()
            return await caller.send("PATCH", f"/Users/{user_id}", body=body)

        async with rig.store() as holder, rig.store() as watcher:
            lock = holder.transaction()
            await lock.start()
            await holder.execute("SELECT FROM users FOR UPDATE")
            # Another userName is taken in a transaction of several statements, of which one waits now.
            renaming = asyncio.create_task(change(through, "userName", "eva@example.com"))
            waits = (
                "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = current_database()"
            )
            await until(lambda: watcher.fetchval(waits), "the change waits in the middle", 60)
            frozen.send(signal.SIGSTOP)
            await lock.rollback()  # now the user is in the hands of one who does not go on
        began = time.monotonic()

        async def changed() -> bool:
            return (await change(beside, "title", "Buyer")).status == 200

        await until(changed, "another front end can change the user", 60)
        seconds = time.monotonic() - began
        await wait_until(lambda: '"action":"process.session.end"' in rig.workers[0].said, "the worker says so")
        frozen.send(signal.SIGCONT)
        assert (await renaming).status == 503
        found = (await change(through, "title", "Chief buyer")).json
        assert (found["userName"], found["title"]) == ("ana@example.com", "Chief buyer")
        await rig.check()
        measure(freed_after_seconds=round(seconds, 1))
