"""Fills a store as years of many customers leave it: the ledger that operators' pages are measured over."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Final

from models.tally import BUCKETS

if TYPE_CHECKING:
    from collections.abc import Callable

    import asyncpg

JOBS: Final = int(os.environ["BENCH_OPS_JOBS"]) if "BENCH_OPS_JOBS" in os.environ else None
"""How many jobs, when not as many as the largest directory of the benchmark has users."""
TENANTS: Final = 200
"""The first of them has four of ten jobs, and is paused; the others share the rest."""

_AT_ONCE = 50_000
_SPAN_SECONDS = 10 * 86_400

# Job n of $1 was staged when n / $1 of the span was over; its id begins with that moment, as RFC 9562 has it. The
# newest 9 of 100 wait; of the others a few are in retry, dead, cancelled or running, and the rest are done.
_JOBS = """
WITH one AS MATERIALIZED (
    SELECT n, now() - make_interval(secs => $2::float * ($1 - n) / $1) AS at,
           CASE WHEN n % 10 < 4 THEN 1 ELSE 2 + (n * 7919) % ($3 - 1) END AS tenant,
           CASE WHEN n % 2 = 0 THEN 'user.create' ELSE 'invitation.send' END AS kind,
           CASE WHEN n >= $1 / 100 * 91 THEN 'staged' WHEN n % 91 = 0 THEN 'retry' WHEN n % 91 = 1 THEN 'dead'
                WHEN n % 91 = 2 THEN 'cancelled' WHEN n >= $1 / 100 * 90 AND n % 50 = 7 THEN 'running'
                ELSE 'done' END AS state,
           CASE n % 7 WHEN 0 THEN 'smtp_4xx' WHEN 1 THEN 'lease_expired' ELSE 'smtp_5xx' END AS error_code
      FROM generate_series($4::bigint, $5::bigint - 1) AS n
), job_of AS MATERIALIZED (
    SELECT *, lpad(to_hex(tenant), 32, '0')::uuid AS tenant_id,
           'person' || n || '@tenant' || tenant || '.example' AS name,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid
               AS job_id,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70009' || lpad(to_hex(n), 15, '0'))::uuid
               AS person_id,
           (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000a' || lpad(to_hex(n), 15, '0'))::uuid
               AS other_id,
           CASE WHEN error_code = 'lease_expired' THEN 'The worker that had it gave no sign of life.'
                ELSE 'The server answered ' || CASE error_code WHEN 'smtp_4xx' THEN '451 4.3.' ELSE '550 5.1.' END
                     || n % 3 || ' <person' || n || '@tenant.example>, ticket ' || n END AS error_detail
      FROM one
), identified AS (
    INSERT INTO identifier (tenant_id, kind, value_key, resource_id) SELECT tenant_id, 'userName', name, person_id
      FROM job_of
), stored AS (
    INSERT INTO users (tenant_id, id, external_id, work_email_keys, active, doc, created_at, last_modified)
    SELECT tenant_id, person_id, 'e-' || n, ARRAY[name], true, $6::jsonb || jsonb_build_object('userName', name), at, at
      FROM job_of WHERE kind = 'invitation.send' OR state = 'done'
), invited AS (
    INSERT INTO invitation (id, tenant_id, user_id, email, state, error_code, error_detail, created_at, sent_at)
    SELECT other_id, tenant_id, person_id, name,
           CASE state WHEN 'done' THEN (ARRAY['sent', 'sent', 'sent', 'accepted', 'expired'])[1 + n % 5]
                      WHEN 'dead' THEN 'failed' WHEN 'cancelled' THEN 'failed' ELSE 'pending' END,
           CASE WHEN state IN ('dead', 'retry') THEN error_code END,
           CASE WHEN state IN ('dead', 'retry') THEN error_detail END, at, CASE WHEN state = 'done' THEN at END
      FROM job_of WHERE kind = 'invitation.send'
), told AS (
    INSERT INTO audit_event (id, tenant_id, action, phase, outcome, severity, actor_type, actor_id, targets,
                             correlation_id, job_id, occurred_at)
    SELECT other_id, tenant_id, CASE kind WHEN 'user.create' THEN 'scim.user.create' ELSE 'invitation.email.send' END,
           CASE state WHEN 'done' THEN 'applied' WHEN 'dead' THEN 'failed' ELSE 'requested' END,
           CASE state WHEN 'done' THEN 'success' WHEN 'dead' THEN 'failure' ELSE 'pending' END, 1, 'token', 'tok',
           jsonb_build_array(jsonb_build_object('type', 'User', 'id', person_id, 'label', name,
                                                'external_id', 'e-' || n)),
           other_id, CASE WHEN kind = 'user.create' OR state = 'done' THEN job_id END, at
      FROM job_of
), tried AS (
    INSERT INTO job_attempt (id, job_id, attempt, started_at, ended_at, outcome, error_code, error_detail, trace)
    SELECT gen_random_uuid(), job_id, attempt, at, at + make_interval(mins => attempt), 'retry', error_code,
           error_detail, repeat('  File "smtp.py", line 1, in send' || chr(10), 20)
      FROM job_of CROSS JOIN generate_series(1, 4) AS attempt WHERE state IN ('dead', 'retry') OR n % 50 = 9
)
INSERT INTO job (id, tenant_id, kind, queue, state, resource_id, correlation_id, staged_at, run_at, started_at,
                 finished_at, lease_until, payload, error_code, error_detail, attempts)
SELECT job_id, tenant_id, kind, CASE kind WHEN 'user.create' THEN 'provision' ELSE 'email' END, state,
       CASE kind WHEN 'user.create' THEN person_id ELSE other_id END, other_id, at, at,
       CASE WHEN state <> 'staged' THEN at END, CASE WHEN state IN ('done', 'dead', 'cancelled') THEN at END,
       CASE WHEN state = 'running' THEN now() + interval '1 day' END,
       CASE WHEN state = 'done' THEN NULL
            WHEN kind = 'user.create' THEN jsonb_build_object('doc', $6::jsonb || jsonb_build_object('userName', name),
                     'external_id', 'e-' || n, 'work_email_keys', jsonb_build_array(name), 'user_name_key', name,
                     'active', true)
            ELSE '{}' END,
       CASE WHEN state IN ('dead', 'retry') THEN error_code END,
       CASE WHEN state IN ('dead', 'retry') THEN error_detail END,
       CASE state WHEN 'staged' THEN 0 WHEN 'dead' THEN 12 WHEN 'retry' THEN 4 ELSE 1 END
  FROM job_of
"""

_DOC = '{"active": true, "name": {"givenName": "Ana", "familyName": "Example"}, "title": "Buyer"}'

_TENANTS = [
    """
    INSERT INTO tenant (id, name, display_name, invitation_delay_seconds)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'tenant' || n, 'Tenant ' || n, 60 FROM generate_series(1, $1::int) AS n
    """,
    """
    INSERT INTO token (id, tenant_id, label, secret_hash, scopes, expires_at, revoked_at)
    SELECT 'bench' || t || 'n' || n, lpad(to_hex(t), 32, '0')::uuid, 'Entra', '', '{scim}',
           now() + n * interval '9 days', CASE WHEN n < 3 THEN now() END
      FROM generate_series(1, $1::int) AS t CROSS JOIN generate_series(1, 4) AS n
    """,
    """
    INSERT INTO job_pause (id, tenant_id, reason, paused_by)
    SELECT gen_random_uuid(), lpad(to_hex(1), 32, '0')::uuid, 'Their directory is being moved', 'bench'
     WHERE $1::int > 0
    """,
    """
    INSERT INTO request_minute (id, tenant_id, minute, succeeded, refused, omitted, succeeded_at)
    SELECT gen_random_uuid(), lpad(to_hex(t), 32, '0')::uuid, minute, 40, 2, 0, minute
      FROM generate_series(1, $1::int) AS t
     CROSS JOIN generate_series(date_trunc('minute', now()) - interval '1 day', now(), '1 minute') AS minute
    """,
    """
    INSERT INTO suppression (tenant_id, email_key, reason, created_by)
    SELECT lpad(to_hex(t), 32, '0')::uuid, 'gone' || n || '@tenant.example', 'smtp_5xx', 'bench'
      FROM generate_series(1, $1::int) AS t CROSS JOIN generate_series(1, 50) AS n
    """,
]

_REQUESTS = """
INSERT INTO request_log (id, tenant_id, occurred_at, method, route, path, status, scim_type, duration_seconds,
                         correlation_id)
SELECT (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '70008' || lpad(to_hex(n), 15, '0'))::uuid,
       lpad(to_hex(1 + n % $2), 32, '0')::uuid, at, CASE n % 3 WHEN 0 THEN 'POST' ELSE 'GET' END, '/Users', '/Users',
       CASE WHEN n % 20 = 0 THEN 409 ELSE 200 END, CASE WHEN n % 20 = 0 THEN 'uniqueness' END, 0.01,
       (lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0') || '7000b' || lpad(to_hex(n), 15, '0'))::uuid
  FROM (SELECT n, now() - interval '3 days' * ($1 - n) / $1 AS at FROM generate_series(0, $1::bigint - 1) AS n) AS sent
"""

# Four workers over eight days: as many rows as `models.statistics` keeps.
_MINUTES = """
INSERT INTO job_minute (minute, kind, process_id, started, done, failed, dead, queueing, running)
SELECT minute, kind, lpad(to_hex(p), 32, '0')::uuid, 30, 29, 1, 0,
       array_fill(0, ARRAY[10]) || array_fill(3, ARRAY[10]) || array_fill(0, ARRAY[$1::int - 20]),
       array_fill(0, ARRAY[5]) || array_fill(3, ARRAY[10]) || array_fill(0, ARRAY[$1::int - 15])
  FROM generate_series(date_trunc('minute', now()) - interval '8 days', now(), '1 minute') AS minute
 CROSS JOIN unnest(ARRAY['user.create', 'invitation.send']) AS kind CROSS JOIN generate_series(1, 4) AS p
"""
_OPERATIONS = """
INSERT INTO bulk_operation (id, action, query, reason, state, expected, applied, requested_by, correlation_id,
                            created_at, finished_at)
SELECT (lpad(to_hex(((extract(epoch FROM now()) - 60 * n) * 1000)::bigint), 12, '0') || '70008'
        || lpad(to_hex(n), 15, '0'))::uuid,
       'retry', 'state:dead', NULL, 'done', 500, 500, 'olga', gen_random_uuid(),
       now() - make_interval(mins => n::int), now() - make_interval(mins => n::int)
  FROM generate_series(1, $1::bigint) AS n
"""
_OTHERS = [
    """
    INSERT INTO operator (id, name, email, role)
    SELECT gen_random_uuid(), 'person' || n, 'p' || n || '@example.com', 'viewer' FROM generate_series(1, 50) AS n
    """,
    """
    INSERT INTO audit_stream (id, tenant_id, kind, destination, state, cursor_xid, cursor_id, created_by)
    SELECT gen_random_uuid(), id, 'https', 'https://siem.example.com/' || name, 'paused', 0, id, 'bench'
      FROM tenant ORDER BY name LIMIT 20
    """,
    """
    INSERT INTO process (id, role, host, pid, version, queues, slots, busy)
    SELECT lpad(to_hex(n), 32, '0')::uuid, 'worker', 'host' || n, n, '0', '{provision,email}', 50, 3
      FROM generate_series(1, 20) AS n
    """,
]


async def fill(database: asyncpg.Connection, jobs: int, say: Callable[[str], None]) -> None:
    """Load ``jobs`` jobs of ten days with all that goes with them; one of ten waits.

    Args:
        database: with every right.
        jobs: how many, at least 10 000.
        say: is told how far it is.
    """
    for statement in _TENANTS:
        await database.execute(statement, TENANTS, timeout=600)
    for first in range(0, jobs, _AT_ONCE):
        last = min(first + _AT_ONCE, jobs)
        await database.execute(_JOBS, jobs, _SPAN_SECONDS, TENANTS, first, last, _DOC, timeout=1800)
        say(f"ops: {last:,} of {jobs:,} jobs are loaded")
    await database.execute(_REQUESTS, jobs // 2, TENANTS, timeout=1800)
    await database.execute(_MINUTES, BUCKETS, timeout=600)
    await database.execute(_OPERATIONS, max(jobs // 500, 1), timeout=600)
    for statement in _OTHERS:
        await database.execute(statement)
    await database.execute("VACUUM ANALYZE", timeout=1800)
    await database.execute("CHECKPOINT", timeout=600)
