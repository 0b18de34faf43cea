"""The ledger of requests that are carried out after they were answered (RFC 9967).

The process that accepts one carries it out at once, under a lease. If it dies, another one takes the request over;
what was done before is told by the audit log, which is written in the transaction of each change.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.db import for_tenant

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from models.db import Connection

LEASE_SECONDS = 15.0
KEEP_DAYS = 7
MOST_ATTEMPTS = 50
_LONGEST_PAUSE_SECONDS = 60

_STATUS = for_tenant("SELECT result, finished_at FROM deferred_request WHERE tenant_id = $1 AND id = $2")
_EFFECT = for_tenant(
    "SELECT targets -> 0 FROM audit_event"
    " WHERE tenant_id = $1 AND correlation_id = $2 AND phase IN ('requested', 'applied')"
    " AND starts_with(action, 'scim.') ORDER BY occurred_at LIMIT 1"
)


@dataclass(frozen=True, slots=True)
class Deferred:
    """A request as it was accepted."""

    id: UUID
    tenant_id: UUID
    request: dict[str, Any]
    schemas: str
    """The tenant's own schemas, as JSON."""
    attempts: int


@dataclass(frozen=True, slots=True)
class Status:
    """How a request stands."""

    result: dict[str, Any] | None
    """The outcomes by place in the request; None until it is done."""
    finished_at: datetime | None


async def accept(store: asyncpg.Pool | Connection, request_id: UUID, tenant_id: UUID, request: dict[str, Any]) -> None:
    """Keep a request, under the lease of who calls; once this returns it will be carried out."""
    await store.execute(
        "INSERT INTO deferred_request (id, tenant_id, request, lease_until)"
        " VALUES ($1, $2, $3, now() + make_interval(secs => $4))",
        request_id,
        tenant_id,
        request,
        LEASE_SECONDS,
    )


async def finish(store: asyncpg.Pool | Connection, request_id: UUID, result: dict[str, Any]) -> None:
    """Keep the outcomes of a request and forget what was asked; of two who come to it, the first counts."""
    await store.execute(
        "UPDATE deferred_request SET result = $2, request = NULL, lease_until = NULL, finished_at = now()"
        " WHERE id = $1 AND finished_at IS NULL",
        request_id,
        result,
    )


async def put_off(store: asyncpg.Pool | Connection, request_ids: Sequence[UUID], *, now: bool = False) -> None:
    """Leave requests to whoever looks next: at once, or after a pause that grows with the attempts."""
    await store.execute(
        "UPDATE deferred_request SET lease_until = now() + make_interval(secs =>"
        " CASE WHEN $2 THEN 0 ELSE least(2 * attempts, $3) END) WHERE id = ANY ($1::uuid[]) AND finished_at IS NULL",
        request_ids,
        now,
        _LONGEST_PAUSE_SECONDS,
    )


async def extend(store: asyncpg.Pool | Connection, request_ids: Sequence[UUID]) -> None:
    """Give a sign of life for requests in hand."""
    await store.execute(
        "UPDATE deferred_request SET lease_until = now() + make_interval(secs => $2)"
        " WHERE id = ANY ($1::uuid[]) AND finished_at IS NULL",
        request_ids,
        LEASE_SECONDS,
    )


async def take_over(store: asyncpg.Pool | Connection, limit: int) -> list[Deferred]:
    """Take requests that nobody carries out any more, oldest first."""
    rows = await store.fetch(
        """
        UPDATE deferred_request SET lease_until = now() + make_interval(secs => $2), attempts = attempts + 1
          FROM tenant
         WHERE tenant.id = tenant_id AND deferred_request.id IN (
               SELECT id FROM deferred_request WHERE finished_at IS NULL AND lease_until < now()
                ORDER BY lease_until LIMIT $1 FOR UPDATE SKIP LOCKED)
        RETURNING deferred_request.id, tenant_id, request, schemas::text, attempts
        """,
        limit,
        LEASE_SECONDS,
    )
    return [Deferred(*row) for row in rows]


async def status(store: asyncpg.Pool | Connection, tenant_id: UUID, request_id: UUID) -> Status | None:
    """Return how a tenant's request stands, or None if there is no such."""
    row = await store.fetchrow(_STATUS, tenant_id, request_id)
    return None if row is None else Status(row["result"], row["finished_at"])


async def effect(store: asyncpg.Pool | Connection, tenant_id: UUID, correlation_id: UUID) -> dict[str, Any] | None:
    """Return the resource that a write under a correlation id has changed, as the audit log names it, or None."""
    target: dict[str, Any] | None = await store.fetchval(
        _EFFECT,
        tenant_id,
        correlation_id,
    )
    return target


def without_passwords(value: Any) -> Any:
    """Return a request's body without the passwords in it, which no later carrying out would keep either."""
    if isinstance(value, list):
        return [without_passwords(item) for item in value]
    if not isinstance(value, dict):
        return value
    if any(name.lower() == "path" and _names_password(item) for name, item in value.items()):
        return {name: "" if name.lower() == "value" else item for name, item in value.items()}
    return {name: without_passwords(item) for name, item in value.items() if not _names_password(name)}


def _names_password(name: Any) -> bool:
    return isinstance(name, str) and name.strip().lower().rpartition(":")[2] == "password"
