"""Carrying out bulk operations, a batch a transaction, in whichever worker comes first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import asyncpg
import structlog

from models import bulk
from models.db import is_unavailable

if TYPE_CHECKING:
    from worker.context import Context

_LOOK_SECONDS = 1.0
_MOST_RUNG = 100

_log = structlog.get_logger("bulk")


async def carry_out(context: Context) -> bool:
    """Do one batch of a bulk operation, if there is one to do; return whether there was."""
    try:
        async with context.pool.acquire() as connection:
            batch = await bulk.carry_on(connection)
    except asyncpg.PostgresError as error:
        if is_unavailable(error) or isinstance(error, asyncpg.DeadlockDetectedError | asyncpg.LockNotAvailableError):
            raise
        # The store refuses this batch and would do so for ever: people must know, and other operations go on.
        async with context.pool.acquire() as connection:
            operation_id = await bulk.give_up(connection, type(error).__name__)
        _log.error("Failed", action="bulk.failed", operation_id=str(operation_id), error=type(error).__name__)
        return True
    if batch is None:
        return False
    for queue, job_ids in batch.due.items():
        context.ring(queue, job_ids[:_MOST_RUNG])
    _log.info(
        "A batch is done",
        action="bulk.batch",
        operation_id=str(batch.operation_id),
        applied=batch.applied,
        skipped=batch.skipped,
        ended=batch.ended,
    )
    return True


async def carry_out_forever(context: Context) -> None:
    """Look for bulk operations every second until cancelled; an outage only means another look later."""
    while True:
        try:
            worked = await carry_out(context)
        except Exception as error:
            if not is_unavailable(error) and not isinstance(error, asyncpg.DeadlockDetectedError):
                raise
            worked = False
            _log.warning("The ledger does not answer", action="ledger.unavailable", error=type(error).__name__)
        if not worked:
            await asyncio.sleep(_LOOK_SECONDS)
