"""The ledger: staging, claiming with a lease, finishing, retrying and rescuing jobs.

arq only carries ids; whether a job runs, again or never again is decided here, by the database's clock.

    staged ──claim──► running ──► done
                       ▲   │ ├──► dead       out of attempts, or an error that cannot pass
                       │   │ └──► staged     given back by a worker that stops, the attempt not counted
                     retry ◄─┘               an attempt failed, or its worker gave no sign of life
    cancelled: by hand, from staged, retry or dead

A job whose worker vanished may be what made it vanish, though most often it is not. So those that were lost once
are done a few at a time, after the others. Whoever is lost again is a suspect: it comes back after a growing delay and
is done alone, and ends without taking the same neighbours down with it each time.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg

from models.audit.record import Actor, Event, record
from models.errors import PermanentJobError
from models.ledger_sql import CLAIM, FAIL, LOST, OVERDUE, RESCUE

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from uuid import UUID

    from models.db import Connection


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of job: where it queues, how often it is tried and how long it waits in between."""

    name: str
    queue: str
    max_attempts: int
    first_delay_seconds: float
    longest_delay_seconds: float
    version: int = 1
    """The newest form of the payload that this code reads, and the one that it writes; it reads the older ones too."""

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
    Kind("operator.link", EMAIL, max_attempts=6, first_delay_seconds=2, longest_delay_seconds=120),
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
    lost: bool = False
    """Whether its last worker gave no sign of life any more."""
    trace_context: str | None = None
    """The `traceparent` of what staged it."""
    waited: float = 0.0
    """Seconds from when it was due to this claim, by the database's clock."""

    @property
    def suspect(self) -> bool:
        """Whether it was lost when it had been tried before: it may be what takes workers down."""
        return self.lost and self.attempts > 2

    @property
    def version(self) -> Any:
        """The form of the payload: what stands in it as `version`, 1 if nothing does."""
        return self.payload.get("version", 1)


class Claim(list[Job]):
    """Jobs that were taken, and whether it is worth while to look again at once."""

    def __init__(self, jobs: Iterable[Job] = (), *, more: bool = False) -> None:
        super().__init__(jobs)
        self.more = more
        """Whether more may be due: a share was used up, or other workers took some of what this one wanted."""


@dataclass(frozen=True, slots=True)
class Ending:
    """How an attempt that failed leaves the job."""

    job: Job
    state: str
    """`retry` or `dead`."""
    code: str


def refusal(job: Job) -> PermanentJobError | None:
    """Return why the job's payload cannot be read here, if that is so: a newer version of Usher staged it."""
    known = KINDS[job.kind].version if job.kind in KINDS else 1
    if type(job.version) is int and 1 <= job.version <= known:
        return None
    text = f"The job is of version {str(job.version)[:20]}, and this Usher reads up to {known}. Upgrade, then retry it."
    return PermanentJobError("unknown_version", text)


def read_job(row: asyncpg.Record) -> Job:
    """Make a Job of a row that has its fields."""
    return Job(
        id=row["id"],
        tenant_id=row["tenant_id"],
        kind=row["kind"],
        resource_id=row["resource_id"],
        payload=row["payload"] if isinstance(row["payload"], dict) else {},
        attempts=row["attempts"],
        correlation_id=row["correlation_id"],
        staged_at=row["staged_at"],
        lost=row.get("lost", False),
        trace_context=row.get("trace_context"),
        waited=row.get("waited", 0.0),
    )


async def claim(connection: Connection, queue: str, *, lease_token: UUID, lease_seconds: float, limit: int) -> Claim:
    """Take at most ``limit`` due jobs of a queue under a lease, in turn by tenant.

    At most `LOST_TOGETHER` of them are `lost`, and at most one is `suspect`.

    Args:
        connection: where; the claim is committed with its transaction.
        queue: one of `QUEUES`.
        lease_token: new for every claim.
        lease_seconds: how long the claim holds without `extend_lease`.
        limit: most jobs, 1 or more.
    """
    rows = await connection.fetch(CLAIM, queue, limit, lease_token, lease_seconds)
    return Claim((read_job(row) for row in rows if row["id"] is not None), more=rows[0]["more"])


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


_LONGEST_DETAIL = 2000  # characters


async def fail(
    connection: Connection,
    job: Job,
    lease_token: UUID,
    error: BaseException,
    *,
    detail: str | None = None,
    process_id: UUID | None = None,
    took_seconds: float | None = None,
    trace: str | None = None,
) -> Ending | None:
    """Record that an attempt failed, and how: due again after its kind's delay, or dead.

    Args:
        connection: in a transaction if more is to be written with it.
        job: as it was claimed.
        lease_token: the claim's; if it no longer holds, nothing is written.
        error: a JobError carries its own code; any other class counts by its name and may be tried again.
        detail: what operators read, when not the error's own text.
        process_id: the worker's, for the list of attempts.
        took_seconds: how long the attempt took.
        trace: where the error was raised: modules and lines, no values.

    Returns:
        How the job was left, or None if the lease was lost.
    """
    kind = KINDS.get(job.kind)
    code = getattr(error, "code", None) or type(error).__name__
    final = isinstance(error, PermanentJobError) or kind is None or job.attempts >= kind.max_attempts
    state = "dead" if final else "retry"
    wait = 0.0 if final or kind is None else kind.delay(job.attempts)
    text = (detail if detail is not None else _describe(error))[:_LONGEST_DETAIL].replace("\x00", "")
    text = text.encode(errors="replace").decode()  # a lone surrogate of an odd payload can be written nowhere
    async with connection.transaction():
        row = await connection.fetchrow(
            FAIL, job.id, lease_token, state, wait, code, text, process_id, took_seconds, trace
        )
        if row is None:
            return None
        context = {"kind": job.kind, "attempt": job.attempts, "state": state}
        await record(connection, [_ended("job.attempt.fail", job, code, context)])
    return Ending(job, state, code)


def _ended(action: str, job: Job, code: str, context: dict[str, Any]) -> Event:
    return Event(
        action=action,
        phase="failed",
        actor=Actor("job"),
        correlation_id=job.correlation_id,
        tenant_id=job.tenant_id,
        reason=code,
        targets=[{"type": "Job", "id": str(job.id), "label": job.kind}],
        job_id=job.id,
        context=context,
    )


def _describe(error: BaseException) -> str:
    """Return what an error says, less the values of rows and parameters that the driver may repeat."""
    if isinstance(error, asyncpg.DataError | asyncpg.InterfaceError):
        return str(error.args[0]).partition(":")[0]
    return str(error.args[0]) if isinstance(error, asyncpg.PostgresError) else str(error)


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


async def rescue(connection: Connection, limit: int = 1000) -> list[asyncpg.Record]:
    """Free the jobs whose lease ran out; the lost attempt counts, so that a job that kills workers ends.

    Returns:
        At most ``limit`` rows that `read_job` reads, with `queue`, `state` (`retry` or `dead`) and `due` beside.
    """
    async with connection.transaction():
        rows = await connection.fetch(
            RESCUE,
            list(KINDS),
            [kind.max_attempts for kind in KINDS.values()],
            [kind.first_delay_seconds for kind in KINDS.values()],
            [kind.longest_delay_seconds for kind in KINDS.values()],
            limit,
        )
        events = []
        for row in rows:
            context = {"kind": row["kind"], "attempt": row["attempts"], "state": row["state"]}
            events.append(_ended("job.attempt.rescue", read_job(row), LOST, context))
        await record(connection, events)
    return rows


async def due(connection: Connection, queue: str, *, older_than_seconds: float, limit: int) -> list[UUID]:
    """Return ids of jobs that should have been taken by now, oldest first: what the relay rings for.

    Of a tenant no more than twice its equal share, so they need not be the oldest of all.
    """
    rows = await connection.fetch(OVERDUE, queue, older_than_seconds, limit)
    return [row["id"] for row in rows]
