"""What a person can do to jobs: send round again, cancel, discard; each once, however often and by whomever asked.

The rows are locked before they are judged, so of two who ask at once the second finds what the first has made of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models import metrics
from models.audit.record import Actor, Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from models.db import Connection


@dataclass(frozen=True, slots=True)
class Action:
    """Something to do to jobs in some states."""

    name: str
    states: tuple[str, ...]
    done: str
    """How a person is told that it happened."""
    needs_reason: bool = False


_WAITING = ("staged", "retry", "dead")
ACTIONS: dict[str, Action] = {
    "retry": Action("retry", _WAITING, "sent round again"),
    "cancel": Action("cancel", _WAITING, "cancelled"),
    "discard": Action("discard", ("dead",), "discarded", needs_reason=True),
}

GONE = "gone"
DUE_ALREADY = "due already"
CHANGED = "changed meanwhile"
LONGEST_REASON = 500  # characters
LONGEST_DELAY_SECONDS = 30 * 24 * 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of an action on some jobs."""

    applied: list[UUID] = field(default_factory=list)
    left: dict[UUID, str] = field(default_factory=dict)
    """Jobs that were left alone, with the state they were found in, or `GONE`, `DUE_ALREADY` or `CHANGED`."""
    due: dict[str, list[UUID]] = field(default_factory=dict)
    """What to ring for after the commit, by queue."""


# The clock, since whoever waited for the lock began before the other set the time.
_LOCK = """
SELECT id, tenant_id, kind, queue, state, resource_id, correlation_id, attempts, run_at, staged_at,
       run_at <= clock_timestamp() AS due, payload -> 'doc' ->> 'userName' AS label,
       payload ->> 'user_name_key' AS user_name_key
  FROM job WHERE id = ANY ($1::uuid[]) ORDER BY id FOR UPDATE
"""
_RETRY = """
UPDATE job SET state = 'staged', run_at = now() + make_interval(secs => $2), attempts = 0, finished_at = NULL
 WHERE id = ANY ($1::uuid[])
"""
_FREE_NAMES = """
DELETE FROM identifier
 WHERE tenant_id = $1 AND kind = 'userName' AND value_key = ANY ($2::text[]) AND resource_id = ANY ($3::uuid[])
RETURNING resource_id
"""
_FREE_ALL = "DELETE FROM identifier WHERE tenant_id = $1 AND resource_id = ANY ($2::uuid[])"
_CANCEL = "UPDATE job SET state = 'cancelled', finished_at = now(), payload = NULL WHERE id = ANY ($1::uuid[])"


def seen_mark(job: dict[str, Any] | asyncpg.Record) -> str:
    """Return what a page remembers of a job, so that a form which is sent twice has one effect."""
    return f"{job['state']}.{job['attempts']}.{job['run_at'].timestamp():.6f}"


def check_reason(reason: str | None, *, needed: bool) -> str | None:
    """Return a person's reason in one line, or None.

    Raises:
        UsageError: it is needed and lacking, or too long.
    """
    text = " ".join((reason or "").split())
    if needed and not text:
        raise UsageError("Say why: a reason is needed, and it stands in the audit log.")
    if len(text) > LONGEST_REASON or not text.isprintable():
        raise UsageError(f"A reason has at most {LONGEST_REASON} printable characters.")
    return text or None


async def act(
    connection: Connection,
    action: str,
    job_ids: Sequence[UUID],
    *,
    actor: Actor,
    reason: str | None = None,
    delay_seconds: float = 0.0,
    seen: str | None = None,
    bound_at: datetime | None = None,
    operation_id: UUID | None = None,
) -> Outcome:
    """Do something to jobs, as far as they are still in a state for it, with an audit event for each.

    A cancelled or discarded create gives its identifiers back and the user vanishes.

    Args:
        connection: where; part of the caller's transaction if there is one.
        action: one of `ACTIONS`.
        job_ids: to which.
        actor: who does it.
        reason: why; stands in the audit events.
        delay_seconds: of a retry, how long until the jobs are due.
        seen: `seen_mark` of the one job as the person saw it; a job that has changed since is left alone.
        bound_at: jobs staged later are left alone.
        operation_id: the bulk operation that this is part of.

    Raises:
        UsageError: the reason is lacking or too long, or the delay out of range.
    """
    rule = ACTIONS[action]
    reason = check_reason(reason, needed=rule.needs_reason)
    if not 0 <= delay_seconds <= LONGEST_DELAY_SECONDS:
        raise UsageError("A delay is between 0 seconds and 30 days.")
    outcome = Outcome(left=dict.fromkeys(job_ids, GONE))
    async with connection.transaction():
        rows = []
        for row in await connection.fetch(_LOCK, job_ids):
            why = _why_not(rule, row, delay_seconds, seen, bound_at)
            if why is None:
                rows.append(row)
                del outcome.left[row["id"]]
            else:
                outcome.left[row["id"]] = why
        ids = [row["id"] for row in rows]
        outcome.applied.extend(ids)
        if not ids:
            return outcome
        context = {"note": reason, "bulk_operation": str(operation_id) if operation_id else None}
        if action == "retry":
            await connection.execute(_RETRY, ids, delay_seconds)
            events = [_by_hand("ops.job.retry", row, actor, "staged", context) for row in rows]
            for row in rows if not delay_seconds else ():
                outcome.due.setdefault(row["queue"], []).append(row["id"])
        else:
            events = await _cancel(connection, rows, ids, actor, context, discard=action == "discard")
        await record(connection, events)
    return outcome


def _why_not(
    rule: Action, row: asyncpg.Record, delay_seconds: float, seen: str | None, bound_at: datetime | None
) -> str | None:
    """Return why a job is left alone, or None if it is not."""
    state: str = row["state"]
    if state not in rule.states:
        return state
    if seen is not None and seen != seen_mark(row):
        return CHANGED
    if rule.name == "retry" and state == "staged" and row["due"] and not delay_seconds:
        return DUE_ALREADY
    if bound_at is not None and row["staged_at"] > bound_at:
        return CHANGED
    return None


def _by_hand(action: str, row: asyncpg.Record, actor: Actor, state: str, context: dict[str, Any]) -> Event:
    diff = [{"op": "replace", "path": "state", "before": row["state"], "after": state}]
    if state == "staged" and row["attempts"]:
        diff.append({"op": "replace", "path": "attempts", "before": row["attempts"], "after": 0})
    return Event(
        action=action,
        phase="applied",
        actor=actor,
        correlation_id=row["correlation_id"],
        tenant_id=row["tenant_id"],
        targets=[{"type": "Job", "id": str(row["id"]), "label": row["kind"]}],
        job_id=row["id"],
        context={"state_before": row["state"], **{key: value for key, value in context.items() if value}},
        diff=[item for item in diff if item["before"] != item["after"]] or None,
    )


async def _cancel(
    connection: Connection,
    rows: Sequence[asyncpg.Record],
    ids: Sequence[UUID],
    actor: Actor,
    context: dict[str, Any],
    *,
    discard: bool,
) -> list[Event]:
    await connection.execute(_CANCEL, ids)
    events = []
    creates: dict[UUID, list[UUID]] = {}
    for row in rows:
        metrics.JOBS_FINISHED.add(1, row["queue"], row["kind"], "cancelled")
        if discard:
            events.append(_by_hand("ops.job.discard", row, actor, "cancelled", context))
        else:
            events.append(_by_hand("ops.job.cancel", row, actor, "cancelled", context))
        if row["kind"] == "user.create":
            creates.setdefault(row["tenant_id"], []).append(row["resource_id"])
            events.append(_vanished(row, actor))
    for tenant_id, users in creates.items():
        keys = [row["user_name_key"] for row in rows if row["tenant_id"] == tenant_id and row["user_name_key"]]
        freed = {row["resource_id"] for row in await connection.fetch(_FREE_NAMES, tenant_id, keys, users)}
        lost = [user_id for user_id in users if user_id not in freed]
        if lost:  # the payload may be what is wrong with the job; a rare, slower walk through the tenant's
            await connection.execute(_FREE_ALL, tenant_id, lost)
        from models.directory.membership import forget  # noqa: PLC0415  slow to import, and rarely needed

        for user_id in users:
            await forget(connection, tenant_id, user_id)
    await connection.execute(
        "UPDATE invitation SET state = 'failed', error_code = 'cancelled', token_hash = NULL WHERE id = ANY ($1)",
        [row["resource_id"] for row in rows if row["kind"] == "invitation.send"],
    )
    return events


def _vanished(row: asyncpg.Record, actor: Actor) -> Event:
    return Event(
        action="scim.user.create",
        phase="failed",
        actor=actor,
        correlation_id=row["correlation_id"],
        tenant_id=row["tenant_id"],
        reason="cancelled",
        targets=[{"type": "User", "id": str(row["resource_id"]), "label": row["label"]}],
        job_id=row["id"],
    )


def explain(action: str, job_id: UUID, why: str) -> str:
    """Return in a sentence why a job was left alone."""
    if why == GONE:
        return f"There is no job {job_id}."
    if why == DUE_ALREADY:
        return f"Job {job_id} is due already; nothing was changed."
    if why == CHANGED:
        return f"Job {job_id} has moved on since you looked; nothing was changed."
    *first, last = ACTIONS[action].states
    states = f"{', '.join(first)} or {last}" if first else last
    verb = {"retry": "retried", "cancel": "cancelled", "discard": "discarded"}[action]
    return f"Job {job_id} is {why}; only a {states} job can be {verb}."


async def retry_now(connection: Connection, job_id: UUID, *, actor: Actor, delay_seconds: float = 0.0) -> Outcome:
    """Make a job due at once, or after a delay, with all its attempts before it; one that is due stays as it is.

    Raises:
        UsageError: no such job, or one that is neither waiting, in retry nor dead.
    """
    outcome = await act(connection, "retry", [job_id], actor=actor, delay_seconds=delay_seconds)
    return _insist("retry", job_id, outcome)


async def cancel(connection: Connection, job_id: UUID, *, actor: Actor, reason: str | None = None) -> Outcome:
    """End a job that is not running; a cancelled create gives its identifiers back and the user vanishes.

    Raises:
        UsageError: no such job, or one that is running or has ended.
    """
    return _insist("cancel", job_id, await act(connection, "cancel", [job_id], actor=actor, reason=reason))


def _insist(action: str, job_id: UUID, outcome: Outcome) -> Outcome:
    why = outcome.left.get(job_id)
    if why is not None and why != DUE_ALREADY:
        raise UsageError(explain(action, job_id, why))
    return outcome
