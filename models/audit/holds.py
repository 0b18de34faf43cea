"""Legal holds: while one is open, nothing of its tenant (or of anybody) is removed from the audit log or erased."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from uuid_utils.compat import uuid7

from models.audit.record import Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from uuid import UUID

    from models.audit.record import Actor
    from models.db import Connection

_OPEN = """
SELECT hold.id, tenant.name AS tenant, hold.tenant_id, hold.reason, hold.placed_by, hold.placed_at
  FROM audit_hold AS hold LEFT JOIN tenant ON tenant.id = hold.tenant_id
 WHERE hold.released_at IS NULL ORDER BY hold.placed_at
"""


async def open_holds(connection: Connection) -> list[dict[str, Any]]:
    """Return the holds that are open, oldest first; ``tenant`` is empty for everybody's."""
    return [dict(row) for row in await connection.fetch(_OPEN)]


async def place_hold(
    connection: Connection, *, tenant_id: UUID | None, reason: str, actor: Actor, correlation_id: UUID
) -> UUID:
    """Place a hold on a tenant's events, or on everybody's, and audit it.

    Raises:
        UsageError: no reason is given.
    """
    if not reason.strip():
        raise UsageError("A legal hold needs a reason.")
    hold_id = uuid7()
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO audit_hold (id, tenant_id, reason, placed_by) VALUES ($1, $2, $3, $4)",
            hold_id,
            tenant_id,
            reason,
            _name(actor),
        )
        await record(connection, [_event("audit.hold.place", hold_id, tenant_id, actor, correlation_id)])
    return hold_id


async def release_hold(connection: Connection, hold_id: UUID, *, actor: Actor, correlation_id: UUID) -> None:
    """Release a hold and audit it.

    Raises:
        UsageError: there is no such hold that is open.
    """
    async with connection.transaction():
        row = await connection.fetchrow(
            "UPDATE audit_hold SET released_at = now(), released_by = $2 WHERE id = $1 AND released_at IS NULL"
            " RETURNING tenant_id",
            hold_id,
            _name(actor),
        )
        if row is None:
            raise UsageError(f"There is no open hold {hold_id}; `usher audit holds` shows them.")
        event = _event("audit.hold.release", hold_id, row["tenant_id"], actor, correlation_id)
        await record(connection, [event])


def _event(action: str, hold_id: UUID, tenant_id: UUID | None, actor: Actor, correlation_id: UUID) -> Event:
    return Event(
        action=action,
        phase="applied",
        actor=actor,
        correlation_id=correlation_id,
        tenant_id=tenant_id,
        targets=[{"type": "Hold", "id": str(hold_id)}],
    )


def _name(actor: Actor) -> str:
    return actor.label or actor.id or actor.type
