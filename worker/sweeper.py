"""Looking after the ledger: freeing jobs whose worker is gone, and ringing for what nobody has taken.

Every worker does it; a lock in PostgreSQL lets one at a time.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from models import jobs as ledger
from models.audit.record import make_partitions
from models.db import is_unavailable
from models.invitations import expire_invitations
from models.jobs import Ending, read_job

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from models.db import Connection
    from worker.context import Context, Handler

_SWEEP_LOCK = 7311201
_OVERDUE_SECONDS = 1.0
_MOST_RUNG = 500
_UPKEEP_SECONDS = 3600.0

_log = structlog.get_logger("sweeper")


async def rescue_lost(connection: Connection, handlers: Mapping[str, Handler]) -> dict[str, list[UUID]]:
    """Free the jobs whose lease ran out, in one transaction; return the ids to ring for, by queue."""
    rung: dict[str, list[UUID]] = {}
    async with connection.transaction():
        if not await connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", _SWEEP_LOCK):
            return rung
        for row in await ledger.rescue(connection):
            ending = Ending(read_job(row), row["state"], "lease_expired")
            handler = handlers.get(row["kind"])
            if handler is not None:
                await handler.failed(connection, ending)
            if row["state"] == "retry":
                rung.setdefault(row["queue"], []).append(row["id"])
            _log.warning(
                "A job was rescued",
                action="job.rescued",
                kind=row["kind"],
                job_id=str(row["id"]),
                correlation_id=str(row["correlation_id"]),
                state=row["state"],
            )
    return rung


async def sweep(context: Context, handlers: Mapping[str, Handler], queues: tuple[str, ...]) -> None:
    """Look once: rescue, and ring for what is overdue because a ring was lost or a retry has come due."""
    async with context.pool.acquire() as connection:
        rung = await rescue_lost(connection, handlers)
        for queue in queues:
            overdue = await ledger.due(connection, queue, older_than_seconds=_OVERDUE_SECONDS, limit=_MOST_RUNG)
            job_ids = rung.get(queue, []) + overdue
            if job_ids:
                context.ring(queue, job_ids)


async def keep_up(context: Context) -> None:
    """Do the hourly upkeep: partitions made ahead, invitations that ran out."""
    async with context.pool.acquire() as connection:
        made = await make_partitions(connection)
        expired = await expire_invitations(connection)
    if made or expired:
        _log.info("Upkeep", action="upkeep", partitions=made, expired_invitations=expired)


async def sweep_forever(context: Context, handlers: Mapping[str, Handler], queues: tuple[str, ...]) -> None:
    """Sweep every `sweep_seconds` until cancelled; an outage of PostgreSQL only means another look later."""
    upkeep_at = 0.0
    while True:
        try:
            await sweep(context, handlers, queues)
            if time.monotonic() >= upkeep_at:
                await keep_up(context)
                upkeep_at = time.monotonic() + _UPKEEP_SECONDS
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("The ledger does not answer", action="ledger.unavailable", error=type(error).__name__)
        await asyncio.sleep(context.settings.sweep_seconds)
