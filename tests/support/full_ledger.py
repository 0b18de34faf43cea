"""A ledger with a history: many jobs that are done, some that wait, few that are dead; with users and audit events."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

if TYPE_CHECKING:
    import asyncpg

TENANTS = 4

# Job n was staged n seconds before the newest; its id begins with that moment, as RFC 9562 has it.
_FILL = """
WITH one AS MATERIALIZED (
    SELECT n, n % $2 + 1 AS tenant, 'user' || n || '@contoso.example' AS name,
           now() - make_interval(secs => $1::int - n) AS at,
           CASE WHEN n % $3 <> 0 THEN 'done'
                ELSE (ARRAY['staged', 'retry', 'dead', 'running', 'cancelled'])[n / $3 % 5 + 1] END AS state,
           CASE WHEN n % 2 = 0 THEN 'user.create' ELSE 'invitation.send' END AS kind
      FROM generate_series(1, $1::int) AS n
), whole AS MATERIALIZED (
    SELECT *, lpad(to_hex(tenant), 32, '0')::uuid AS tenant_id,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000' || '8'
             || lpad(to_hex(n), 15, '0'))::uuid AS job_id,
           ('01990000-0000-7000-8000-' || lpad(to_hex(n), 12, '0'))::uuid AS resource_id,
           ('01990000-0000-7000-8001-' || lpad(to_hex(n), 12, '0'))::uuid AS user_id,
           ('01990000-0000-7000-8002-' || lpad(to_hex(n), 12, '0'))::uuid AS correlation_id
      FROM one
), person AS (
    SELECT *, CASE WHEN kind = 'user.create' THEN resource_id ELSE user_id END AS person_id FROM whole
), identified AS (
    INSERT INTO identifier (tenant_id, kind, value_key, resource_id)
    SELECT tenant_id, 'userName', name, person_id FROM person
), stored AS (
    INSERT INTO users (tenant_id, id, external_id, work_email_keys, active, doc, created_at, last_modified)
    SELECT tenant_id, person_id, 'ext' || n, '{}', true, jsonb_build_object('userName', name), at, at
      FROM person WHERE kind <> 'user.create' OR state = 'done'
), invited AS (
    INSERT INTO invitation (id, tenant_id, user_id, email) SELECT resource_id, tenant_id, user_id, name
      FROM whole WHERE kind = 'invitation.send'
), told AS (
    INSERT INTO audit_event (id, tenant_id, action, phase, outcome, severity, actor_type, targets, correlation_id,
                             job_id, occurred_at)
    SELECT gen_random_uuid(), tenant_id, 'scim.user.create', 'requested', 'pending', 1, 'token',
           jsonb_build_array(jsonb_build_object('type', 'User', 'id', person_id, 'label', name,
                                                'external_id', 'ext' || n)),
           correlation_id, CASE WHEN kind = 'user.create' OR state = 'done' THEN job_id END, now()
      FROM person
)
INSERT INTO job (id, tenant_id, kind, queue, state, resource_id, correlation_id, staged_at, run_at, finished_at,
                 lease_until, payload, error_code, error_detail, attempts)
SELECT job_id, tenant_id, kind, CASE kind WHEN 'user.create' THEN 'provision' ELSE 'email' END, state, resource_id,
       correlation_id, at, at, CASE WHEN state IN ('done', 'dead', 'cancelled') THEN at END,
       CASE WHEN state = 'running' THEN now() + interval '1 hour' END,
       CASE WHEN state = 'done' THEN NULL
            WHEN kind = 'user.create' THEN jsonb_build_object('doc', jsonb_build_object('userName', name),
                     'external_id', 'ext' || n, 'work_email_keys', '[]'::jsonb, 'user_name_key', name, 'active', true)
            ELSE '{}' END,
       CASE WHEN state IN ('dead', 'retry') THEN 'smtp_refused' END,
       CASE WHEN state IN ('dead', 'retry') THEN '550 <' || name || '> is not known, ticket ' || n END, 1
  FROM whole
"""


async def fill(connection: asyncpg.Connection, jobs: int, *, open_each: int = 10) -> None:
    """Fill the ledger with ``jobs``, one a second up to now; of ``open_each`` one is not done.

    Job ``n`` belongs to tenant ``t{n % 4 + 1}``; even ones are creates, odd ones invitations.
    """
    await connection.execute(
        "INSERT INTO tenant (id, name, display_name)"
        " SELECT lpad(to_hex(n), 32, '0')::uuid, 't' || n, 'T' FROM generate_series(1, $1::int) AS n",
        TENANTS,
    )
    await connection.execute(_FILL, jobs, TENANTS, open_each)
    await connection.execute("VACUUM ANALYZE")


def person_of(number: int) -> UUID:
    """Return the id of the user that job ``number`` is about."""
    return UUID(f"01990000-0000-7000-{'8000' if number % 2 == 0 else '8001'}-{number:012x}")


def correlation_of(number: int) -> UUID:
    """Return the correlation id of job ``number``."""
    return UUID(f"01990000-0000-7000-8002-{number:012x}")


def state_of(number: int, open_each: int = 10) -> str:
    """Return the state of job ``number``."""
    if number % open_each:
        return "done"
    return ("staged", "retry", "dead", "running", "cancelled")[number // open_each % 5]
