"""Bulk operations: one action on every job that matched a search when it was asked for.

Whoever asks sees how many there are, confirms, and goes; a worker does it in batches. Each batch is one transaction of
the effect, its audit events and the progress, so that whatever is killed between or within batches, each job is acted
upon once. Jobs that were staged after the operation was asked for are left alone.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from models import job_find_sql
from models.audit.record import Actor, Event, record
from models.errors import UsageError
from models.job_actions import ACTIONS, LONGEST_DELAY_SECONDS, act, check_reason
from models.job_find import Query, count, find_ids, find_page, resolve
from models.job_search import Term

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from models.db import Connection

BATCH = 500
"""Jobs of one transaction."""
CONFIRM_ABOVE = 100
"""Beyond so many jobs a person types the number to confirm."""
_EXAMPLES = 5


@dataclass(frozen=True, slots=True)
class Preview:
    """What an operation would act upon if it were asked for now."""

    action: str
    query: str
    count: int
    """No more than `models.job_find_sql.MOST_COUNTED`."""
    examples: list[dict[str, Any]]
    users_vanish: bool
    """Whether creates are among the jobs that would be cancelled or discarded."""

    @property
    def capped(self) -> bool:
        """Whether there may be more than ``count``."""
        return self.count >= job_find_sql.MOST_COUNTED


async def _resolve(connection: Connection, action: str, text: str) -> Query:
    if action not in ACTIONS:
        raise UsageError(f"There is no action {action}; there are {', '.join(ACTIONS)}.")
    query = await resolve(connection, text)
    if not query.search.terms:
        raise UsageError("Name at least one condition: an operation on all jobs is most likely a slip.")
    if query.cut:
        raise UsageError("The names lead to more jobs than can be looked up; narrow the search, by tenant or kind.")
    return query.only(ACTIONS[action].states)


async def preview(connection: Connection, action: str, text: str) -> Preview:
    """Count what an operation would act upon, and show a few.

    Raises:
        UsageError: an unknown action, or a search that cannot be read, is empty or too wide.
    """
    query = await _resolve(connection, action, text)
    found = await count(connection, query)
    examples = (await find_page(connection, query, limit=_EXAMPLES)).jobs if found else []
    vanish = False
    if found and action != "retry":
        creates = replace(query, search=replace(query.search, terms=(*query.search.terms, _CREATES)))
        vanish = bool(await count(connection, creates))
    return Preview(action, str(query.search), found, examples, vanish)


_CREATES = Term("kind", ("user.create",))

_START = """
INSERT INTO bulk_operation (id, action, query, tenant_id, reason, delay_seconds, expected, requested_by,
                            requested_by_id, correlation_id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $1) ON CONFLICT (id) DO NOTHING RETURNING *
"""
_GET = "SELECT * FROM bulk_operation WHERE id = $1"


async def start(
    connection: Connection,
    operation_id: UUID,
    action: str,
    text: str,
    *,
    actor: Actor,
    reason: str | None = None,
    delay_seconds: float = 0.0,
    at_most: int | None = None,
) -> tuple[dict[str, Any], bool]:
    """Ask for an operation; a worker begins within seconds.

    Args:
        connection: where.
        operation_id: made when it was previewed, so that asking twice for it is asking once.
        action: one of `models.job_actions.ACTIONS`.
        text: the search.
        actor: who asks.
        reason: why; `discard` needs one.
        delay_seconds: of a retry, how long until the jobs are due.
        at_most: how many jobs the person has agreed to, when no number was typed.

    Returns:
        The operation, and whether this call asked for it.

    Raises:
        UsageError: as of `preview`; or the reason is lacking, or the delay out of range, or nothing matches.
    """
    query = await _resolve(connection, action, text)
    reason = check_reason(reason, needed=ACTIONS[action].needs_reason)
    if not 0 <= delay_seconds <= LONGEST_DELAY_SECONDS:
        raise UsageError("A delay is between 0 seconds and 30 days.")
    tenants = [ids for negated, ids in query.tenants if not negated]
    tenant_id = tenants[0][0] if len(tenants) == 1 and len(tenants[0]) == 1 else None
    async with connection.transaction():
        before = await connection.fetchrow(_GET, operation_id)
        if before is not None:
            return dict(before), False
        expected = await count(connection, query)
        if not expected:
            raise UsageError("No job that this could be done to matches any more; nothing was changed.")
        if at_most is not None and expected > at_most:
            raise UsageError(f"There are {expected:,} jobs by now. Look at the preview again, and confirm that number.")
        row = await connection.fetchrow(
            _START,
            operation_id,
            action,
            str(query.search),
            tenant_id,
            reason,
            delay_seconds,
            expected,
            actor.label or actor.type,
            actor.id,
        )
        if row is None:  # the other of two clicks came first
            return await get(connection, operation_id), False
        await record(connection, [_event("ops.bulk.start", row, actor)])
    return dict(row), True


async def get(connection: Connection, operation_id: UUID) -> dict[str, Any]:
    """Return an operation with its progress.

    Raises:
        UsageError: there is none of this id.
    """
    row = await connection.fetchrow(_GET, operation_id)
    if row is None:
        raise UsageError(f"There is no bulk operation {operation_id}.")
    return dict(row)


async def list_operations(connection: Connection, *, limit: int = 50) -> list[dict[str, Any]]:
    """Return operations, newest first."""
    return [
        dict(row) for row in await connection.fetch("SELECT * FROM bulk_operation ORDER BY id DESC LIMIT $1", limit)
    ]


_END = """
UPDATE bulk_operation SET state = $2, finished_at = now(), stop_requested = $2 = 'stopped', error_detail = $3
 WHERE id = $1 AND state = 'running' RETURNING *
"""


async def _end(connection: Connection, operation_id: UUID, state: str, actor: Actor, detail: str | None = None) -> bool:
    async with connection.transaction():
        row = await connection.fetchrow(_END, operation_id, state, detail)
        if row is not None:
            await record(connection, [_event("ops.bulk.finish", row, actor)])
    return row is not None


async def stop(connection: Connection, operation_id: UUID, *, actor: Actor) -> bool:
    """Stop an operation after the batch that is under way; return whether it was still going.

    Raises:
        UsageError: there is none of this id.
    """
    await get(connection, operation_id)
    return await _end(connection, operation_id, "stopped", actor)


def _event(action: str, row: asyncpg.Record, actor: Actor) -> Event:
    counts = {"expected": row["expected"], "applied": row["applied"], "skipped": row["skipped"]}
    before, after = (None, "running") if action == "ops.bulk.start" else ("running", row["state"])
    item = {"op": "add" if before is None else "replace", "path": "state", "before": before, "after": after}
    context = {"bulk_action": row["action"], "query": row["query"], "note": row["reason"], **counts}
    return Event(
        action=action,
        phase="failed" if row["state"] == "failed" else "applied",
        actor=actor,
        correlation_id=row["correlation_id"],
        tenant_id=row["tenant_id"],
        reason="failed" if row["state"] == "failed" else None,
        targets=[{"type": "BulkOperation", "id": str(row["id"]), "label": row["action"]}],
        context={key: value for key, value in context.items() if value is not None},
        diff=[{key: value for key, value in item.items() if value is not None}],
    )


_NEXT = "SELECT * FROM bulk_operation WHERE state = 'running' ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED"
_PROGRESS = """
UPDATE bulk_operation SET after_id = coalesce($2, after_id), applied = applied + $3, skipped = skipped + $4
 WHERE id = $1
"""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one batch did."""

    operation_id: UUID
    applied: int
    skipped: int
    ended: bool
    due: dict[str, list[UUID]]
    """What to ring for after the commit, by queue."""


async def carry_on(connection: Connection, *, limit: int = BATCH) -> Batch | None:
    """Do the next batch of the oldest operation that nobody else is at; None if there is none.

    Raises:
        asyncpg.PostgresError, OSError: nothing of the batch happened; another call does it.
    """
    async with connection.transaction():
        row = await connection.fetchrow(_NEXT)
        if row is None:
            return None
        actor = Actor("operator", row["requested_by_id"], row["requested_by"])
        try:
            query = await _resolve(connection, row["action"], row["query"])
        except UsageError as error:  # what the search names has gone
            await _end(connection, row["id"], "failed", Actor("system"), error.detail)
            return Batch(row["id"], 0, 0, ended=True, due={})
        query = replace(query, now=row["bound_at"], bound_at=row["bound_at"])
        ids, _ = await find_ids(connection, query, after=row["after_id"], limit=limit, newest=False)
        outcome = await act(
            connection,
            row["action"],
            ids,
            actor=actor,
            reason=row["reason"],
            delay_seconds=row["delay_seconds"],
            bound_at=row["bound_at"],
            operation_id=row["id"],
        )
        applied, skipped = len(outcome.applied), len(outcome.left)
        await connection.execute(_PROGRESS, row["id"], ids[-1] if ids else None, applied, skipped)
        ended = len(ids) < limit
        if ended:
            await _end(connection, row["id"], "done", Actor("system"))
        return Batch(row["id"], applied, skipped, ended, outcome.due)


async def give_up(connection: Connection, detail: str) -> UUID | None:
    """Mark the oldest running operation failed: its batch cannot be carried out; return its id."""
    async with connection.transaction():
        row = await connection.fetchrow(_NEXT)
        if row is None:
            return None
        await _end(connection, row["id"], "failed", Actor("system"), detail)
        operation_id: UUID = row["id"]
        return operation_id
