"""Everything about one job, and the dead ones in groups."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uuid_utils.compat import uuid7

from models import job_find_sql as sql
from models.audit.record import Actor, Event, record
from models.errors import UsageError
from models.job_search import Search, Term

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from models.db import Connection

_MOST_EVENTS = 50
MOST_DEAD = 10_000
"""Most dead jobs that are grouped."""

_PAYLOAD = "SELECT payload FROM job WHERE id = $1"
_ATTEMPTS = """
SELECT attempt, process_id, process.host, process.pid, job_attempt.started_at, ended_at, outcome, error_code,
       error_detail, trace
  FROM job_attempt LEFT JOIN process ON process.id = process_id
 WHERE job_id = $1 ORDER BY ended_at, attempt
"""
_EVENTS = """
SELECT id, occurred_at, action, phase, outcome, reason, actor_type, actor_label, job_id, context
  FROM audit_event WHERE correlation_id = $1 ORDER BY occurred_at, id LIMIT $2
"""
_RELATED = """
SELECT id FROM job WHERE id = ANY ($1::uuid[]) AND id <> $2 ORDER BY id
"""


def redact(value: Any) -> Any:
    """Return the shape of a payload: names and types, no values."""
    if isinstance(value, dict):
        return {key: redact(item) for key, item in value.items()}
    if isinstance(value, list):
        return [redact(value[0]), f"{len(value)} in all"] if len(value) > 1 else [redact(item) for item in value]
    if value is None or isinstance(value, bool):
        return value
    return f"({'text' if isinstance(value, str) else 'number'})"


async def read_jobs(connection: Connection, job_ids: Sequence[UUID]) -> list[dict[str, Any]]:
    """Return jobs as lists show them."""
    rows = {row["id"]: dict(row) for row in await connection.fetch(sql.SHOWN, list(job_ids))}
    return [rows[one] for one in job_ids if one in rows]


async def read_detail(connection: Connection, job_id: UUID) -> dict[str, Any]:
    """Return a job with what a list shows of it, `payload` redacted, `attempts` that failed, `events` and `timeline`.

    Raises:
        UsageError: there is no such job.
    """
    found = await read_jobs(connection, [job_id])
    if not found:
        raise UsageError(f"There is no job {job_id}.")
    job = found[0]
    job["payload"] = redact(await connection.fetchval(_PAYLOAD, job_id))
    job["attempts_failed"] = [dict(row) for row in await connection.fetch(_ATTEMPTS, job_id)]
    job["events"] = [dict(row) for row in await connection.fetch(_EVENTS, job["correlation_id"], _MOST_EVENTS)]
    others = {event["job_id"] for event in job["events"] if event["job_id"]}
    job["related"] = [row["id"] for row in await connection.fetch(_RELATED, list(others), job_id)]
    job["timeline"] = timeline(job)
    return job


def timeline(job: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the steps of a job's life in order: `step`, `at`, `note`, and `waited`, seconds since the step before."""
    steps: list[dict[str, Any]] = [{"step": "staged", "at": job["staged_at"], "note": "accepted into the ledger"}]
    if job["started_at"] is not None:
        steps.append({"step": "running", "at": job["started_at"], "note": "first taken by a worker"})
    for failed in job["attempts_failed"]:
        note = f"attempt {failed['attempt']} failed: {failed['error_code']}"
        steps.append({"step": failed["outcome"], "at": failed["ended_at"], "note": note})
    steps += [
        {"step": "staged", "at": event["occurred_at"], "note": f"sent round again by {event['actor_label'] or 'hand'}"}
        for event in job["events"]
        if event["action"] == "ops.job.retry" and event["job_id"] == job["id"]
    ]
    if job["state"] in ("done", "cancelled") and job["finished_at"] is not None:
        steps.append({"step": job["state"], "at": job["finished_at"], "note": ""})
    steps.sort(key=lambda step: step["at"])
    before = None
    for step in steps:
        step["waited"] = None if before is None else max((step["at"] - before).total_seconds(), 0.0)
        before = step["at"]
    if job["state"] in ("staged", "retry"):
        steps.append({"step": job["state"], "at": job["run_at"], "note": "due", "waited": None})
    return steps


async def reveal(connection: Connection, job_id: UUID, *, actor: Actor) -> Any:
    """Return what a job carries, as it is, and audit that somebody looked.

    Raises:
        UsageError: there is no such job.
    """
    async with connection.transaction():
        row = await connection.fetchrow(
            "SELECT tenant_id, kind, correlation_id, payload FROM job WHERE id = $1", job_id
        )
        if row is None:
            raise UsageError(f"There is no job {job_id}.")
        event = Event(
            action="ops.job.reveal",
            phase="applied",
            actor=actor,
            correlation_id=uuid7(),
            tenant_id=row["tenant_id"],
            targets=[{"type": "Job", "id": str(job_id), "label": row["kind"]}],
            job_id=job_id,
        )
        await record(connection, [event])
    return row["payload"]


# In two steps, so that no more than so many are read however many died.
_GROUPS = f"""
WITH dead AS MATERIALIZED (
    SELECT id, kind, error_code, coalesce(finished_at, staged_at) AS died_at, {sql.FINGERPRINT} AS fingerprint,
           error_detail
      FROM job WHERE state = 'dead' AND ($1::text IS NULL OR kind = $1) LIMIT $2
)
SELECT kind, error_code, fingerprint, count(*) AS count, min(died_at) AS first_at, max(died_at) AS last_at,
       (array_agg(id ORDER BY died_at DESC))[1] AS example_id,
       (array_agg(error_detail ORDER BY died_at DESC))[1] AS example
  FROM dead GROUP BY kind, error_code, fingerprint ORDER BY count DESC, kind, error_code, fingerprint
"""  # noqa: S608  constants only


async def dead_groups(connection: Connection, *, kind: str | None = None) -> tuple[list[dict[str, Any]], bool]:
    """Return dead jobs by kind and error: counts, first and last death, an example, and the search that finds them.

    Returns:
        The groups, largest first, and whether there are more than `MOST_DEAD` dead jobs, so that the counts are short.
    """
    groups = [dict(row) for row in await connection.fetch(_GROUPS, kind, MOST_DEAD + 1)]
    for group in groups:
        error = f"{group['error_code'] or 'unknown'}~{group['fingerprint']}"
        terms = (Term("state", ("dead",)), Term("kind", (group["kind"],)), Term("error", (error,)))
        group["query"] = str(Search(terms))
    return groups, sum(group["count"] for group in groups) > MOST_DEAD
