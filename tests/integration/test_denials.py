"""Refusals are written beside the requests, and all of them: also those in hand when the process stops."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from api.denials import Denials
from models.audit.record import ANONYMOUS, Event
from models.db import open_pool
from tests.support.api import fresh_settings, store, until

if TYPE_CHECKING:
    from tests.support.servers import Servers


async def test_a_stop_in_the_middle_of_writing_loses_none(servers: Servers) -> None:
    async with fresh_settings(servers) as settings, store(settings) as connection:
        pool = await open_pool(settings, name="test")
        denials, correlation_id = Denials(pool), uuid7()
        async with connection.transaction():
            await connection.execute("LOCK TABLE audit_event IN ACCESS EXCLUSIVE MODE")
            denials.add(
                Event(
                    action="auth.request.deny",
                    phase="denied",
                    actor=ANONYMOUS,
                    correlation_id=correlation_id,
                    reason="unknown",
                )
            )

            async def writing() -> bool:
                return bool(await connection.fetchval("SELECT count(*) FROM pg_locks WHERE NOT granted"))

            await until(writing, "the refusal is being written")
            closing = asyncio.create_task(denials.close())
            await asyncio.sleep(0)
            assert not closing.done()
        await closing
        await pool.close()
        found = await connection.fetchval("SELECT count(*) FROM audit_event WHERE correlation_id = $1", correlation_id)
        assert found == 1
