"""Reading the audit log, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.audit.actions import ACTIONS
from models.errors import UsageError

if TYPE_CHECKING:
    from datetime import timedelta
    from uuid import UUID

    from models.db import Connection

_COLUMNS = (
    "occurred_at, id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id, actor_label,"
    " targets, correlation_id, job_id, context, diff, changed"
)
# A target is named by its id or by any label that it had: userName, externalId, short name.
_EVENTS = f"""
SELECT {_COLUMNS} FROM audit_event
 WHERE occurred_at > now() - $1::interval
   AND ($2::uuid IS NULL OR tenant_id = $2)
   AND ($3::text IS NULL OR action = $3 OR ($4 AND starts_with(action, $3)))
   AND ($5::text IS NULL OR target_id = $5
        OR targets @> jsonb_build_array(jsonb_build_object('label', $5::text))
        OR targets @> jsonb_build_array(jsonb_build_object('external_id', $5::text)))
 ORDER BY occurred_at DESC, id DESC
 LIMIT $6
"""  # noqa: S608  constants only


async def list_events(
    connection: Connection,
    *,
    since: timedelta,
    tenant_id: UUID | None = None,
    action: str | None = None,
    target: str | None = None,
    limit: int = 100,
) -> list[dict[str, Any]]:
    """Return events, newest first.

    Args:
        connection: where to read.
        since: how far back from now.
        tenant_id: only this tenant's.
        action: a whole action, or the beginning of several written as `scim.user.*`.
        target: a target's id, or its userName, externalId or name as it was at the time.
        limit: most events.

    Raises:
        UsageError: no action is called so.
    """
    prefix = action is not None and action.endswith("*")
    wanted = action.rstrip("*") if action is not None else None
    if wanted is not None and not any(name.startswith(wanted) if prefix else name == wanted for name in ACTIONS):
        raise UsageError(f"There is no action {action}; there are {', '.join(ACTIONS)}.")
    rows = await connection.fetch(_EVENTS, since, tenant_id, wanted, prefix, target, limit)
    return [dict(row) for row in rows]
