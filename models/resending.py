"""Sending an invitation again: a new one for the same user, with a new link, a new Message-ID and a new job.

The earlier one is `expired` with the code `superseded` from then on: its link is no longer good, and a job of its
that still waits finds nothing to send.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from uuid_utils.compat import uuid7

from models import metrics
from models.audit.record import Actor, Event, record
from models.jobs import KINDS
from models.scim.document import known_user
from models.suppression import key_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from uuid import UUID

    import asyncpg

    from models.db import Connection

_KIND = KINDS["invitation.send"]
REFUSALS = {
    "invitation_gone": "There is no such invitation.",
    "superseded": "A newer invitation was made for this user.",
    "already_accepted": "The user has accepted already.",
    "user_gone": "The user is gone.",
    "user_inactive": "The user is inactive.",
    "invitations_off": "The tenant's invitations are switched off.",
    "being_sent": "It is being sent at this moment.",
    "no_address": "The user has no e-mail address any more.",
    "suppressed": "The address is on the suppression list.",
}
"""Why an invitation is not sent again, by code."""


@dataclass(slots=True)
class Resent:
    """What became of invitations that were to be sent again."""

    made: dict[UUID, UUID] = field(default_factory=dict)
    """The new invitation by the earlier one."""
    refused: dict[UUID, str] = field(default_factory=dict)
    """One of `REFUSALS` by invitation."""
    job_ids: list[UUID] = field(default_factory=list)
    """To ring for on the e-mail queue, after the commit."""


# In the order in which everybody else locks: user, job, invitation.
_LOCK_USERS = """
SELECT tenant_id, id, active, doc FROM users
 WHERE (tenant_id, id) IN (SELECT tenant_id, user_id FROM invitation WHERE id = ANY ($1::uuid[]))
 ORDER BY tenant_id, id FOR SHARE
"""
_LOCK_DEAD = f"""
SELECT id, resource_id FROM job
 WHERE kind = '{_KIND.name}' AND state = 'dead' AND resource_id = ANY ($1::uuid[])
   AND tenant_id IN (SELECT tenant_id FROM invitation WHERE id = ANY ($1))
 ORDER BY id FOR UPDATE
"""  # noqa: S608  constants only
_LOCK = """
SELECT invitation.id, invitation.tenant_id, user_id, generation, state, error_code, tenant.invitations
  FROM invitation JOIN tenant ON tenant.id = invitation.tenant_id
 WHERE (invitation.tenant_id, user_id) IN (SELECT tenant_id, user_id FROM invitation WHERE id = ANY ($1::uuid[]))
 ORDER BY invitation.id FOR UPDATE OF invitation
"""
_SUPPRESSED = f"""
SELECT wanted.id FROM unnest($1::uuid[], $2::uuid[], $3::text[]) AS wanted (id, tenant_id, email)
  JOIN suppression ON suppression.tenant_id = wanted.tenant_id AND email_key = {key_of("wanted.email")}
"""  # noqa: S608  constants only
_END = """
UPDATE invitation
   SET state = 'expired', token_hash = NULL, expires_at = least(expires_at, now()), error_code = 'superseded',
       error_detail = NULL
 WHERE id = ANY ($1::uuid[])
"""
_CANCEL = "UPDATE job SET state = 'cancelled', finished_at = now(), payload = NULL WHERE id = ANY ($1::uuid[])"
_MAKE = f"""
WITH input AS (
    SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::int[], $5::text[], $6::uuid[])
        AS i (id, tenant_id, user_id, generation, email, job_id)
), made AS (
    INSERT INTO invitation (id, tenant_id, user_id, generation, email)
    SELECT id, tenant_id, user_id, generation, email FROM input
)
INSERT INTO job (id, tenant_id, kind, queue, resource_id, payload, correlation_id)
SELECT job_id, tenant_id, '{_KIND.name}', '{_KIND.queue}', id, '{{}}', $7 FROM input
"""  # noqa: S608  constants only


@dataclass(frozen=True, slots=True)
class _Plan:
    """One invitation that is to be made."""

    earlier: UUID
    id: UUID
    job_id: UUID
    tenant_id: UUID
    user_id: UUID
    user_name: str
    generation: int
    email: str


async def resend(
    connection: Connection, invitation_ids: Iterable[UUID], *, actor: Actor, correlation_id: UUID
) -> Resent:
    """Have invitations sent again, or say of each why not; one transaction, audited.

    Whoever asks twice is refused the second time: the earlier invitation has been superseded.

    Args:
        connection: where; outside a transaction or inside one.
        invitation_ids: the latest ones of their users, at most some hundreds.
        actor: who asks.
        correlation_id: of the new jobs and the audit events.
    """
    wanted = list(dict.fromkeys(invitation_ids))
    result = Resent()
    async with connection.transaction():
        users = {(row["tenant_id"], row["id"]): row for row in await connection.fetch(_LOCK_USERS, wanted)}
        dead = {row["resource_id"]: row["id"] for row in await connection.fetch(_LOCK_DEAD, wanted)}
        rows = await connection.fetch(_LOCK, wanted)
        plans = _plan(wanted, users, rows, result)
        await _spare_suppressed(connection, plans, result)
        if plans:
            cancelled = [dead[plan.earlier] for plan in plans if plan.earlier in dead]
            await connection.execute(_CANCEL, cancelled)
            metrics.JOBS_FINISHED.add(len(cancelled), _KIND.queue, _KIND.name, "cancelled")
            metrics.JOBS_STAGED.add(len(plans), _KIND.queue, _KIND.name)
            await _carry_out(connection, plans, actor, correlation_id)
    result.made = {plan.earlier: plan.id for plan in plans}
    result.job_ids = [plan.job_id for plan in plans]
    return result


def _plan(
    wanted: Sequence[UUID],
    users: dict[tuple[UUID, UUID], asyncpg.Record],
    rows: Sequence[asyncpg.Record],
    result: Resent,
) -> list[_Plan]:
    by_user: dict[tuple[UUID, UUID], list[asyncpg.Record]] = {}
    for each in rows:
        by_user.setdefault((each["tenant_id"], each["user_id"]), []).append(each)
    known = {row["id"]: row for row in rows}
    plans = []
    for invitation_id in wanted:
        row = known.get(invitation_id)
        if row is None:
            result.refused[invitation_id] = "invitation_gone"
            continue
        key = (row["tenant_id"], row["user_id"])
        user = users.get(key)
        email = known_user(user["doc"]).primary_email if user else None
        reason = _refusal(row, by_user[key], user, email)
        if reason is not None or user is None or email is None:
            result.refused[invitation_id] = reason or "user_gone"
            continue
        plans.append(
            _Plan(invitation_id, uuid7(), uuid7(), *key, user["doc"]["userName"], row["generation"] + 1, email)
        )
    return plans


def _refusal(
    row: asyncpg.Record, of_user: Sequence[asyncpg.Record], user: asyncpg.Record | None, email: str | None
) -> str | None:
    superseded = row["error_code"] == "superseded" or row["generation"] < max(each["generation"] for each in of_user)
    reasons = {
        "user_gone": user is None,
        "already_accepted": any(each["state"] == "accepted" for each in of_user),
        "superseded": superseded,
        "user_inactive": user is not None and not user["active"],
        "invitations_off": not row["invitations"],
        "being_sent": row["state"] == "sending",
        "no_address": email is None,
    }
    return next((reason for reason, given in reasons.items() if given), None)


async def _spare_suppressed(connection: Connection, plans: list[_Plan], result: Resent) -> None:
    rows = await connection.fetch(
        _SUPPRESSED,
        [plan.earlier for plan in plans],
        [plan.tenant_id for plan in plans],
        [plan.email for plan in plans],
    )
    for row in rows:
        result.refused[row["id"]] = "suppressed"
    plans[:] = [plan for plan in plans if plan.earlier not in result.refused]


async def _carry_out(connection: Connection, plans: Sequence[_Plan], actor: Actor, correlation_id: UUID) -> None:
    await connection.execute(_END, [plan.earlier for plan in plans])
    await connection.execute(
        _MAKE,
        [plan.id for plan in plans],
        [plan.tenant_id for plan in plans],
        [plan.user_id for plan in plans],
        [plan.generation for plan in plans],
        [plan.email for plan in plans],
        [plan.job_id for plan in plans],
        correlation_id,
    )
    await record(connection, [_event(plan, actor, correlation_id) for plan in plans])


def _event(plan: _Plan, actor: Actor, correlation_id: UUID) -> Event:
    targets: list[dict[str, Any]] = [
        {"type": "User", "id": str(plan.user_id), "label": plan.user_name},
        {"type": "Invitation", "id": str(plan.id), "label": plan.email},
    ]
    return Event(
        action="invitation.email.resend",
        phase="applied",
        actor=actor,
        correlation_id=correlation_id,
        tenant_id=plan.tenant_id,
        targets=targets,
        job_id=plan.job_id,
        context={"superseded": str(plan.earlier), "generation": plan.generation},
    )
