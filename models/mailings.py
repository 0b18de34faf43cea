"""Invitation e-mails as operators look at them: by state, by what the mail server said, and one with its history."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from models.errors import UsageError
from models.resending import Resent, resend
from models.scim.schema import compare_key

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from models.audit.record import Actor
    from models.db import Connection

STATES = ("pending", "sending", "sent", "accepted", "expired", "failed")
PAGE = 100
MOST_COUNTED = 10_001
_CHUNK = 500  # invitations of one transaction that sends them again

_COLUMNS = """
invitation.id, invitation.tenant_id, tenant.name AS tenant, user_id, generation, email, invitation.state, message_id,
error_code, error_detail, invitation.created_at, sent_at, expires_at, accepted_at,
coalesce((SELECT doc ->> 'userName' FROM users WHERE users.tenant_id = invitation.tenant_id AND users.id = user_id),
         '') AS user_name
"""


@dataclass(frozen=True, slots=True)
class Mailings:
    """Which invitations are meant."""

    tenant_id: UUID | None = None
    state: str | None = None
    code: str | None = None
    """The error's: `smtp_4xx`, `smtp_5xx`, `suppressed`, …"""
    reply: str | None = None
    """Of the mail server, as far as it is given: `550`, `550 5.1.1`."""
    user_name: str | None = None
    before: UUID | None = None
    """Only what is older than this invitation: where the next page begins."""

    def __post_init__(self) -> None:
        """Check the state and the reply.

        Raises:
            UsageError: there is no such state, or the reply is none.
        """
        if self.state is not None and self.state not in STATES:
            raise UsageError(f"There is no state {self.state}; there are {', '.join(STATES)}.")
        if self.reply is not None and not self.reply.replace(".", "").replace(" ", "").isdigit():
            raise UsageError("Write a mail server's reply as 550 or 550 5.1.1.")


class _Sql:
    """Conditions with their values, as a statement is put together."""

    def __init__(self) -> None:
        self.values: list[Any] = []
        self.conditions: list[str] = []

    def put(self, value: Any) -> str:
        self.values.append(value)
        return f"${len(self.values)}"

    def where(self, condition: str, value: Any) -> None:
        if value is not None:
            self.conditions.append(condition.format(self.put(value)))


def _source(wanted: Mailings, limit: int) -> _Sql:
    """Return which rows of `invitation` are meant, newest first; the text is the one condition.

    Whatever is not sent is found by state with its tenant, so a question about all tenants asks each of them; what
    is sent is nearly everything, so the newest of all are looked through.
    """
    sql = _Sql()
    if wanted.user_name is not None:
        name = sql.put(compare_key(wanted.user_name))
        sql.conditions.append(
            "(invitation.tenant_id, user_id) IN (SELECT identifier.tenant_id, resource_id FROM tenant JOIN identifier"  # noqa: S608  a parameter's place
            f" ON identifier.tenant_id = tenant.id AND kind = 'userName' AND value_key = {name})"
        )
    sql.where("invitation.tenant_id = {}", wanted.tenant_id)
    sql.where("invitation.state = {}", wanted.state)
    sql.where("error_code = {}", wanted.code)
    sql.where("starts_with(error_detail, {})", wanted.reply and f"The server answered {wanted.reply}")
    sql.where("invitation.id < {}", wanted.before)
    where = " AND ".join(sql.conditions) or "true"
    count = sql.put(limit)
    by_state = wanted.state not in (None, "sent") and wanted.code is None and wanted.user_name is None
    if by_state and wanted.tenant_id is None:
        text = (
            "SELECT found.* FROM tenant AS each CROSS JOIN LATERAL (SELECT invitation.* FROM invitation"  # noqa: S608  constants
            f" WHERE invitation.tenant_id = each.id AND state <> 'sent' AND {where} ORDER BY id DESC LIMIT {count})"
            f" AS found ORDER BY id DESC LIMIT {count}"
        )
    else:
        partial = " AND state <> 'sent'" if by_state else ""
        text = f"SELECT invitation.* FROM invitation WHERE {where}{partial} ORDER BY id DESC LIMIT {count}"  # noqa: S608  constants
    sql.conditions = [text]
    return sql


async def list_mailings(connection: Connection, wanted: Mailings, *, limit: int = PAGE) -> list[dict[str, Any]]:
    """Return invitations, newest first, each with its tenant's name and the user's, who may be gone ('')."""
    sql = _source(wanted, limit)
    rows = await connection.fetch(
        f"SELECT {_COLUMNS} FROM ({sql.conditions[0]}) AS invitation"  # noqa: S608  constants
        " JOIN tenant ON tenant.id = invitation.tenant_id ORDER BY invitation.id DESC",
        *sql.values,
    )
    return [dict(row) for row in rows]


async def count_mailings(connection: Connection, wanted: Mailings) -> int:
    """Return how many invitations are meant; `MOST_COUNTED` means that many or more."""
    sql = _source(wanted, MOST_COUNTED)
    counted: int = await connection.fetchval(f"SELECT count(*) FROM ({sql.conditions[0]}) AS found", *sql.values)  # noqa: S608  constants
    return counted


# A tenant is named in the statement or not at all: one that fits both ways would find no index.
_NOT_SENT = "state = '{}' AND state <> 'sent' LIMIT $1"
_COUNT = {"sent": "SELECT count(*) FROM (SELECT FROM invitation WHERE state = 'sent' LIMIT $1) AS found"} | {
    state: "SELECT count(*) FROM (SELECT FROM tenant CROSS JOIN LATERAL (SELECT FROM invitation"  # noqa: S608  constants
    f" WHERE tenant_id = tenant.id AND {_NOT_SENT.format(state)}) AS each LIMIT $1) AS found"
    for state in STATES
    if state != "sent"
}
_COUNT_OF_TENANT = {
    state: "SELECT count(*) FROM (SELECT FROM invitation WHERE tenant_id = $2 AND "  # noqa: S608  constants
    f"{'state = $$sent$$ LIMIT $1' if state == 'sent' else _NOT_SENT.format(state)}) AS found"
    for state in STATES
}


async def count_states(connection: Connection, tenant_id: UUID | None = None) -> dict[str, int]:
    """Return how many invitations are in each state; `MOST_COUNTED` means that many or more."""
    if tenant_id is None:
        return {state: await connection.fetchval(_COUNT[state], MOST_COUNTED) for state in STATES}
    return {state: await connection.fetchval(_COUNT_OF_TENANT[state], MOST_COUNTED, tenant_id) for state in STATES}


_REPLIES = r"""
SELECT state, error_code, substring(error_detail FROM '^The server answered ([0-9]{{3}}( [0-9.]*[0-9])?)') AS reply,
       sum(count)::int AS count, max(newest) AS newest
  FROM (SELECT state, error_code, error_detail, count(*) AS count, max(created_at) AS newest
          FROM (SELECT state, error_code, error_detail, created_at FROM invitation WHERE {where} LIMIT $1) AS troubled
         GROUP BY 1, 2, 3) AS said
 GROUP BY 1, 2, 3 ORDER BY count DESC, error_code LIMIT 50
"""
_TROUBLED = "error_code IS NOT NULL AND state IN ('pending', 'sending', 'failed')"


async def count_replies(connection: Connection, tenant_id: UUID | None = None) -> list[dict[str, Any]]:
    """Return what keeps invitations from going out: state, error code, the server's reply, how many, the newest.

    At most `MOST_COUNTED` invitations are looked at.
    """
    if tenant_id is None:
        rows = await connection.fetch(_REPLIES.format(where=_TROUBLED), MOST_COUNTED)
    else:
        where = f"{_TROUBLED} AND state <> 'sent' AND tenant_id = $2"
        rows = await connection.fetch(_REPLIES.format(where=where), MOST_COUNTED, tenant_id)
    return [dict(row) for row in rows]


_EVENTS = """
SELECT occurred_at, id, action, phase, outcome, reason, actor_type, actor_label, job_id, context
  FROM audit_event WHERE tenant_id = $1 AND target_id = $2 AND action LIKE 'invitation.%'
 ORDER BY occurred_at DESC, id DESC LIMIT 100
"""
_OPEN_JOB = """
SELECT id, state, attempts, run_at FROM job
 WHERE kind <> 'user.create' AND state IN ('staged', 'running', 'retry', 'dead') AND resource_id = $1
"""


async def find_mailing(connection: Connection, invitation_id: UUID) -> dict[str, Any] | None:
    """Return one invitation with `generations` of its user, `events` and its open `job`; None if there is none."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS} FROM invitation JOIN tenant ON tenant.id = invitation.tenant_id WHERE invitation.id = $1",  # noqa: S608  constants
        invitation_id,
    )
    if row is None:
        return None
    generations = await connection.fetch(
        "SELECT id, generation, state, created_at, sent_at, accepted_at, error_code FROM invitation"
        " WHERE tenant_id = $1 AND user_id = $2 ORDER BY generation DESC LIMIT 100",
        row["tenant_id"],
        row["user_id"],
    )
    events = await connection.fetch(_EVENTS, row["tenant_id"], str(row["user_id"]))
    job = await connection.fetchrow(_OPEN_JOB, invitation_id)
    return {
        **row,
        "generations": [dict(each) for each in generations],
        "events": [dict(each) for each in events],
        "job": dict(job) if job else None,
    }


async def resend_matching(
    connection: Connection, wanted: Mailings, *, actor: Actor, correlation_id: UUID, most: int | None = None
) -> AsyncIterator[Resent]:
    """Send every invitation again that is meant, newest first, some hundreds a transaction.

    Those that this makes are newer than all that are meant, so it comes to an end.

    Args:
        connection: outside a transaction.
        wanted: which; accepted ones are refused one by one.
        actor: who asks.
        correlation_id: of all that comes of it.
        most: stop after this many.

    Yields:
        What became of each chunk, after its commit.
    """
    left = most
    while left is None or left > 0:
        ids = [
            row["id"]
            for row in await list_mailings(connection, wanted, limit=_CHUNK if left is None else min(_CHUNK, left))
        ]
        if not ids:
            return
        yield await resend(connection, ids, actor=actor, correlation_id=correlation_id)
        left = None if left is None else left - len(ids)
        wanted = replace(wanted, before=ids[-1])
