"""Bulk operations in real workers: killed in the middle, carried on by the next, seen by a person on the way."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio
from uuid_utils.compat import uuid7

from models import bulk
from models.audit.record import OPERATOR
from tests.support.api import fresh_settings, make_tenant, store
from tests.support.ledger import stage
from tests.support.processes import processes
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path
    from typing import Any
    from uuid import UUID

    from models.settings import Settings
    from tests.support.servers import Servers

JOBS = 6_000


@pytest_asyncio.fixture
async def settings(servers: Servers) -> AsyncIterator[Settings]:
    async with fresh_settings(servers) as made:
        yield made


async def progress(settings: Settings, operation_id: UUID) -> dict[str, Any]:
    async with store(settings) as connection:
        return await bulk.get(connection, operation_id)


async def test_an_operation_outlives_the_workers_that_carry_it_out(settings: Settings, tmp_path: Path) -> None:
    tenant = await make_tenant(settings)
    async with store(settings) as connection:
        await stage(connection, tenant.id, JOBS)
        await connection.execute("UPDATE job SET state = 'dead', error_code = 'refused', finished_at = now()")
        operation_id = uuid7()
        await bulk.start(connection, operation_id, "retry", "state:dead", actor=OPERATOR, delay_seconds=3600)
    async with processes(settings, tmp_path, apis=0, workers=2) as fleet:
        applied = 0
        for worker in fleet.workers:
            await worker.start()

            async def further() -> bool:
                return bool((await progress(settings, operation_id))["applied"] > applied)  # noqa: B023  awaited at once

            await wait_until(further, "a batch more", 60)
            await worker.kill()
            found = await progress(settings, operation_id)
            assert found["applied"] % bulk.BATCH == 0, "a batch is whole or was not"
            applied = found["applied"]
        assert applied < JOBS, "it was over before its workers were killed"
        await fleet.workers[0].start()

        async def over() -> bool:
            return bool((await progress(settings, operation_id))["state"] != "running")

        await wait_until(over, "the operation ends", 60)
        assert await fleet.workers[0].stop() == 0
    found = await progress(settings, operation_id)
    assert (found["state"], found["applied"], found["skipped"]) == ("done", JOBS, 0)
    async with store(settings) as connection:
        told = await connection.fetchrow(
            "SELECT count(*), count(DISTINCT job_id) AS jobs FROM audit_event WHERE action = 'ops.job.retry'"
        )
        states = await connection.fetch("SELECT DISTINCT state, run_at > now() AS later FROM job")
    assert tuple(told or ()) == (JOBS, JOBS)
    assert [tuple(one) for one in states] == [("staged", True)]
