"""Looking after the ledger: freeing jobs whose worker is gone, and ringing for what nobody has taken.

Every worker does it, and none waits for another: one that is frozen in the middle of it holds up nobody.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import asyncpg
import structlog

from models import jobs as ledger
from models.db import is_unavailable
from models.jobs import Ending, read_job
from models.ledger_sql import LOST
from models.processes import end_silent_sessions
from models.schedules import SWEEP, note
from worker import measure

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from models.db import Connection
    from models.tally import Tally
    from worker.context import Context, Handler

_OVERDUE_SECONDS = 1.0
_MOST_RUNG = 100
_MOST_RESCUED = 1000
_GRACE_SECONDS = 5.0

_log = structlog.get_logger("sweeper")


# After PostgreSQL itself was away, workers that live must have had the time to give a sign of it.
_ANY_LOST = """
SELECT now() - pg_postmaster_start_time() > make_interval(secs => $1)
   AND EXISTS (SELECT FROM job WHERE state = 'running' AND lease_until < now())
"""


async def rescue_lost(
    connection: Connection, handlers: Mapping[str, Handler], tally: Tally | None = None
) -> tuple[dict[str, list[UUID]], bool]:
    """Free jobs whose lease ran out, in one transaction, and count their attempts in ``tally``.

    What another worker is freeing at the same time is left to it.

    Returns:
        The ids to ring for, by queue, and whether there may be more to free.
    """
    rung: dict[str, list[UUID]] = {}
    if not await connection.fetchval(_ANY_LOST, _GRACE_SECONDS):
        return rung, False
    async with connection.transaction():
        rows = await ledger.rescue(connection, _MOST_RESCUED)
        for row in rows:
            ending = Ending(read_job(row), row["state"], LOST)
            await _tell(connection, handlers.get(row["kind"]), ending)
            measure.rescued(row["queue"], ending)
            if row["due"] and row["state"] == "retry":
                rung.setdefault(row["queue"], []).append(row["id"])
            _log.warning(
                "A job was rescued",
                action="job.rescued",
                kind=row["kind"],
                job_id=str(row["id"]),
                correlation_id=str(row["correlation_id"]),
                state=row["state"],
            )
    if tally is not None:
        for row in rows:
            tally.lost(row["kind"], dead=row["state"] == "dead")
    return rung, len(rows) == _MOST_RESCUED


async def _tell(connection: Connection, handler: Handler | None, ending: Ending) -> None:
    """Have the handler write what a lost attempt means; if it cannot, the job is freed all the same."""
    if handler is None:
        return
    try:
        async with connection.transaction():
            await handler.failed(connection, ending)
    except Exception as error:
        if is_unavailable(error):
            raise
        _log.error("A failure could not be told", action="job.untold", kind=ending.job.kind, error=type(error).__name__)


async def _free_from_silent(connection: Connection) -> None:
    """Take from processes that are frozen, or whose host has vanished, the locks that others wait for."""
    try:
        ended = await end_silent_sessions(connection)
    except asyncpg.InsufficientPrivilegeError:
        # Its login is another one than this process's; a worker with that login has to end them.
        _log.warning("A silent process holds locks, and its sessions cannot be ended", action="process.untouchable")
        return
    for application in ended:
        _log.warning("A session of a silent process was ended", action="process.session.end", application=application)


async def sweep(context: Context, handlers: Mapping[str, Handler], queues: tuple[str, ...]) -> None:
    """Look once: rescue, and ring for what is overdue because a ring was lost or a retry has come due."""
    async with context.pool.acquire() as connection:
        await _free_from_silent(connection)
        more = True
        while more:
            rung, more = await rescue_lost(connection, handlers, context.tally)
            for queue, job_ids in rung.items():
                context.ring(queue, job_ids)
        for queue in queues:
            overdue = await ledger.due(connection, queue, older_than_seconds=_OVERDUE_SECONDS, limit=_MOST_RUNG)
            if overdue:
                context.ring(queue, overdue)


async def sweep_forever(context: Context, handlers: Mapping[str, Handler], queues: tuple[str, ...]) -> None:
    """Sweep every `sweep_seconds` until cancelled; an outage of PostgreSQL only means another look later."""
    every = context.settings.sweep_seconds
    while True:
        began = time.monotonic()
        try:
            await sweep(context, handlers, queues)
            async with context.pool.acquire() as connection:
                await note(connection, SWEEP, seconds=time.monotonic() - began, every_seconds=every)
        except Exception as error:
            if not is_unavailable(error):
                raise
            _log.warning("The ledger does not answer", action="ledger.unavailable", error=type(error).__name__)
        await asyncio.sleep(every)
