"""Applying accepted creates to the user store; used by the worker in batches and by a write that settles one.

Everything a create causes is one transaction: the user, the audit event with its diff, the invitation and its
job, and the create's own job done. A job whose lease was lost takes no part in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from models import metrics
from models.audit.actions import ACTIONS
from models.audit.redact import keep
from models.errors import UnavailableError
from models.ids import derived_id, new_id
from models.jobs import KINDS, read_job, refusal
from models.scim.diff import net_diff
from models.scim.schema import USER

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from models.db import Connection
    from models.jobs import Job

_CREATE = KINDS["user.create"]
_INVITE = KINDS["invitation.send"]
_ACTION = ACTIONS["scim.user.create"]

# `held` are the jobs whose lease is still ours, with the document as it stood before the payload is emptied.
_APPLY = f"""
WITH input AS MATERIALIZED (
    SELECT * FROM unnest($2::uuid[], $3::text[], $4::uuid[], $5::uuid[], $6::uuid[])
        AS i (id, diff, event_id, invitation_id, invitation_job_id)
),
held AS MATERIALIZED (
    SELECT job.id, job.tenant_id, resource_id, payload, correlation_id, staged_at, trace_context,
           diff::jsonb, event_id, invitation_id, invitation_job_id
      FROM job JOIN input USING (id) WHERE lease_token = $1 AND state = 'running'
       FOR UPDATE OF job
),
ended AS (
    UPDATE job SET state = 'done', finished_at = now(), payload = NULL, lease_token = NULL, lease_until = NULL,
           error_code = NULL, error_detail = NULL
      FROM held WHERE job.id = held.id
),
applied AS (
    INSERT INTO users (tenant_id, id, external_id, work_email_keys, active, doc, created_at, last_modified)
    SELECT tenant_id, resource_id, payload ->> 'external_id',
           ARRAY(SELECT jsonb_array_elements_text(payload -> 'work_email_keys')),
           (payload -> 'active')::boolean, payload -> 'doc', staged_at, staged_at
      FROM held
),
audited AS (
    INSERT INTO audit_event (id, tenant_id, action, phase, outcome, severity, actor_type, targets,
                             correlation_id, job_id, diff, changed)
    SELECT event_id, tenant_id, '{_ACTION.name}', 'applied', 'success', {_ACTION.severity}, 'job',
           jsonb_build_array(jsonb_strip_nulls(jsonb_build_object(
               'type', 'User', 'id', resource_id, 'label', payload -> 'doc' -> 'userName',
               'external_id', payload -> 'external_id'))),
           correlation_id, id, diff, ARRAY(SELECT item ->> 'path' FROM jsonb_array_elements(diff) AS item)
      FROM held
),
invited AS (
    INSERT INTO invitation (id, tenant_id, user_id, email)
    SELECT invitation_id, tenant_id, resource_id, payload ->> 'invite'
      FROM held JOIN tenant ON tenant.id = tenant_id
     WHERE tenant.invitations AND payload ->> 'invite' IS NOT NULL
    RETURNING id
),
staged AS (
    INSERT INTO job (id, tenant_id, kind, queue, resource_id, payload, correlation_id, trace_context, run_at)
    SELECT invitation_job_id, tenant_id, '{_INVITE.name}', '{_INVITE.queue}', invitation_id, '{{}}', correlation_id,
           trace_context, now() + make_interval(secs => tenant.invitation_delay_seconds)
      FROM held JOIN invited ON invited.id = held.invitation_id JOIN tenant ON tenant.id = tenant_id
    RETURNING id, run_at
)
SELECT held.id, staged.id AS invitation_job_id, staged.run_at <= now() AS due
  FROM held LEFT JOIN staged ON staged.id = held.invitation_job_id
"""  # noqa: S608  constants only


async def apply_creates(connection: Connection, jobs: Sequence[Job], lease_token: UUID) -> tuple[set[UUID], list[UUID]]:
    """Apply claimed `user.create` jobs in one statement; all of them or, on an error, none.

    Args:
        connection: outside a transaction, or inside one that has more to write.
        jobs: as they were claimed, under ``lease_token``.
        lease_token: jobs that are no longer under it are left alone.

    Returns:
        The ids of the jobs that were applied, and those of the invitation jobs that are due at once.

    Raises:
        asyncpg.PostgresError: the store refused; the transaction has no effect.
        KeyError, TypeError: a payload that is not a create's.
    """
    diffs = [net_diff({}, job.payload["doc"], USER) for job in jobs]
    rows = await connection.fetch(
        _APPLY,
        lease_token,
        [job.id for job in jobs],
        [orjson.dumps(keep(diff)).decode() for diff in diffs],
        [new_id() for _ in jobs],
        # A create that is applied anew, in a database that was restored, sends the same message with the same link.
        [derived_id(job.id, "invitation") for job in jobs],
        [new_id() for _ in jobs],
    )
    metrics.AUDIT_EVENTS.add(len(rows), _ACTION.name, "success")
    if invited := sum(row["invitation_job_id"] is not None for row in rows):
        metrics.JOBS_STAGED.add(invited, _INVITE.queue, _INVITE.name)
    return {row["id"] for row in rows}, [row["invitation_job_id"] for row in rows if row["due"]]


def target(job: Job) -> dict[str, Any]:
    """Return the user of a `user.create` job as an audit event's target, as far as its payload tells."""
    doc = job.payload.get("doc")
    named = {
        "label": doc.get("userName") if isinstance(doc, dict) else None,
        "external_id": job.payload.get("external_id"),
    }
    known = {key: value for key, value in named.items() if isinstance(value, str)}
    return {"type": "User", "id": str(job.resource_id), **known}


async def settle(connection: Connection, tenant_id: UUID, resource_id: UUID) -> list[UUID] | None:
    """Apply one create that still waits, so that a write can go on from it; part of the caller's transaction.

    A worker that holds the job loses its lease and walks away.

    Returns:
        The invitation jobs to ring for after the commit, or None if the user was not waiting.

    Raises:
        UnavailableError: a newer version of Usher accepted the create, and this one cannot read it.
    """
    lease_token = new_id()
    row = await connection.fetchrow(
        "UPDATE job SET state = 'running', lease_token = $3, lease_until = now() + interval '30 seconds',"
        " attempts = attempts + 1, started_at = coalesce(started_at, now())"
        " WHERE tenant_id = $1 AND resource_id = $2 AND kind = 'user.create'"
        " AND state IN ('staged', 'running', 'retry', 'dead')"
        " RETURNING id, tenant_id, kind, resource_id, payload, attempts, correlation_id, staged_at",
        tenant_id,
        resource_id,
        lease_token,
    )
    if row is None:
        return None
    job = read_job(row)
    if refusal(job) is not None:
        raise UnavailableError("The user waits for a newer version of Usher to apply it.")
    _, invitations = await apply_creates(connection, [job], lease_token)
    metrics.JOBS_STARTED.add(1, _CREATE.queue, _CREATE.name)
    metrics.JOBS_FINISHED.add(1, _CREATE.queue, _CREATE.name, "ok")
    return invitations
