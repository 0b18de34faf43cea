"""P12: a process whose clock is hours off, and jumps, runs nothing early, late or twice, and refuses no good token."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Final

import pytest
from uuid_utils.compat import uuid7

from models.audit.record import OPERATOR
from models.tokens import issue_token
from tests.support.promises import scale
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from tests.faults.conftest import Measure
    from tests.support.rig import Rig

OFF_SECONDS: Final = 7200.0
_TWICE: Final = "SELECT count(*) FROM audit_event WHERE action LIKE 'job.attempt.%'"
_TRIED: Final = "SELECT id, attempts, run_at > now() AS early FROM job WHERE attempts > 0 ORDER BY id"


@pytest.mark.promise("P12")
async def test_two_hours_off_and_jumping_nothing_is_early_late_or_twice(rig: Rig, measure: Measure) -> None:
    driver = await rig.driver(invitations=True)
    ahead, behind = rig.workers
    ahead.clock_seconds, behind.clock_seconds = OFF_SECONDS, -OFF_SECONDS
    rig.apis[0].clock_seconds, rig.apis[1].clock_seconds = OFF_SECONDS, -OFF_SECONDS
    await rig.kill()
    await rig.start()
    await driver.run(scale(60, 1000))
    for one in (*rig.apis, *rig.workers):
        one.send(signal.SIGUSR1)
    await driver.run(scale(60, 1000))
    drained = await rig.drain()
    assert set(driver.answers) == {201}, "no token was refused"
    # One that lives for another hour is good at every door, and one that is over at none.
    tenant = driver.tenants[0]
    async with rig.store() as connection:
        short = await issue_token(connection, tenant_id=tenant.id, actor=OPERATOR, correlation_id=uuid7(), days=1)
        await connection.execute("UPDATE token SET expires_at = now() + interval '1 hour' WHERE id = $1", short.id)
        over = await issue_token(connection, tenant_id=tenant.id, actor=OPERATOR, correlation_id=uuid7(), days=1)
        await connection.execute("UPDATE token SET expires_at = now() - interval '1 minute' WHERE id = $1", over.id)
    for caller in rig.callers(tenant):
        assert (await caller.bearing(short.text).get("/Users", count=1)).status == 200
        (await caller.bearing(over.text).get("/Users", count=1)).error(401)
    async with rig.store() as connection:
        assert await connection.fetchval(_TWICE) == 0, "no attempt failed or was taken from a living worker"
        tried = await connection.fetch(_TRIED)
        assert {row["attempts"] for row in tried} == {1}
        assert not any(row["early"] for row in tried)
    # A retry keeps its hour: a message that was refused for now is not sent again two hours early.
    await rig.mailbox.behave(reply="451 4.3.0 later", at="data")
    await driver.run(3)
    async with rig.store() as connection:

        async def refused() -> bool:
            query = "SELECT count(*) FROM job WHERE kind = 'invitation.send' AND state = 'retry' AND run_at > now()"
            return bool(await connection.fetchval(query))

        await wait_until(refused, "messages wait for their next attempt", 20)
        first = await connection.fetchval("SELECT max(attempts) FROM job WHERE state = 'retry'")
        await asyncio.sleep(1)  # shorter than the first pause of an invitation, longer than a look of the sweeper
        assert await connection.fetchval("SELECT max(attempts) FROM job WHERE state = 'retry'") == first == 1
    await rig.mailbox.behave()
    await rig.drain()
    seals = 0
    async with rig.store() as connection:
        seals = await connection.fetchval("SELECT count(*) FROM audit_seal WHERE sealed_at > now()")
    assert seals == 0, "seals bear the database's time"
    measure(users=len(driver.known), seconds_to_drain=drained)
    await rig.check(driver, mails=True, copies=1)
