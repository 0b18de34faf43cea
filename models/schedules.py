"""What runs again and again: the registry of it, and for each when it last ran, how that went and when it is due.

The functions are in `worker.schedules`; the pages, which know no worker, read the names here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from models.audit.record import Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

    from models.audit.record import Actor
    from models.db import Connection

RETRY_SECONDS = 60.0
"""After this at most something that failed, or whose worker is gone, is tried again."""
_LOCKS = 7311210  # first half of the advisory locks; the second half is the name's hash
_LONGEST_DETAIL = 500
SWEEP = "ledger.sweep"


@dataclass(frozen=True, slots=True)
class Entry:
    """Something that runs again and again."""

    name: str
    every_seconds: float | None
    """From the end of one run to the next; None if it keeps a pace of its own and cannot be asked to run."""
    about: str


_ENTRIES = (
    Entry(SWEEP, None, "Frees jobs whose worker is gone and rings for what is due (every USHER_SWEEP_SECONDS)."),
    Entry("audit.anchor", 3600, "Appends each stream's last seal to USHER_AUDIT_ANCHOR_FILE."),
    Entry("audit.export", 2, "Writes exports that pages asked for, and deletes those whose links expired."),
    Entry("audit.partitions", 3600, "Makes the audit log's monthly partitions ahead."),
    Entry("audit.retention", 86_400, "Removes audit events whose time is over, and leaves tombstones."),
    Entry("audit.seal", 60, "Seals the audit events that came since the last time."),
    Entry("audit.verify", 86_400, "Verifies the whole audit log."),
    Entry("invitation.expiry", 600, "Sets invitations whose time is over to expired; forgets links a month later."),
    Entry("job.cleanup", 3600, "Deletes jobs that ended USHER_JOB_DAYS ago, their attempts, and bulk operations."),
    Entry("request.deferred", 3600, "Forgets the outcomes of requests that were carried out later."),
    Entry("request.log", 600, "Deletes logged requests that are too old or too many, and captured bodies."),
    Entry("session.cleanup", 3600, "Deletes sessions and sign-in links that are over."),
    Entry("statistics.cleanup", 3600, "Deletes old statistics, and rows of processes that are gone."),
)
SCHEDULES: dict[str, Entry] = {entry.name: entry for entry in _ENTRIES}


@dataclass(frozen=True, slots=True)
class Schedule:
    """An entry and what became of it last."""

    entry: Entry
    started_at: datetime | None
    finished_at: datetime | None
    seconds: float | None
    """How long the last run that ended took."""
    outcome: str | None
    """`ok` or `failed`."""
    detail: str | None
    next_at: datetime | None
    run_now: bool

    @property
    def state(self) -> str:
        """`running`, `ok`, `failed` or `waiting` (it has not run yet)."""
        if self.started_at is not None and (self.finished_at is None or self.finished_at < self.started_at):
            return "running"
        return self.outcome or "waiting"


async def register(connection: Connection, names: Iterable[str]) -> None:
    """Have a row for each name; what is new is due at once."""
    await connection.execute(
        "INSERT INTO schedule (name, next_at) SELECT name, now() FROM unnest($1::text[]) AS n (name)"
        " ON CONFLICT DO NOTHING",
        list(names),
    )


async def due(connection: Connection, names: Iterable[str]) -> list[str]:
    """Return which of these are due, or asked for."""
    rows = await connection.fetch(
        "SELECT name FROM schedule WHERE name = ANY ($1) AND (run_now OR next_at <= now()) ORDER BY next_at",
        list(names),
    )
    return [row["name"] for row in rows]


async def begin(connection: Connection, name: str) -> bool:
    """Take a run that is due for this connection; return whether it is ours.

    If so, `end` must follow on the same connection, or the connection must be closed: others wait for that.
    """
    if not await connection.fetchval("SELECT pg_try_advisory_lock($1, hashtext($2))", _LOCKS, name):
        return False
    ours = await connection.fetchval(
        "UPDATE schedule SET started_at = clock_timestamp(), run_now = false,"
        " next_at = now() + make_interval(secs => $2)"
        " WHERE name = $1 AND (run_now OR next_at <= now()) RETURNING true",
        name,
        _retry_seconds(name),
    )
    if not ours:  # somebody else's run ended just now
        await connection.fetchval("SELECT pg_advisory_unlock($1, hashtext($2))", _LOCKS, name)
    return bool(ours)


def _retry_seconds(name: str) -> float:
    entry = SCHEDULES.get(name)
    return min(RETRY_SECONDS, (entry.every_seconds if entry else None) or RETRY_SECONDS)


async def end(connection: Connection, name: str, *, every_seconds: float, detail: str, failed: bool = False) -> None:
    """Write how a run went, and let go of it."""
    await connection.execute(
        "UPDATE schedule SET finished_at = clock_timestamp(), outcome = $2, detail = $3,"
        " next_at = clock_timestamp() + make_interval(secs => $4) WHERE name = $1",
        name,
        "failed" if failed else "ok",
        detail[:_LONGEST_DETAIL],
        min(every_seconds, RETRY_SECONDS) if failed else every_seconds,
    )
    await connection.fetchval("SELECT pg_advisory_unlock($1, hashtext($2))", _LOCKS, name)


async def note(connection: Connection, name: str, *, seconds: float, every_seconds: float) -> None:
    """Write down a run, which took ``seconds``, of something that keeps a pace of its own."""
    await connection.execute(
        "INSERT INTO schedule (name, started_at, finished_at, outcome, detail, next_at)"
        " VALUES ($1, now() - make_interval(secs => $2), now(), 'ok', '', now() + make_interval(secs => $3))"
        " ON CONFLICT (name) DO UPDATE SET started_at = excluded.started_at, finished_at = excluded.finished_at,"
        " outcome = excluded.outcome, detail = excluded.detail, next_at = excluded.next_at",
        name,
        seconds,
        every_seconds,
    )


async def run_now(connection: Connection, name: str, *, actor: Actor) -> bool:
    """Ask for a run at once; some worker begins it within about a second.

    Returns:
        Whether it was not asked for already.

    Raises:
        UsageError: there is no such schedule, or it keeps a pace of its own.
    """
    entry = SCHEDULES.get(name)
    if entry is None:
        raise UsageError(f"There is no schedule {name}; there are {', '.join(SCHEDULES)}.")
    if entry.every_seconds is None:
        raise UsageError(f"{name} keeps a pace of its own and cannot be asked to run.")
    async with connection.transaction():
        await register(connection, [name])
        asked = await connection.fetchval(
            "UPDATE schedule SET run_now = true WHERE name = $1 AND NOT run_now RETURNING true", name
        )
        if not asked:
            return False
        await record(
            connection,
            [
                Event(
                    action="ops.schedule.run",
                    phase="applied",
                    actor=actor,
                    correlation_id=uuid7(),
                    targets=[{"type": "Schedule", "id": name, "label": name}],
                    diff=[{"op": "replace", "path": "run_now", "before": False, "after": True}],
                )
            ],
        )
    return True


async def list_schedules(connection: Connection) -> list[Schedule]:
    """Return every entry of the registry, in its order, with what became of it."""
    rows = await connection.fetch(
        "SELECT name, started_at, finished_at, outcome, detail, next_at, run_now,"
        " CASE WHEN finished_at >= started_at THEN extract(epoch FROM finished_at - started_at)::float END AS seconds"
        " FROM schedule"
    )
    known = {row["name"]: row for row in rows}
    found = []
    for entry in _ENTRIES:
        row = known.get(entry.name)
        if row is None:
            found.append(Schedule(entry, None, None, None, None, None, None, run_now=False))
            continue
        found.append(
            Schedule(
                entry,
                row["started_at"],
                row["finished_at"],
                row["seconds"],
                row["outcome"],
                row["detail"],
                row["next_at"],
                row["run_now"],
            )
        )
    return found
