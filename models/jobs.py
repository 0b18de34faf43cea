"""The ledger: staging, claiming with a lease, finishing, retrying and rescuing jobs.

arq only carries ids; whether a job runs, again or never again is decided here, by the database's clock.

    staged ──claim──► running ──► done
       ▲                 │ ├────► dead       out of attempts, or an error that cannot pass
       └──── retry ◄─────┘ └────► (lease runs out) ──► retry
    cancelled: by hand, from staged, retry or dead
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.audit.record import Actor, Event, record
from models.errors import PermanentJobError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from models.db import Connection


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job: where it queues, how often it is tried and how long it waits in between."""

    name: str
    queue: str
    max_attempts: int
    first_delay_seconds: float
    longest_delay_seconds: float

    def delay(self, attempts: int, dice: random.Random | None = None) -> float:
        """Return the seconds to wait after the ``attempts``-th attempt: doubling, with jitter of a quarter."""
        base = min(self.first_delay_seconds * 2.0 ** min(attempts - 1, 30), self.longest_delay_seconds)
        return base * (dice or random).uniform(0.75, 1.25)


PROVISION = "provision"
EMAIL = "email"
QUEUES = (PROVISION, EMAIL)
RUN_JOBS = "run_jobs"
"""Name of the one function that arq knows; its argument is a list of job ids."""


def redis_queue(queue: str) -> str:
    """Return the key of a queue's sorted set in Redis."""
    return f"usher:{queue}"


_KINDS = (
    Kind("user.create", PROVISION, max_attempts=20, first_delay_seconds=1, longest_delay_seconds=300),
    Kind("invitation.send", EMAIL, max_attempts=12, first_delay_seconds=5, longest_delay_seconds=3600),
)
KINDS: dict[str, Kind] = {kind.name: kind for kind in _KINDS}


@dataclass(frozen=True, slots=True)
class Job:
    """A claimed job, as its handler sees it."""

    id: UUID
    tenant_id: UUID
    kind: str
    resource_id: UUID | None
    payload: dict[str, Any]
    attempts: int
    """The number of this attempt, from 1."""
    correlation_id: UUID
    staged_at: datetime


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt that failed leaves the job."""

    job: Job
    state: str
    """`retry` or `dead`."""
    code: str


_DUE = "state IN ('staged', 'retry') AND run_at <= now()"

# Walks the tenants that have something due (one index probe each), takes an equal share from each, and so
# serves a tenant's single create between the thousands of another's initial cycle.
_CLAIM = f"""
WITH RECURSIVE tenant_due (tenant_id) AS (
    (SELECT tenant_id FROM job WHERE queue = $1 AND state IN ('staged', 'retry') ORDER BY tenant_id LIMIT 1)
    UNION ALL
    SELECT (SELECT tenant_id FROM job
             WHERE queue = $1 AND state IN ('staged', 'retry') AND tenant_id > tenant_due.tenant_id
             ORDER BY tenant_id LIMIT 1)
      FROM tenant_due WHERE tenant_due.tenant_id IS NOT NULL
),
candidate AS (
    SELECT due.id, row_number() OVER (PARTITION BY tenant_due.tenant_id ORDER BY due.run_at, due.id) AS turn
      FROM tenant_due
      CROSS JOIN LATERAL (SELECT id, run_at FROM job
                           WHERE queue = $1 AND tenant_id = tenant_due.tenant_id AND {_DUE}
                           ORDER BY run_at, id LIMIT $2) AS due
),
picked AS (
    SELECT id FROM job WHERE id = ANY (ARRAY(SELECT id FROM candidate ORDER BY turn, id LIMIT $2)) AND {_DUE}
       FOR UPDATE SKIP LOCKED
)
UPDATE job
   SET state = 'running', lease_token = $3, lease_until = now() + make_interval(secs => $4),
       attempts = attempts + 1, started_at = coalesce(started_at, now())
  FROM picked
 WHERE job.id = picked.id
RETURNING job.id, tenant_id, kind, resource_id, payload, attempts, correlation_id, staged_at
"""  # noqa: S608  constants only


def read_job(row: asyncpg.Record) -> Job:
    """Make a Job of a row that has its fields."""
    return Job(
        id=row["id"],
        tenant_id=row["tenant_id"],
        kind=row["kind"],
        resource_id=row["resource_id"],
        payload=row["payload"] or {},
        attempts=row["attempts"],
        correlation_id=row["correlation_id"],
        staged_at=row["staged_at"],
    )


async def claim(
    connection: Connection, queue: str, *, lease_token: UUID, lease_seconds: float, limit: int
) -> list[Job]:
    """Take at most ``limit`` due jobs of a queue under a lease, in turn by tenant.

    When fewer than ``limit`` come back, nothing more was due (or another worker holds it).
    """
    rows = await connection.fetch(_CLAIM, queue, limit, lease_token, lease_seconds)
    return [read_job(row) for row in rows]


async def extend_lease(connection: Connection, lease_token: UUID, lease_seconds: float) -> int:
    """Give a sign of life for every job under ``lease_token``; return how many there still are."""
    status = await connection.execute(
        "UPDATE job SET lease_until = now() + make_interval(secs => $2) WHERE lease_token = $1 AND state = 'running'",
        lease_token,
        lease_seconds,
    )
    return int(status.split()[1])


async def finish(connection: Connection, job_ids: Sequence[UUID], lease_token: UUID) -> set[UUID]:
    """Mark jobs done, if the lease still holds; return those for which it did.

    The caller's effect belongs into the same transaction, and must be rolled back for the others.
    """
    rows = await connection.fetch(
        "UPDATE job SET state = 'done', finished_at = now(), lease_token = NULL, lease_until = NULL,"
        " error_code = NULL, error_detail = NULL"
        " WHERE id = ANY ($1::uuid[]) AND lease_token = $2 AND state = 'running' RETURNING id",
        job_ids,
        lease_token,
    )
    return {row["id"] for row in rows}


_FAIL = """
UPDATE job SET state = $3, run_at = now() + make_interval(secs => $4), lease_token = NULL, lease_until = NULL,
       error_code = $5, error_detail = $6, finished_at = CASE WHEN $3 = 'dead' THEN now() END
 WHERE id = $1 AND lease_token = $2 AND state = 'running'
RETURNING id
"""


async def fail(
    connection: Connection, job: Job, lease_token: UUID, error: BaseException, *, detail: str | None = None
) -> Ending | None:
    """Record that an attempt failed: due again after its kind's delay, or dead.

    Args:
        connection: in a transaction if more is to be written with it.
        job: as it was claimed.
        lease_token: the claim's; if it no longer holds, nothing is written.
        error: a JobError carries its own code; any other class counts by its name and may be tried again.
        detail: what operators read, when not the error's own text.

    Returns:
        How the job was left, or None if the lease was lost.
    """
    kind = KINDS.get(job.kind)
    code = getattr(error, "code", None) or type(error).__name__
    final = isinstance(error, PermanentJobError) or kind is None or job.attempts >= kind.max_attempts
    state = "dead" if final else "retry"
    wait = 0.0 if final or kind is None else kind.delay(job.attempts)
    text = detail if detail is not None else str(error)
    row = await connection.fetchrow(_FAIL, job.id, lease_token, state, wait, code, text[:2000].replace("\x00", ""))
    return Ending(job, state, code) if row else None


async def release(connection: Connection, lease_token: UUID, job_ids: Sequence[UUID] | None = None) -> int:
    """Give jobs back untried, as a stopping worker does: the attempt does not count.

    Args:
        connection: where to write.
        lease_token: whose jobs.
        job_ids: only these of them; all when not given.

    Returns:
        How many there were.
    """
    status = await connection.execute(
        "UPDATE job SET state = CASE WHEN attempts > 1 THEN 'retry' ELSE 'staged' END, attempts = attempts - 1,"
        " lease_token = NULL, lease_until = NULL"
        " WHERE lease_token = $1 AND state = 'running' AND ($2::uuid[] IS NULL OR id = ANY ($2))",
        lease_token,
        job_ids,
    )
    return int(status.split()[1])


_RESCUE = """
WITH lost AS (
    SELECT id, kind, attempts FROM job WHERE state = 'running' AND lease_until < now()
     ORDER BY lease_until LIMIT 1000 FOR UPDATE SKIP LOCKED
),
known AS (SELECT * FROM unnest($1::text[], $2::int[]) AS k (kind, max_attempts))
UPDATE job SET state = CASE WHEN lost.attempts >= coalesce(known.max_attempts, 0) THEN 'dead' ELSE 'retry' END,
       run_at = now(), lease_token = NULL, lease_until = NULL,
       error_code = 'lease_expired', error_detail = 'The worker that had it gave no sign of life.',
       finished_at = CASE WHEN lost.attempts >= coalesce(known.max_attempts, 0) THEN now() END
  FROM lost LEFT JOIN known USING (kind)
 WHERE job.id = lost.id
RETURNING job.id, tenant_id, job.kind, queue, state, resource_id, correlation_id, payload, job.attempts, staged_at
"""


async def rescue(connection: Connection) -> list[asyncpg.Record]:
    """Free the jobs whose lease ran out; the lost attempt counts, so that a job that kills workers ends.

    Returns:
        Rows that `read_job` reads, with `queue` and `state` (`retry` or `dead`) beside.
    """
    return await connection.fetch(_RESCUE, list(KINDS), [kind.max_attempts for kind in KINDS.values()])


async def due(connection: Connection, queue: str, *, older_than_seconds: float, limit: int) -> list[UUID]:
    """Return ids of jobs that should have been taken by now, oldest first: what the relay rings for."""
    rows = await connection.fetch(
        "SELECT id FROM job WHERE queue = $1 AND state IN ('staged', 'retry')"
        " AND run_at <= now() - make_interval(secs => $2) ORDER BY run_at LIMIT $3",
        queue,
        older_than_seconds,
        limit,
    )
    return [row["id"] for row in rows]


async def next_due_seconds(connection: Connection, queue: str) -> float | None:
    """Return in how many seconds the next job of a queue is due (0 if one is), or None if none waits."""
    seconds: float | None = await connection.fetchval(
        "SELECT greatest(0, extract(epoch FROM min(run_at) - now()))::float FROM job"
        " WHERE queue = $1 AND state IN ('staged', 'retry')",
        queue,
    )
    return seconds


_STATS = """
SELECT kind, tenant.name AS tenant,
       count(*) FILTER (WHERE state = 'staged') AS waiting,
       count(*) FILTER (WHERE state = 'running') AS running,
       count(*) FILTER (WHERE state = 'retry') AS retry,
       count(*) FILTER (WHERE state = 'dead') AS dead,
       extract(epoch FROM now() - min(staged_at) FILTER (WHERE state IN ('staged', 'running', 'retry')))::float
           AS oldest_seconds
  FROM job JOIN tenant ON tenant.id = job.tenant_id
 WHERE state IN ('staged', 'running', 'retry', 'dead')
 GROUP BY kind, tenant.name ORDER BY kind, tenant.name
"""


async def stats(connection: Connection) -> list[dict[str, Any]]:
    """Return per kind and tenant: waiting, running, retry, dead, and the age of the oldest in seconds."""
    return [dict(row) for row in await connection.fetch(_STATS)]


async def _locked(connection: Connection, job_id: UUID) -> asyncpg.Record:
    row = await connection.fetchrow(
        "SELECT id, tenant_id, kind, queue, state, resource_id, correlation_id, payload, staged_at, attempts"
        " FROM job WHERE id = $1 FOR UPDATE",
        job_id,
    )
    if row is None:
        raise UsageError(f"There is no job {job_id}.")
    return row


def _by_hand(action: str, row: asyncpg.Record, actor: Actor) -> Event:
    return Event(
        action=action,
        phase="applied",
        actor=actor,
        correlation_id=row["correlation_id"],
        tenant_id=row["tenant_id"],
        targets=[{"type": "Job", "id": str(row["id"]), "label": row["kind"]}],
        job_id=row["id"],
        context={"state_before": row["state"]},
    )


async def retry_now(connection: Connection, job_id: UUID, *, actor: Actor) -> str:
    """Make a job due at once with all its attempts before it; return its queue.

    Raises:
        UsageError: no such job, or one that is neither waiting, in retry nor dead.
    """
    async with connection.transaction():
        row = await _locked(connection, job_id)
        if row["state"] not in ("staged", "retry", "dead"):
            raise UsageError(f"Job {job_id} is {row['state']}; only a staged, retry or dead job can be retried.")
        await connection.execute(
            "UPDATE job SET state = 'staged', run_at = now(), attempts = 0, finished_at = NULL WHERE id = $1", job_id
        )
        await record(connection, [_by_hand("ops.job.retry", row, actor)])
    queue: str = row["queue"]
    return queue


async def cancel(connection: Connection, job_id: UUID, *, actor: Actor) -> None:
    """End a job that is not running; a cancelled create gives its identifiers back and the user vanishes.

    Raises:
        UsageError: no such job, or one that is running or has ended.
    """
    async with connection.transaction():
        row = await _locked(connection, job_id)
        if row["state"] not in ("staged", "retry", "dead"):
            raise UsageError(f"Job {job_id} is {row['state']}; only a staged, retry or dead job can be cancelled.")
        await connection.execute(
            "UPDATE job SET state = 'cancelled', finished_at = now(), payload = NULL WHERE id = $1", job_id
        )
        events = [_by_hand("ops.job.cancel", row, actor)]
        if row["kind"] == "user.create":
            await connection.execute(
                "DELETE FROM identifier WHERE tenant_id = $1 AND kind = 'userName' AND value_key = $2"
                " AND resource_id = $3",
                row["tenant_id"],
                row["payload"]["user_name_key"],
                row["resource_id"],
            )
            events.append(
                Event(
                    action="scim.user.create",
                    phase="failed",
                    actor=actor,
                    correlation_id=row["correlation_id"],
                    tenant_id=row["tenant_id"],
                    reason="cancelled",
                    targets=[{"type": "User", "id": str(row["resource_id"])}],
                    job_id=job_id,
                )
            )
        elif row["kind"] == "invitation.send":
            await connection.execute(
                "UPDATE invitation SET state = 'failed', error_code = 'cancelled' WHERE id = $1", row["resource_id"]
            )
        await record(connection, events)


STATES = ("staged", "running", "retry", "done", "dead", "cancelled")
_OPEN = ("staged", "running", "retry", "dead")


async def list_jobs(connection: Connection, *, state: str | None, kind: str | None, limit: int) -> list[dict[str, Any]]:
    """Return jobs in one state, or in any that is not an end, oldest first; without their payload.

    Raises:
        UsageError: an unknown state or kind.
    """
    if state is not None and state not in STATES:
        raise UsageError(f"There is no state {state}; there are {', '.join(STATES)}.")
    if kind is not None and kind not in KINDS:
        raise UsageError(f"There is no kind {kind}; there are {', '.join(KINDS)}.")
    rows = await connection.fetch(
        "SELECT job.id, kind, tenant.name AS tenant, state, resource_id, attempts, staged_at, run_at, lease_until,"
        " error_code, error_detail, correlation_id FROM job JOIN tenant ON tenant.id = job.tenant_id"
        " WHERE state = ANY ($1::text[]) AND ($2::text IS NULL OR kind = $2) ORDER BY staged_at, job.id LIMIT $3",
        [state] if state else list(_OPEN),
        kind,
        limit,
    )
    return [dict(row) for row in rows]
