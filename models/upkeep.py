"""What is thrown away because its time is over, in small transactions that nobody waits for."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from models.deferred import KEEP_DAYS
from models.request_log import first_id

if TYPE_CHECKING:
    from models.db import Connection

CHUNK: Final = 1000
"""Rows that one transaction looks at, at most."""
LINK_DAYS: Final = 30
"""Days after its end that the page behind an invitation's link still says what became of it."""
_REST_SECONDS: Final = 0.02  # between two transactions, so that what waits for the disk or a processor comes first


async def _delete(connection: Connection, statement: str, *values: object) -> int:
    return int((await connection.execute(statement, *values)).split()[1])


async def _in_chunks(connection: Connection, statement: str, *values: object) -> int:
    """Carry out a statement, whose $1 is the most rows it takes, until it takes fewer; return how many that were."""
    total = 0
    while True:
        done = await _delete(connection, statement, CHUNK, *values)
        total += done
        if done < CHUNK:
            return total
        await asyncio.sleep(_REST_SECONDS)


# Ids begin with the moment at which a job was staged, so the primary key leads to the old ones. Those that are open
# or dead, or ended only lately, stay and are passed over once a run.
_FORGET_JOBS = """
WITH old AS MATERIALIZED (
    SELECT id, state, finished_at FROM job WHERE id > $2 AND id < $3 ORDER BY id LIMIT $1
),
gone AS (
    DELETE FROM job
     WHERE id = ANY (ARRAY(SELECT id FROM old WHERE state IN ('done', 'cancelled') AND finished_at < $4))
       AND state IN ('done', 'cancelled') AND finished_at < $4
    RETURNING id
),
attempts AS (
    DELETE FROM job_attempt WHERE job_id = ANY (ARRAY(SELECT id FROM gone))
)
SELECT (SELECT count(*) FROM gone) AS gone, (SELECT count(*) FROM old) AS seen,
       (SELECT id FROM old ORDER BY id DESC LIMIT 1) AS last
"""
_FORGET_OPERATIONS = """
DELETE FROM bulk_operation
 WHERE id = ANY (ARRAY(SELECT id FROM bulk_operation WHERE id < $2 AND state <> 'running' AND finished_at < $3
                        ORDER BY id LIMIT $1))
"""


async def forget_jobs(connection: Connection, days: float) -> int:
    """Delete jobs that were done or cancelled so many days ago, with their attempts; return how many there were.

    Dead jobs stay until somebody acts, whatever waits stays until it ends.
    """
    before = datetime.now(UTC) - timedelta(days=days)
    last, end, total = UUID(int=0), first_id(before), 0
    while True:
        [row] = await connection.fetch(_FORGET_JOBS, CHUNK, last, end, before)
        total += int(row["gone"])
        if row["seen"] < CHUNK:
            return total
        last = row["last"]
        await asyncio.sleep(_REST_SECONDS)


async def forget_operations(connection: Connection, days: float) -> int:
    """Delete bulk operations that ended so many days ago, and pauses that are over; return how many operations."""
    before = datetime.now(UTC) - timedelta(days=days)
    await connection.execute("DELETE FROM job_pause WHERE expires_at < now() - interval '1 day'")
    return await _in_chunks(connection, _FORGET_OPERATIONS, first_id(before), before)


_FORGET_LINKS = """
UPDATE invitation SET token_hash = NULL
 WHERE id = ANY (ARRAY(SELECT id FROM invitation
                        WHERE token_hash IS NOT NULL AND state IN ('accepted', 'expired')
                          AND expires_at < now() - make_interval(days => $2)
                        ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED))
"""


async def forget_links(connection: Connection) -> int:
    """Forget the links of invitations that ended `LINK_DAYS` ago; return how many there were."""
    return await _in_chunks(connection, _FORGET_LINKS, LINK_DAYS)


_FORGET_DEFERRED = """
DELETE FROM deferred_request
 WHERE id = ANY (ARRAY(SELECT id FROM deferred_request WHERE finished_at < now() - make_interval(days => $2)
                        ORDER BY finished_at LIMIT $1))
"""


async def forget_deferred(connection: Connection) -> int:
    """Forget the outcomes of requests that were carried out days ago; return how many there were."""
    return await _in_chunks(connection, _FORGET_DEFERRED, KEEP_DAYS)


async def forget_sessions(connection: Connection) -> int:
    """Delete sessions that ran out, and links and failures of sign-ins a day later; return how many there were."""
    return (
        await _delete(connection, "DELETE FROM operator_session WHERE expires_at <= now()")
        + await _delete(connection, "DELETE FROM sign_in_link WHERE expires_at < now() - interval '1 day'")
        + await _delete(connection, "DELETE FROM sign_in_failure WHERE failed_at < now() - interval '1 day'")
    )
