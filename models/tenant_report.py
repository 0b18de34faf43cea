"""How tenants fare: what they send, when their tokens end, what of theirs waits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from models.jobs import KINDS

if TYPE_CHECKING:
    from uuid import UUID

    from models.db import Connection

MOST_TENANTS = 500
MOST_COUNTED = 10_001

# A tenant is asked about by indexes that begin with it, so the time grows with the tenants and not with what they
# have sent.
_DUE = " UNION ALL ".join(
    f"(SELECT run_at FROM job WHERE queue = '{kind.queue}' AND tenant_id = tenant.id AND kind = '{kind.name}'"  # noqa: S608  constants
    " AND state IN ('staged', 'retry') AND run_at <= now() ORDER BY run_at LIMIT $1)"
    for kind in KINDS.values()
)
_FACTS = f"""
SELECT tenant.id, tenant.name, tenant.display_name, tenant.invitations, tenant.invitation_delay_seconds,
       CASE WHEN tenant.capture_until > now() THEN tenant.capture_until END AS capture_until, tenant.created_at,
       hour.succeeded, hour.refused, hour.omitted, last.succeeded_at, token.expires_at AS token_ends_at,
       least(waits.waiting, $1)::int AS waiting, waits.oldest
  FROM tenant
  CROSS JOIN LATERAL (SELECT coalesce(sum(succeeded), 0)::int AS succeeded, coalesce(sum(refused), 0)::int AS refused,
                             coalesce(sum(omitted), 0)::int AS omitted
                        FROM request_minute WHERE tenant_id = tenant.id AND minute > now() - interval '1 hour') AS hour
  LEFT JOIN LATERAL (SELECT succeeded_at FROM request_minute WHERE tenant_id = tenant.id AND succeeded > 0
                      ORDER BY minute DESC LIMIT 1) AS last ON true
  CROSS JOIN LATERAL (SELECT max(least(expires_at, revoked_at)) AS expires_at FROM token
                       WHERE tenant_id = tenant.id AND 'scim' = ANY (scopes) AND expires_at > now()
                         AND (revoked_at IS NULL OR revoked_at > now())) AS token
  CROSS JOIN LATERAL (SELECT count(*) AS waiting, min(run_at) AS oldest FROM ({_DUE}) AS due) AS waits
 ORDER BY tenant.name LIMIT {MOST_TENANTS}
"""  # noqa: S608  constants only


async def report(connection: Connection, name: str | None = None) -> list[dict[str, Any]]:
    """Return how each tenant fares, or one, by name; at most `MOST_TENANTS`.

    Of each: settings; `succeeded`, `refused` and `omitted` requests of the last hour; `succeeded_at`, the last
    success (None: none in days); `token_ends_at`, when the last good token for SCIM ends (None: there is none);
    `waiting` jobs that are due (at most `MOST_COUNTED`), since when the `oldest` is, and their `share` of all that
    wait, 0 to 1.
    """
    rows = [dict(row) for row in await connection.fetch(_FACTS, MOST_COUNTED)]
    total = sum(row["waiting"] for row in rows)
    for row in rows:
        row["share"] = row["waiting"] / total if total else 0.0
    return [row for row in rows if name is None or row["name"] == name]


_MINUTES = """
SELECT minutes.minute, coalesce(succeeded, 0) AS succeeded, coalesce(refused, 0) AS refused
  FROM generate_series(date_trunc('minute', now()) - interval '59 minutes', date_trunc('minute', now()), '1 minute')
    AS minutes (minute)
  LEFT JOIN request_minute ON request_minute.minute = minutes.minute AND tenant_id = $1
 ORDER BY 1
"""


async def minutes(connection: Connection, tenant_id: UUID) -> list[dict[str, Any]]:
    """Return the succeeded and refused requests of each of the last 60 minutes, oldest first."""
    return [dict(row) for row in await connection.fetch(_MINUTES, tenant_id)]
