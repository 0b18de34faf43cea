"""Accepting creates: reserve the identifier, stage the job, audit the request, all in one commit.

A create that was accepted is durable and readable at once; it can fail later only by a fault, because
everything that its content could get wrong, uniqueness included, is decided here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from models import metrics
from models.audit.actions import ACTIONS
from models.batch import Batcher
from models.db import ACQUIRE_SECONDS, is_unavailable, named_tenants
from models.errors import UniquenessError
from models.ids import new_id
from models.jobs import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from datetime import datetime
    from uuid import UUID

    from models.audit.record import Actor
    from models.scim.document import UserDocument
    from models.settings import Settings

_MOST_TOGETHER = 1000
_KIND = KINDS["user.create"]
_ACTION = ACTIONS["scim.user.create"]


@dataclass(slots=True)  # not frozen, which makes it cost three times as much: every request makes one
class Create:
    """A valid create that asks to be accepted."""

    tenant_id: UUID
    resource_id: UUID
    job_id: UUID
    user: UserDocument
    doc: str
    """The document as JSON text."""
    actor: Actor
    correlation_id: UUID
    context: dict[str, Any]
    trace_context: str | None = None


@dataclass(frozen=True, slots=True)
class Accepted:
    """What became of a create: ``created_at`` is None when its identifier was taken."""

    created_at: datetime | None


# One round trip and one commit for any number of creates of any tenants. What it speaks for is set where its input
# comes from, before the first row of that, and there is no row of a table that it would have to see. The identifiers
# are reserved in the order of their key, so that two commits that want the same two names wait for each other and
# never deadlock; of two equal names in one statement the first wins.
_ACCEPT = f"""
WITH input AS MATERIALIZED (
    SELECT i.* FROM (SELECT set_config('usher.tenants', $14, true)) AS scope (tenants)
     CROSS JOIN LATERAL (
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::text[], $5::text[], $6::text[], $7::uuid[],
                             $8::text[], $9::text[], $10::text[], $11::uuid[], $12::text[], $13::text[])
            AS i (tenant_id, resource_id, job_id, user_name_key, payload, targets, correlation_id,
                  actor_type, actor_id, actor_label, event_id, context, trace_context)
         WHERE scope.tenants IS NOT NULL OFFSET 0) AS i
),
reserved AS (
    INSERT INTO identifier (tenant_id, kind, value_key, resource_id)
    SELECT tenant_id, 'userName', user_name_key, resource_id FROM input ORDER BY tenant_id, user_name_key
    ON CONFLICT DO NOTHING
    RETURNING resource_id
),
outcome AS MATERIALIZED (
    SELECT input.*, reserved.resource_id IS NOT NULL AS accepted FROM input LEFT JOIN reserved USING (resource_id)
),
staged AS (
    INSERT INTO job (id, tenant_id, kind, queue, resource_id, payload, correlation_id, trace_context)
    SELECT job_id, tenant_id, '{_KIND.name}', '{_KIND.queue}', resource_id, payload::jsonb, correlation_id,
           trace_context
      FROM outcome WHERE accepted
),
audited AS (
    INSERT INTO audit_event (id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id,
                             actor_label, targets, correlation_id, job_id, context)
    SELECT event_id, tenant_id, '{_ACTION.name}', CASE WHEN accepted THEN 'requested' ELSE 'denied' END,
           CASE WHEN accepted THEN 'pending' ELSE 'denied' END, CASE WHEN accepted THEN NULL ELSE 'uniqueness' END,
           {_ACTION.severity}, actor_type, actor_id, actor_label, targets::jsonb, correlation_id,
           CASE WHEN accepted THEN job_id END, context::jsonb
      FROM outcome
)
SELECT resource_id, now() AS created_at FROM outcome WHERE accepted
"""  # noqa: S608  constants only


def _payload(create: Create) -> str:
    # The document is JSON text already; only what stands beside it is written here.
    beside = {
        "user_name_key": create.user.user_name_key,
        "external_id": create.user.external_id,
        "work_email_keys": create.user.work_email_keys,
        "active": create.user.active,
        "invite": create.user.primary_email if create.user.active else None,
    }
    return f'{{"doc":{create.doc},{orjson.dumps(beside).decode()[1:]}'


def _targets(create: Create) -> str:
    target = {"type": "User", "id": str(create.resource_id), "label": create.user.user_name}
    if create.user.external_id is not None:
        target["external_id"] = create.user.external_id
    return orjson.dumps([target]).decode()


class Intake:
    """Accepts creates for one process, in group commits (DESIGN.md, how a create flows)."""

    def __init__(self, pool: asyncpg.Pool, settings: Settings, ring: Callable[[str, list[UUID]], None]) -> None:
        """Take the pool to commit on, the limits, and ``ring(queue, job ids)``, called after each commit."""
        self._pool = pool
        self._ring = ring
        # Few enough for a commit that the process reads the next requests while PostgreSQL writes these: taking all
        # that wait lets clients and both servers fall into step, and each idles while another works.
        self._requests = self._batcher(settings.intake_batch, settings.intake_in_flight)
        # The operations of a bulk request are answered together anyway.
        self._bulk = self._batcher(_MOST_TOGETHER, 1)

    def _batcher(self, limit: int, in_flight: int) -> Batcher[Create, Accepted]:
        return Batcher(
            self._flush,
            limit=limit,
            in_flight=in_flight,
            isolate=lambda error: isinstance(error, asyncpg.PostgresError) and not is_unavailable(error),
        )

    async def accept(self, create: Create, *, bulk: bool = False) -> datetime:
        """Accept ``create`` durably and return the moment of its creation.

        Args:
            create: what to accept.
            bulk: whether it is an operation of a bulk request, whose creates share one commit.

        Raises:
            UniquenessError: the userName is taken, in any letter case.
            asyncpg.PostgresError, OSError: the store did not take it; nothing was written, or (connection lost
                during the commit) it cannot be known.
        """
        accepted = await (self._bulk if bulk else self._requests).submit(create)
        if accepted.created_at is None:
            raise UniquenessError(
                "A user with this userName exists already (letter case does not matter)."
                " Match it by userName instead of creating it again."
            )
        return accepted.created_at

    async def _flush(self, creates: Sequence[Create]) -> list[Accepted]:
        async with self._pool.acquire(timeout=ACQUIRE_SECONDS) as connection:
            rows = await connection.fetch(
                _ACCEPT,
                [c.tenant_id for c in creates],
                [c.resource_id for c in creates],
                [c.job_id for c in creates],
                [c.user.user_name_key for c in creates],
                [_payload(c) for c in creates],
                [_targets(c) for c in creates],
                [c.correlation_id for c in creates],
                [c.actor.type for c in creates],
                [c.actor.id for c in creates],
                [c.actor.label for c in creates],
                [new_id() for _ in creates],
                [orjson.dumps(c.context).decode() for c in creates],
                [c.trace_context for c in creates],
                named_tenants(c.tenant_id for c in creates),
            )
        created = {row["resource_id"]: row["created_at"] for row in rows}
        if len(created) < len(creates):
            metrics.AUDIT_EVENTS.add(len(creates) - len(created), _ACTION.name, "denied")
        if created:
            metrics.AUDIT_EVENTS.add(len(created), _ACTION.name, "pending")
            metrics.JOBS_STAGED.add(len(created), _KIND.queue, _KIND.name)
            self._ring(_KIND.queue, [c.job_id for c in creates if c.resource_id in created])
        return [Accepted(created.get(c.resource_id)) for c in creates]

    async def close(self) -> None:
        """Wait for the commits that are under way."""
        await self._requests.drain()
        await self._bulk.drain()
