"""P7: a job that cannot be done, whatever the way, ends dead with its reason, and the others are done."""

from __future__ import annotations

import asyncio
import signal
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from models.jobs import PROVISION
from models.ledger_sql import LOST_TOGETHER
from tests.faults.poison import ATTEMPTS, STATUS
from tests.support.api import document, make_tenant
from tests.support.ledger import stage
from tests.support.processes import Process
from tests.support.promises import scale
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from tests.faults.conftest import MakeRig, Measure
    from tests.support.api import Caller

# What ends it: the class of the error or the ledger's own code, and after how many attempts.
ENDS: Final = {
    "raises": ("ValueError", ATTEMPTS),
    "hangs": ("timeout", ATTEMPTS),
    "devours": ("MemoryError", ATTEMPTS),
    "kills": ("lease_expired", ATTEMPTS),
    "empty": ("KeyError", ATTEMPTS),
    "newer": ("unknown_version", 1),
    "folds": ("unknown_kind", 1),
}
ALONG: Final = 40
"""Good jobs that a worker has in hand together with the poison."""
MOST: Final = 5000
DEAD: Final = "SELECT count(*) FROM job WHERE state = 'dead'"
LATENCY: Final = """
SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - staged_at))::float
  FROM job WHERE resource_id = ANY ($1::uuid[])
"""


@pytest.mark.promise("P7", quick=True)
async def test_poison_of_every_kind_ends_dead_with_its_reason_and_its_neighbours_are_done(
    make_rig: MakeRig, measure: Measure
) -> None:
    short = {"lease_seconds": 2, "lease_beat_seconds": 0.5, "sweep_seconds": 0.3}
    async with make_rig(apis=1, workers=0, **short) as rig, rig.store() as connection:
        [caller] = rig.callers(await make_tenant(rig.direct))
        workers = [
            Process(rig.settings, ["worker"], rig.folder / f"poisoned-{number}.log", module="tests.faults.poison")
            for number in range(2)
        ]
        keeping = [asyncio.create_task(keep_running(worker)) for worker in workers]
        try:
            await asyncio.gather(*(until_started(worker) for worker in workers))
            before = await push(caller, "before", scale(40, 500))
            await rig.drain()
            for worker in workers:
                worker.send(signal.SIGSTOP)  # so that one of them takes what comes now at once
            poison = await spoil(connection, caller)
            along = await push(caller, "along", ALONG)
            for worker in workers:
                worker.send(signal.SIGCONT)
            beside: list[str] = []
            while await connection.fetchval(DEAD) < len(ENDS) or len(beside) < scale(40, 500):
                assert not any(task.done() for task in keeping), [task.exception() for task in keeping if task.done()]
                beside += await push(caller, f"beside{len(beside)}-", 5)
                assert len(beside) < MOST, "all poison is dead"
                await asyncio.sleep(0.1)
            await rig.drain()
        finally:
            for task in keeping:
                task.cancel()
            await asyncio.gather(*keeping, return_exceptions=True)
            await asyncio.gather(*(worker.kill() for worker in workers))
        lost = sum(worker.starts - 1 for worker in workers)
        assert lost == ATTEMPTS, "what kills costs a worker each attempt, and nothing else does"
        await check_ends(connection, poison)
        assert await connection.fetchval("SELECT count(*) FROM users") == len([*before, *along, *beside])
        await check_company(connection, along)
        took = [await connection.fetchval(LATENCY, ids) for ids in (before, along, beside)]
        await rig.check()
    measure(dead=len(poison), neighbours=len(beside), lost_along_with_it=len(along), workers_lost=lost)
    measure(p95_seconds_before=took[0], p95_seconds_along=took[1], p95_seconds_beside=took[2])


async def check_ends(connection: asyncpg.Connection, poison: dict[str, UUID]) -> None:
    """Check that each poison is dead for its own reason, after its own attempts, and that it was told once."""
    rows = await connection.fetch("SELECT * FROM job WHERE id = ANY ($1::uuid[])", list(poison.values()))
    found = {row["id"]: (row["state"], row["error_code"], row["attempts"]) for row in rows}
    assert {name: found[job_id] for name, job_id in poison.items()} == {
        name: ("dead", code, attempts) for name, (code, attempts) in ENDS.items()
    }
    told = await connection.fetch(
        "SELECT job_id, reason FROM audit_event WHERE action = 'scim.user.create' AND phase = 'failed'"
    )
    assert {row["job_id"]: row["reason"] for row in told} == {
        poison[name]: code for name, (code, _) in ENDS.items() if name != "folds"
    }


async def check_company(connection: asyncpg.Connection, along: list[str]) -> None:
    """Check that most of those who were lost with the poison came back together, and few were lost with it again."""
    rows = await connection.fetch(
        "SELECT attempts, finished_at FROM job WHERE resource_id = ANY ($1::uuid[]) AND attempts > 1", along
    )
    again = [row for row in rows if row["attempts"] > 2]
    once = [row for row in rows if row["attempts"] == 2]
    assert len(again) < LOST_TOGETHER
    assert len(once) > LOST_TOGETHER, "the poison took hardly anybody along"
    # Who is done together is done in one transaction.
    assert len({row["finished_at"] for row in once}) <= len(once) / LOST_TOGETHER + 3


async def until_started(worker: Process) -> None:
    """Wait until somebody has started it, and it works."""
    await wait_until(lambda: worker.running and '"action":"worker.start"' in worker.said, "it works", 120)


async def keep_running(worker: Process) -> None:
    """Start a worker anew whenever a job killed it, as a supervisor does."""
    while True:
        with suppress(AssertionError):  # it may be dead again before anybody sees that it lives
            await worker.start()
        status = await worker.wait()
        assert status == STATUS, worker.said


async def push(caller: Caller, name: str, count: int) -> list[str]:
    """Have good users accepted and return their ids."""
    return [(await caller.create(document(f"{name}{number}@example.com")))["id"] for number in range(count)]


async def spoil(connection: asyncpg.Connection, caller: Caller) -> dict[str, UUID]:
    """Have poison of every kind accepted while nobody takes jobs, and return the ids of its jobs."""
    for name in ENDS:
        if name != "folds":
            await caller.create(document(f"{name}@example.com", nickName=name))
    rows = await connection.fetch("SELECT id, payload -> 'doc' ->> 'nickName' AS name FROM job WHERE state = 'staged'")
    found = {row["name"]: row["id"] for row in rows}
    await connection.execute("""UPDATE job SET payload = '{"active": true}' WHERE id = $1""", found["empty"])
    await connection.execute("""UPDATE job SET payload = payload || '{"version": 2}' WHERE id = $1""", found["newer"])
    [odd] = await stage(connection, caller.tenant.id, kind="user.fold", queue=PROVISION, payload={"of": "nobody"})
    return {**found, "folds": odd.id}
