"""P7: a job that cannot be done, whatever the way, ends dead with its reason, and the others are done."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING, Final

import pytest

from models.jobs import PROVISION
from tests.faults.poison import ATTEMPTS, STATUS
from tests.support.api import document, make_tenant, until
from tests.support.ledger import stage
from tests.support.processes import Process
from tests.support.promises import scale

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
LATENCY: Final = """
SELECT percentile_cont(0.95) WITHIN GROUP (ORDER BY extract(epoch FROM finished_at - staged_at))::float
  FROM job WHERE resource_id = ANY ($1::uuid[])
"""


@pytest.mark.promise("P7", quick=True)
async def test_poison_of_every_kind_ends_dead_with_its_reason_and_its_neighbours_are_done(
    make_rig: MakeRig, measure: Measure
) -> None:
    short = {"lease_seconds": 2, "lease_beat_seconds": 0.5, "sweep_seconds": 0.3}
    count = scale(40, 500)
    async with make_rig(apis=1, workers=0, **short) as rig:
        [caller] = rig.callers(await make_tenant(rig.direct))
        worker = Process(rig.settings, ["worker"], rig.folder / "poisoned.log", module="tests.faults.poison")
        await worker.start()
        before = await push(caller, "before", count)
        await rig.drain(120)
        assert await worker.stop() == 0
        async with rig.store() as connection:
            poison = await spoil(connection, caller)
            keeping = asyncio.create_task(keep_running(worker))
            try:
                beside = await push(caller, "beside", count)

                async def all_dead() -> bool:
                    assert not keeping.done(), keeping.exception()
                    dead = await connection.fetchval("SELECT count(*) FROM job WHERE state = 'dead'")
                    return bool(dead == len(ENDS))

                await until(all_dead, "all poison is dead", 240)
                await rig.drain(120)
            finally:
                keeping.cancel()
                await asyncio.gather(keeping, return_exceptions=True)
                await worker.kill()
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
            assert await connection.fetchval("SELECT count(*) FROM users") == 2 * count
            took = [await connection.fetchval(LATENCY, ids) for ids in (before, beside)]
        await rig.check()
    lost = worker.starts - 2
    assert lost == ATTEMPTS, "what kills costs a worker each attempt, and nothing else does"
    measure(dead=len(poison), neighbours=len(beside), workers_lost=lost)
    measure(p95_seconds_before=took[0], p95_seconds_beside=took[1])


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
