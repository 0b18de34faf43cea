"""Addresses that get no more mail from a tenant: put there by hand, or because their server knows no such mailbox."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.address import is_address
from models.audit.record import Actor, Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from uuid import UUID

    from models.db import Connection

PAGE = 100
REJECTED = "rejected"
"""The reason of those that the mail server rejected for good; whatever else is said by hand."""
_LONGEST_REASON = 200


def key_of(expression: str) -> str:
    """Return the SQL for what is compared of an address; all of it is done by PostgreSQL, so both sides agree."""
    return f"lower(normalize(btrim({expression}), NFC))"


IS_SUPPRESSED = f"""
EXISTS (SELECT FROM suppression
         WHERE suppression.tenant_id = invitation.tenant_id AND email_key = {key_of("invitation.email")})
"""


_ADD = f"""
INSERT INTO suppression (tenant_id, email_key, reason, created_by) VALUES ($1, {key_of("$2::text")}, $3, $4)
ON CONFLICT DO NOTHING RETURNING email_key
"""  # noqa: S608  constants only
_REMOVE = f"DELETE FROM suppression WHERE tenant_id = $1 AND email_key = {key_of('$2::text')} RETURNING reason"  # noqa: S608  constants


async def suppress(
    connection: Connection, tenant_id: UUID, email: str, *, reason: str, actor: Actor, correlation_id: UUID
) -> bool:
    """Have an address get no more mail from a tenant; audited.

    An attempt that begins after this has committed is not sent. One that is under way may still arrive.

    Returns:
        Whether it was not suppressed before.

    Raises:
        UsageError: by hand, what is no address or has no usable reason.
    """
    if actor.type != "job":
        _check(email, reason)
    async with connection.transaction():
        key = await connection.fetchval(_ADD, tenant_id, email, reason, actor.label or actor.type)
        if key is not None:
            await _record(connection, "invitation.address.suppress", tenant_id, email, reason, actor, correlation_id)
    return key is not None


def _check(email: str, reason: str) -> None:
    if not is_address(email.strip()):
        raise UsageError("Write one e-mail address, for example ana@example.com.")
    if not reason.strip() or not reason.isprintable() or len(reason) > _LONGEST_REASON:
        raise UsageError(f"Write why, in one line of 1 to {_LONGEST_REASON} characters.")


async def unsuppress(
    connection: Connection, tenant_id: UUID, email: str, *, actor: Actor, correlation_id: UUID
) -> bool:
    """Have an address get mail again; audited. What was not sent meanwhile is sent only when it is asked for.

    Returns:
        Whether it was suppressed.
    """
    async with connection.transaction():
        reason = await connection.fetchval(_REMOVE, tenant_id, email)
        if reason is not None:
            await _record(connection, "invitation.address.unsuppress", tenant_id, email, reason, actor, correlation_id)
    return reason is not None


async def _record(
    connection: Connection, action: str, tenant_id: UUID, email: str, reason: str, actor: Actor, correlation_id: UUID
) -> None:
    event = Event(
        action=action,
        phase="applied",
        actor=actor,
        correlation_id=correlation_id,
        tenant_id=tenant_id,
        reason=reason,
        targets=[{"type": "Address", "label": email.strip()}],
    )
    await record(connection, [event])


_LIST = """
SELECT suppression.tenant_id, tenant.name AS tenant, email_key, reason, created_by, suppression.created_at
  FROM suppression JOIN tenant ON tenant.id = suppression.tenant_id
 WHERE ($1::uuid IS NULL OR suppression.tenant_id = $1)
   AND ($2::uuid IS NULL OR (suppression.tenant_id, email_key) > ($2, $3::text))
 ORDER BY suppression.tenant_id, email_key LIMIT $4
"""


async def list_suppressed(
    connection: Connection,
    *,
    tenant_id: UUID | None = None,
    after: tuple[UUID, str] | None = None,
    limit: int = PAGE,
) -> list[dict[str, Any]]:
    """Return suppressed addresses by tenant and address.

    Args:
        connection: where to read.
        tenant_id: only this tenant's.
        after: `tenant_id` and `email_key` of the last one of the page before.
        limit: most of them.
    """
    last_tenant, last_key = after or (None, None)
    return [dict(row) for row in await connection.fetch(_LIST, tenant_id, last_tenant, last_key, limit)]


async def is_suppressed(connection: Connection, tenant_id: UUID, email: str) -> bool:
    """Tell whether an address gets no mail from a tenant."""
    found: bool = await connection.fetchval(
        f"SELECT EXISTS (SELECT FROM suppression WHERE tenant_id = $1 AND email_key = {key_of('$2::text')})",  # noqa: S608  constants
        tenant_id,
        email,
    )
    return found
