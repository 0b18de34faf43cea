"""The statements behind a search of the ledger (`models.job_find` runs them); each of them is held to an index.

The ledger keeps what is done for long, so no statement reads it whole. Jobs that are open have partial indexes of
their own. Of the others the primary key is walked, which is in order of time, and only so far.
"""

from __future__ import annotations

OPEN = ("staged", "running", "retry", "dead")
WINDOW = 100_000
"""Most jobs that one page or count looks at by the primary key."""
MOST_COUNTED = 10_001
MOST_PEOPLE = 200
MOST_CANDIDATES = 2000
"""Most jobs that a person, an externalId or a correlation id may lead to."""

# Two errors of one code are the same fault if they differ only in quoted text and in words with a digit or an @ in
# them: ids, addresses, numbers.
FINGERPRINT = r"""
left(md5(regexp_replace(left(coalesce(error_detail, ''), 300), '\S*[0-9@]\S*|"[^"]*"|''[^'']*''', '#', 'g')), 8)
"""

_OPEN = "state IN ('staged', 'running', 'retry', 'dead')"

# A name is looked up with its tenant, so a search that names no tenant asks each; that is one probe of an index.
PEOPLE_BY_NAME = """
SELECT found.tenant_id, found.resource_id AS user_id
  FROM tenant
  CROSS JOIN LATERAL (SELECT tenant_id, resource_id FROM identifier
                       WHERE tenant_id = tenant.id AND kind = 'userName' AND value_key >= $2 AND value_key <= $3
                         AND starts_with(value_key, $2)
                       ORDER BY value_key LIMIT $4) AS found
 WHERE $1::uuid[] IS NULL OR tenant.id = ANY ($1)
 LIMIT $4
"""

PEOPLE_BY_EXTERNAL_ID = f"""
SELECT found.tenant_id, found.user_id
  FROM tenant
  CROSS JOIN LATERAL (
      (SELECT tenant_id, id AS user_id FROM users WHERE tenant_id = tenant.id AND external_id = $2 LIMIT $3)
      UNION ALL
      (SELECT tenant_id, resource_id FROM job
        WHERE tenant_id = tenant.id AND payload ->> 'external_id' = $2 AND kind = 'user.create' AND {_OPEN} LIMIT $3)
  ) AS found
 WHERE $1::uuid[] IS NULL OR tenant.id = ANY ($1)
 LIMIT $3
"""  # noqa: S608  constants only

# Whoever was called so at the time: somebody deleted, renamed or cancelled is in the audit log only.
FORMER_PEOPLE = """
WITH about AS MATERIALIZED (
    SELECT tenant_id, target_type, target_id FROM audit_event
     WHERE usher_fold_json(targets) @> usher_fold_json(jsonb_build_array(jsonb_build_object($2::text, $3::text)))
     LIMIT $4
)
SELECT DISTINCT tenant_id, target_id::uuid AS user_id FROM about
 WHERE target_type = 'User' AND ($1::uuid[] IS NULL OR tenant_id = ANY ($1)) AND target_id ~ '^[0-9a-f-]{36}$'
"""

JOBS_OF_PEOPLE = f"""
SELECT DISTINCT found.id
  FROM unnest($1::uuid[], $2::uuid[]) AS person (tenant_id, user_id)
  CROSS JOIN LATERAL (
      SELECT id FROM job
       WHERE job.tenant_id = person.tenant_id AND resource_id = person.user_id AND kind = 'user.create' AND {_OPEN}
      UNION ALL
      SELECT job.id
        FROM invitation JOIN job ON job.resource_id = invitation.id AND kind <> 'user.create' AND job.{_OPEN}
       WHERE invitation.tenant_id = person.tenant_id AND invitation.user_id = person.user_id
      UNION ALL
      SELECT job_id FROM audit_event
       WHERE audit_event.tenant_id = person.tenant_id AND target_id = person.user_id::text AND job_id IS NOT NULL
  ) AS found
 LIMIT $3
"""  # noqa: S608  constants only

# Jobs that have left an event, and the people of the request, whose waiting jobs have left none yet.
CORRELATED = """
SELECT DISTINCT tenant_id, job_id, CASE WHEN target_type = 'User' THEN target_id END AS user_id
  FROM audit_event WHERE correlation_id = ANY ($1::uuid[]) LIMIT $2
"""

WITH_CORRELATION = "SELECT id FROM job WHERE id = ANY ($1::uuid[]) AND correlation_id = ANY ($2::uuid[])"

SHOWN = """
SELECT job.id, job.kind, job.queue, tenant.name AS tenant, job.tenant_id, job.state, job.resource_id, job.attempts,
       job.staged_at, job.run_at, job.started_at, job.finished_at, job.lease_until, job.error_code, job.error_detail,
       job.correlation_id, coalesce(invitation.user_id, job.resource_id) AS user_id,
       coalesce(CASE WHEN job.kind = 'user.create' THEN job.payload -> 'doc' ->> 'userName' END,
                users.doc ->> 'userName') AS user_name
  FROM job
  LEFT JOIN tenant ON tenant.id = job.tenant_id
  LEFT JOIN invitation ON invitation.id = job.resource_id AND job.kind = 'invitation.send'
  LEFT JOIN users ON users.tenant_id = job.tenant_id AND users.id = coalesce(invitation.user_id, job.resource_id)
 WHERE job.id = ANY ($1::uuid[])
"""


def in_states(states: frozenset[str]) -> str:
    """Return the condition on the state, written out so that a partial index can be found to hold."""
    return f"state IN ({', '.join(repr(state) for state in sorted(states))})"


def open_ids(states: frozenset[str], where: str, *, edge: str, order: str, limit: str) -> str:
    """Return the statement that finds ids through the partial indexes; ``states`` has no `done`.

    Args:
        states: of models.backlog.STATES.
        where: what else must hold, of columns of job.
        edge: the condition on the id that a page begins with.
        order: `ASC` or `DESC`.
        limit: placeholder of the most rows.
    """
    held = f"{in_states(states)} AND {edge} AND {where}"
    return f"""
WITH found AS MATERIALIZED (
    SELECT id FROM job WHERE kind = 'user.create' AND {held}
    UNION ALL
    SELECT id FROM job WHERE kind <> 'user.create' AND {held}
)
SELECT id FROM found ORDER BY id {order} LIMIT {limit}
"""  # noqa: S608  made of constants and placeholders


def window_ids(states: frozenset[str], where: str, *, edge: str, order: str, limit: str) -> str:
    """Return the statement that walks `WINDOW` jobs by the primary key; arguments as of `open_ids`."""
    return f"""
SELECT id FROM (SELECT * FROM job WHERE {edge} ORDER BY id {order} LIMIT {WINDOW}) AS job
 WHERE {in_states(states)} AND {where}
 ORDER BY id {order} LIMIT {limit}
"""  # noqa: S608  as above


def window_end(*, edge: str, order: str) -> str:
    """Return the statement that tells the last id of a whole window; it finds nothing if the ledger ends before."""
    return f"SELECT id FROM job WHERE {edge} ORDER BY id {order} LIMIT 1 OFFSET {WINDOW - 1}"  # noqa: S608  as above


def counted(ids: str) -> str:
    """Return the statement that counts what a statement for ids finds."""
    return f"SELECT count(*) FROM ({ids}) AS found"  # noqa: S608  as above
