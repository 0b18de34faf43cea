"""The processes that live: each writes its row every few seconds and reads there whether it is to take jobs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from models.audit.record import Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    from models.audit.record import Actor
    from models.db import Connection

BEAT_SECONDS = 5.0
SILENT_SECONDS = 20.0
"""A process that has not been heard of for so long is not counted on any more."""
KEEP_DAYS = 1


@dataclass(frozen=True, slots=True)
class Identity:
    """What stays the same as long as a process lives."""

    id: UUID
    role: str
    """`api` or `worker`."""
    host: str
    pid: int
    version: str
    queues: tuple[str, ...]
    slots: int
    """Most jobs, or batches of them, at once; 0 for an api."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """What a process says of itself on a beat."""

    busy: int
    jobs_done: int
    jobs_failed: int
    rss_bytes: int
    loop_lag_seconds: float
    """The longest that its event loop was late since the last beat."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process as its row tells."""

    id: UUID
    role: str
    host: str
    pid: int
    version: str
    queues: list[str]
    slots: int
    busy: int
    jobs_done: int
    jobs_failed: int
    rss_bytes: int
    loop_lag_seconds: float
    quiet: bool
    started_at: datetime
    beat_at: datetime
    stopped_at: datetime | None
    beat_seconds: float
    """How long ago it was last heard of, by the database's clock."""

    @property
    def state(self) -> str:
        """`stopped`, `silent`, `quiet` or `working`."""
        if self.stopped_at is not None:
            return "stopped"
        if self.beat_seconds > SILENT_SECONDS:
            return "silent"
        return "quiet" if self.quiet else "working"


_BEAT = """
INSERT INTO process (id, role, host, pid, version, queues, slots, busy, jobs_done, jobs_failed, rss_bytes,
                     loop_lag_seconds)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
ON CONFLICT (id) DO UPDATE
   SET busy = excluded.busy, jobs_done = excluded.jobs_done, jobs_failed = excluded.jobs_failed,
       rss_bytes = excluded.rss_bytes, loop_lag_seconds = excluded.loop_lag_seconds, beat_at = now(), stopped_at = NULL
RETURNING quiet
"""


async def beat(connection: Connection, identity: Identity, vitals: Vitals) -> bool:
    """Write a sign of life; return whether the process was told to take no more jobs."""
    quiet: bool = await connection.fetchval(
        _BEAT,
        identity.id,
        identity.role,
        identity.host,
        identity.pid,
        identity.version,
        list(identity.queues),
        identity.slots,
        vitals.busy,
        vitals.jobs_done,
        vitals.jobs_failed,
        vitals.rss_bytes,
        vitals.loop_lag_seconds,
    )
    return quiet


async def stopped(connection: Connection, process_id: UUID) -> None:
    """Write down that a process ended in order."""
    await connection.execute("UPDATE process SET stopped_at = now(), busy = 0 WHERE id = $1", process_id)


# Who is frozen does not hear of a timeout either: PostgreSQL waits for ever for the rest of a statement that it has
# read in part, and for ever with the lock of a session. Only what holds something is ended; it has not moved for as
# long as its process has said nothing, so it is not one that has just come back from an outage.
_SILENT = """
SELECT 'usher % ' || id AS named FROM process WHERE stopped_at IS NULL AND beat_at < now() - make_interval(secs => $1)
"""
_END = """
SELECT session.application_name, pg_terminate_backend(session.pid) AS ended
  FROM pg_stat_activity AS session
 WHERE session.application_name LIKE ANY ($2::text[])
   AND session.datname = current_database() AND session.state_change < now() - make_interval(secs => $1)
   AND (session.xact_start IS NOT NULL
        OR EXISTS (SELECT FROM pg_locks WHERE pg_locks.pid = session.pid AND locktype = 'advisory'))
"""


async def end_silent_sessions(connection: Connection) -> list[str]:
    """End the sessions of silent processes that hold a transaction or a lock open.

    A process that wakes up finds its connection gone, as after a restart of the server, and nothing half done.

    Args:
        connection: outside a transaction.

    Returns:
        What the sessions called themselves (`models.db.open_pool`).

    Raises:
        asyncpg.InsufficientPrivilegeError: such a session signed in under another name, and this login may see what
            it does (as a member of `pg_monitor`), but not end it. Where it may not even see that, it ends nothing.
    """
    silent = [row["named"] for row in await connection.fetch(_SILENT, SILENT_SECONDS)]
    if not silent:
        return []
    async with connection.transaction():
        # Sessions belong to the login and not to the role that it takes; only so may it see and end them.
        await connection.execute("SET LOCAL ROLE NONE")
        rows = await connection.fetch(_END, SILENT_SECONDS, silent)
    return [row["application_name"] for row in rows if row["ended"]]


async def list_processes(connection: Connection) -> list[Process]:
    """Return the processes of the last day: those that live first, workers before apis, then by their start."""
    rows = await connection.fetch(
        "SELECT id, role, host, pid, version, queues, slots, busy, jobs_done, jobs_failed, rss_bytes,"
        " loop_lag_seconds, quiet, started_at, beat_at, stopped_at,"
        " extract(epoch FROM now() - beat_at)::float AS beat_seconds FROM process"
        " ORDER BY (stopped_at IS NULL AND beat_at > now() - make_interval(secs => $1)) DESC, role DESC, started_at"
        " LIMIT 500",
        SILENT_SECONDS,
    )
    return [Process(**row) for row in rows]


async def set_quiet(connection: Connection, process_id: UUID, *, quiet: bool, actor: Actor) -> bool:
    """Tell a worker to take no more jobs, or to take them again; it hears of it on its next beat.

    Returns:
        Whether that changed anything; if not, nothing is audited.

    Raises:
        UsageError: there is no such worker, or it has stopped.
    """
    async with connection.transaction():
        row = await connection.fetchrow(
            "SELECT role, host, pid, quiet, stopped_at FROM process WHERE id = $1 FOR UPDATE", process_id
        )
        if row is None or row["role"] != "worker":
            raise UsageError(f"There is no worker {process_id}.")
        if row["stopped_at"] is not None:
            raise UsageError(f"Worker {row['pid']} on {row['host']} has stopped.")
        if row["quiet"] == quiet:
            return False
        await connection.execute("UPDATE process SET quiet = $2 WHERE id = $1", process_id, quiet)
        await record(
            connection,
            [
                Event(
                    action="ops.worker.quiet" if quiet else "ops.worker.unquiet",
                    phase="applied",
                    actor=actor,
                    correlation_id=uuid7(),
                    targets=[{"type": "Process", "id": str(process_id), "label": f"{row['host']} {row['pid']}"}],
                    diff=[{"path": "quiet", "op": "replace", "before": not quiet, "after": quiet}],
                )
            ],
        )
    return True


async def forget_processes(connection: Connection) -> int:
    """Remove the rows of processes that have not been heard of for `KEEP_DAYS`; return how many there were."""
    status = await connection.execute(
        "DELETE FROM process WHERE beat_at < now() - make_interval(days => $1)", KEEP_DAYS
    )
    return int(status.split()[1])
