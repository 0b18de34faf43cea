"""Pauses: jobs of a kind, of a tenant or of both that no worker takes until somebody says so or a time is over.

What is running goes on. What is accepted while its kind is paused waits in the ledger; nothing is refused.
`models.ledger_sql` leaves paused jobs alone where it claims and rings.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

from uuid_utils.compat import uuid7

from models.audit.record import Actor, Event, record
from models.errors import UsageError
from models.job_actions import check_reason
from models.jobs import KINDS, QUEUES, due
from models.tenants import find_tenant

if TYPE_CHECKING:
    from uuid import UUID

    from models.db import Connection

LONGEST = timedelta(days=365)
_MOST_RUNG = 100

_COLUMNS = """
job_pause.id, job_pause.kind, job_pause.tenant_id, tenant.name AS tenant, reason, paused_by, paused_at, expires_at
"""
_LIST = f"""
SELECT {_COLUMNS} FROM job_pause LEFT JOIN tenant ON tenant.id = job_pause.tenant_id
 WHERE expires_at IS NULL OR expires_at > now() ORDER BY paused_at, job_pause.id
"""  # noqa: S608  constants only
_READ = f"SELECT {_COLUMNS} FROM job_pause LEFT JOIN tenant ON tenant.id = job_pause.tenant_id WHERE job_pause.id = $1"  # noqa: S608  as above
# One that is over may still stand there; whoever pauses anew takes its place.
_SWEEP = "DELETE FROM job_pause WHERE expires_at <= now()"
_PAUSE = """
INSERT INTO job_pause (id, kind, tenant_id, reason, paused_by, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + $6::interval)
ON CONFLICT (kind, tenant_id) DO NOTHING RETURNING id
"""


async def list_pauses(connection: Connection) -> list[dict[str, Any]]:
    """Return the pauses that hold, oldest first: id, kind, tenant, reason, paused_by, paused_at, expires_at."""
    return [dict(row) for row in await connection.fetch(_LIST)]


def scope(pause: dict[str, Any]) -> str:
    """Return in words what a pause covers."""
    what = f"{pause['kind']} jobs" if pause["kind"] else "All jobs"
    return f"{what} of {pause['tenant'] or pause['tenant_id']}" if pause["tenant_id"] else what


async def pause(
    connection: Connection,
    *,
    kind: str | None,
    tenant: str | None,
    reason: str,
    actor: Actor,
    duration: timedelta | None = None,
) -> tuple[dict[str, Any], bool]:
    """Have no worker take jobs of a kind, of a tenant or of both.

    Args:
        connection: where.
        kind: one of `models.jobs.KINDS`; any if None.
        tenant: a tenant's short name; any if None.
        reason: why, for people.
        actor: who does it.
        duration: how long; until it is resumed if None.

    Returns:
        The pause as it holds, and whether this call made it: pausing what is paused changes nothing.

    Raises:
        UsageError: neither kind nor tenant, an unknown one, no reason, or a duration out of range.
    """
    if kind is None and tenant is None:
        raise UsageError("Say what to pause: a kind, a tenant or both.")
    _check_kind(kind)
    text = check_reason(reason, needed=True)
    if duration is not None and not timedelta() < duration <= LONGEST:
        raise UsageError(f"A pause lasts at most {LONGEST.days} days.")
    async with connection.transaction():
        tenant_id = (await find_tenant(connection, tenant))["id"] if tenant is not None else None
        await connection.execute(_SWEEP)
        made = await connection.fetchval(_PAUSE, uuid7(), kind, tenant_id, text, actor.label or actor.type, duration)
        held = made or await connection.fetchval(
            "SELECT id FROM job_pause WHERE kind IS NOT DISTINCT FROM $1 AND tenant_id IS NOT DISTINCT FROM $2",
            kind,
            tenant_id,
        )
        row = await connection.fetchrow(_READ, held)
        if row is None:
            raise UsageError("Somebody ended that pause at this moment; look again.")
        found = dict(row)
        if made:
            await record(connection, [_event("ops.queue.pause", found, actor, before=None, after=_state(found))])
    return found, made is not None


def _check_kind(kind: str | None) -> None:
    if kind is not None and kind not in KINDS:
        raise UsageError(f"There is no kind {kind}; there are {', '.join(KINDS)}.")


async def resume(
    connection: Connection, pause_id: UUID, *, actor: Actor
) -> tuple[dict[str, Any], dict[str, list[UUID]]]:
    """End a pause.

    Returns:
        The pause as it was, and what to ring for, by queue, after the commit.

    Raises:
        UsageError: there is no such pause (any more).
    """
    async with connection.transaction():
        row = await connection.fetchrow(_READ + " FOR UPDATE OF job_pause", pause_id)
        if row is None:
            raise UsageError("That pause is over already; nothing was changed.")
        await connection.execute("DELETE FROM job_pause WHERE id = $1", pause_id)
        found = dict(row)
        await record(connection, [_event("ops.queue.resume", found, actor, before=_state(found), after=None)])
        queues = [KINDS[found["kind"]].queue] if found["kind"] in KINDS else QUEUES
        rung = {queue: await due(connection, queue, older_than_seconds=0, limit=_MOST_RUNG) for queue in queues}
    return found, {queue: ids for queue, ids in rung.items() if ids}


async def find_pause(connection: Connection, *, kind: str | None, tenant: str | None) -> dict[str, Any]:
    """Return the pause of exactly this scope.

    Raises:
        UsageError: there is none; names those that there are.
    """
    _check_kind(kind)
    held = await list_pauses(connection)
    for one in held:
        if (one["kind"], one["tenant"]) == (kind, tenant):
            return one
    there = "; ".join(scope(one) for one in held) or "nothing"
    raise UsageError(f"That is not paused. Paused: {there}.")


def _state(found: dict[str, Any]) -> dict[str, Any]:
    until = found["expires_at"]
    return {"reason": found["reason"], "expires_at": until.isoformat() if until else None}


def _event(
    action: str, found: dict[str, Any], actor: Actor, *, before: dict[str, Any] | None, after: dict[str, Any] | None
) -> Event:
    path = ".".join(part for part in (found["kind"], found["tenant"]) if part)
    target = {"type": "Pause", "id": str(found["id"]), "label": scope(found)}
    item: dict[str, Any] = {"op": "add" if before is None else "remove", "path": f"pause.{path}"}
    item |= {key: value for key, value in (("before", before), ("after", after)) if value is not None}
    return Event(
        action=action,
        phase="applied",
        actor=actor,
        correlation_id=uuid7(),
        tenant_id=found["tenant_id"],
        targets=[target],
        context={"kind": found["kind"], "tenant": found["tenant"], "note": found["reason"]},
        diff=[item],
    )
