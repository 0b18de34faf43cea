"""The ledger's larger statements (`models.jobs` runs them)."""

from __future__ import annotations

LOST = "lease_expired"
"""Error code of a job whose worker gave no sign of life any more."""

LOST_TOGETHER = 10
"""Most jobs of a claim that were lost once: few claims after an ordinary crash, few neighbours of what causes one."""

_WAITING = "state IN ('staged', 'retry')"
_DUE = f"{_WAITING} AND run_at <= now()"

# Which kinds of job wait for which tenants: a jump through the index `job_due` for each, however many wait.
PAIRS = f"""
RECURSIVE pair (tenant_id, kind) AS (
    (SELECT tenant_id, kind FROM job WHERE queue = $1 AND {_WAITING} ORDER BY tenant_id, kind LIMIT 1)
    UNION ALL
    SELECT following.* FROM pair CROSS JOIN LATERAL (
        SELECT tenant_id, kind FROM job
         WHERE queue = $1 AND {_WAITING} AND (tenant_id, kind) > (pair.tenant_id, pair.kind)
         ORDER BY tenant_id, kind LIMIT 1) AS following
)
"""  # noqa: S608  constants only

# Nobody takes what is paused, so nobody looks at it: a pause covers a pair or it does not.
_FREE = f"""
WITH {PAIRS.strip()},
paused AS MATERIALIZED (
    SELECT kind, tenant_id FROM job_pause WHERE expires_at IS NULL OR expires_at > now()
),
free AS MATERIALIZED (
    SELECT tenant_id, kind FROM pair
     WHERE NOT EXISTS (SELECT FROM paused
                        WHERE (paused.kind IS NULL OR paused.kind = pair.kind)
                          AND (paused.tenant_id IS NULL OR paused.tenant_id = pair.tenant_id))
       AND EXISTS (SELECT FROM job
                    WHERE queue = $1 AND tenant_id = pair.tenant_id AND kind = pair.kind AND {_DUE})
),
tenants AS MATERIALIZED (SELECT greatest(count(DISTINCT tenant_id), 1) AS count FROM free)
"""  # noqa: S608  constants only


# An equal share for each tenant, so that a single create passes between the thousands of another's initial cycle.
# Which tenant comes first is drawn: where only one job is wanted at a time, nobody waits for another's last.
# Of those that were lost once a few are taken, of those that were lost again only one.
CLAIM = f"""
{_FREE.strip()},
share AS (SELECT greatest(1, ceil($2::float / count))::int AS size FROM tenants),
candidate AS MATERIALIZED (
    SELECT due.id, due.most, row_number() OVER (PARTITION BY free.tenant_id ORDER BY due.run_at, due.id) AS turn
      FROM free
      CROSS JOIN LATERAL (SELECT id, run_at,
                                 CASE WHEN error_code = '{LOST}'
                                      THEN CASE WHEN attempts < 2 THEN {LOST_TOGETHER} ELSE 1 END END AS most
                            FROM job
                           WHERE queue = $1 AND tenant_id = free.tenant_id AND kind = free.kind AND {_DUE}
                           ORDER BY run_at, id LIMIT (SELECT size FROM share)) AS due
),
wanted AS MATERIALIZED (
    SELECT id
      FROM (SELECT *, row_number() OVER (PARTITION BY most ORDER BY turn, random()) AS place FROM candidate) AS drawn
     WHERE most IS NULL OR place <= most
     ORDER BY turn, random() LIMIT $2
),
picked AS (
    SELECT id FROM job WHERE id = ANY (ARRAY(SELECT id FROM wanted)) AND {_DUE} FOR UPDATE SKIP LOCKED
),
taken AS (
    UPDATE job
       SET state = 'running', lease_token = $3, lease_until = now() + make_interval(secs => $4),
           attempts = attempts + 1, started_at = coalesce(started_at, now())
      FROM picked
     WHERE job.id = picked.id
    RETURNING job.id, tenant_id, kind, resource_id, payload, attempts, correlation_id, staged_at, trace_context,
              error_code IS NOT DISTINCT FROM '{LOST}' AS lost, extract(epoch FROM now() - run_at)::float AS waited
)
SELECT taken.*, seen.count > (SELECT count(*) FROM taken) OR seen.share_used AS more
  FROM (SELECT count(*), coalesce(max(turn) >= (SELECT size FROM share), false) AS share_used FROM candidate) AS seen
  LEFT JOIN taken ON true
"""  # noqa: S608  constants only

# Only whoever holds the lease may say how the attempt ended.
FAIL = """
WITH ended AS (
UPDATE job SET state = $3, run_at = now() + make_interval(secs => $4), lease_token = NULL, lease_until = NULL,
       error_code = $5, error_detail = $6, finished_at = CASE WHEN $3 = 'dead' THEN now() END
 WHERE id = $1 AND lease_token = $2 AND state = 'running'
RETURNING id, attempts, state, error_code, error_detail
)
INSERT INTO job_attempt (id, job_id, attempt, process_id, started_at, outcome, error_code, error_detail, trace)
SELECT gen_random_uuid(), id, attempts, $7, now() - make_interval(secs => $8), state, error_code, error_detail, $9
  FROM ended
RETURNING job_id
"""

# A first loss costs no time: most often the worker was at fault, not the job.
RESCUE = f"""
WITH expired AS (
    SELECT id, kind, attempts FROM job WHERE state = 'running' AND lease_until < now()
     ORDER BY lease_until LIMIT $5 FOR UPDATE SKIP LOCKED
),
known AS (
    SELECT * FROM unnest($1::text[], $2::int[], $3::float[], $4::float[])
        AS k (kind, max_attempts, first_delay, longest_delay)
),
judged AS (
    SELECT expired.id, expired.attempts >= coalesce(known.max_attempts, 0) AS over,
           CASE WHEN expired.attempts = 1 THEN 0
                ELSE least(first_delay * 2.0 ^ least(expired.attempts - 1, 30), longest_delay) * (0.75 + random() / 2)
           END AS delay
      FROM expired LEFT JOIN known USING (kind)
),
rescued AS (
UPDATE job SET state = CASE WHEN over THEN 'dead' ELSE 'retry' END,
       run_at = CASE WHEN over OR delay = 0 THEN run_at ELSE now() + make_interval(secs => delay) END,
       lease_token = NULL, lease_until = NULL,
       error_code = '{LOST}', error_detail = 'The worker that had it gave no sign of life.',
       finished_at = CASE WHEN over THEN now() END
  FROM judged
 WHERE job.id = judged.id
RETURNING job.id, tenant_id, kind, queue, state, resource_id, correlation_id, payload, attempts, staged_at,
          true AS lost, run_at <= now() AS due, error_code, error_detail
),
told AS (
    INSERT INTO job_attempt (id, job_id, attempt, outcome, error_code, error_detail)
    SELECT gen_random_uuid(), id, attempts, state, error_code, error_detail FROM rescued
)
SELECT * FROM rescued
"""  # noqa: S608  constants only

# Twice an equal share of each tenant, so that no more is read than is rung for, however much waits.
OVERDUE = f"""
{_FREE.strip()}
SELECT overdue.id
  FROM free
  CROSS JOIN LATERAL (SELECT id, run_at FROM job
                       WHERE queue = $1 AND tenant_id = free.tenant_id AND kind = free.kind AND {_WAITING}
                         AND run_at <= now() - make_interval(secs => $2)
                       ORDER BY run_at LIMIT (SELECT ceil($3 * 2.0 / count)::int FROM tenants)
                     ) AS overdue
 ORDER BY overdue.run_at LIMIT $3
"""  # noqa: S608  constants only
