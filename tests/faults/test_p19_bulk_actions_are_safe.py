"""P19: sending all dead jobs round again is safe under faults, pressed twice, and by two people at once."""

from __future__ import annotations

import asyncio
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Final

import pytest
from uuid_utils.compat import uuid7

from models import bulk
from models.audit.record import Actor
from tests.support.promises import scale
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from uuid import UUID

    from tests.faults.conftest import Measure
    from tests.support.rig import Rig

OPERATORS: Final = (Actor("operator", id="ana", label="ana@example.com"), Actor("operator", id="bo", label="bo"))
_KILLED: Final = """
UPDATE job SET state = 'dead', error_code = 'refused', finished_at = now(), attempts = 20 WHERE state <> 'done'
"""
_ACTED: Final = "SELECT count(DISTINCT job_id) FROM audit_event WHERE action = 'ops.job.retry'"
_TWICE: Final = """
SELECT job_id, context ->> 'bulk_operation' AS operation, count(*) FROM audit_event
 WHERE action = 'ops.job.retry' GROUP BY 1, 2 HAVING count(*) > 1
"""


@pytest.mark.promise("P19")
async def test_every_dead_job_goes_round_once_a_request_whoever_presses(rig: Rig, measure: Measure) -> None:
    dice = Random(rig.seed)  # noqa: S311  a plan that comes back
    driver = await rig.driver()
    await rig.kill(*rig.workers)
    count = scale(1500, 10_000)
    await driver.run(count, rate=400, clients=32)
    pressed = (uuid7(), uuid7())
    async with rig.store() as connection:
        await connection.execute(_KILLED)

    async def press(operation_id: UUID, operator: Actor) -> bool:
        async with rig.store() as connection:
            _, began = await bulk.start(connection, operation_id, "retry", "state:dead", actor=operator)
            return began

    # One of the two presses twice, and both press at once.
    first, second = OPERATORS
    began = await asyncio.gather(press(pressed[0], first), press(pressed[0], first), press(pressed[1], second))
    assert sorted(began[:2]) == [False, True]
    assert began[2]
    await rig.start()
    async with rig.store() as connection:

        async def over() -> bool:
            return not await connection.fetchval("SELECT count(*) FROM bulk_operation WHERE state = 'running'")

        async def further(least: int) -> bool:
            done = await connection.fetchval("SELECT sum(applied + skipped) FROM bulk_operation")
            return bool(done > least) or await over()

        for least in (0, count // 3):
            await wait_until(partial(further, least), "a batch more", 60)
            await rig.kill(dice.choice(rig.workers))
            async with rig.valkey() as redis:
                await redis.flushall()
            await rig.heal()
        await wait_until(over, "both operations end", 120)
        drained = await rig.drain(120)
        assert [tuple(row) for row in await connection.fetch(_TWICE)] == []
        rows = await connection.fetch("SELECT id, state, applied, skipped, requested_by_id FROM bulk_operation")
        assert {row["id"]: (row["state"], row["requested_by_id"]) for row in rows} == {
            pressed[0]: ("done", "ana"),
            pressed[1]: ("done", "bo"),
        }
        told = await connection.fetch(
            "SELECT action, actor_id FROM audit_event WHERE starts_with(action, 'ops.bulk.') ORDER BY 1, 2"
        )
        starts = [row["actor_id"] for row in told if row["action"] == "ops.bulk.start"]
        assert starts == ["ana", "bo"]
        assert len(told) == 4
        acted = await connection.fetchval(
            "SELECT count(DISTINCT job_id) FROM audit_event WHERE action = 'ops.job.retry'"
        )
        assert acted == count
        assert await connection.fetchval("SELECT count(*) FROM job WHERE state = 'done'") == count
    measure(dead=count, by_the_one=rows[0]["applied"], by_the_other=rows[1]["applied"], seconds_to_drain=drained)
    await rig.check(driver)
