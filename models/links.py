"""Links that sign an operator in once, within a quarter of an hour.

A link's token derives from an id that only its job or its maker knows, and only the token's hash is kept with the
person: neither the store nor a job's payload holds a link.
"""

from __future__ import annotations

import base64
import hmac
from typing import TYPE_CHECKING
from uuid import UUID, uuid4

from uuid_utils.compat import uuid7

from models import metrics
from models.audit.record import ANONYMOUS, SYSTEM, Event, record
from models.jobs import KINDS
from models.operators import Operator, read_operator, target
from models.sessions import begin_session, hash_value

if TYPE_CHECKING:
    import asyncpg

    from models.audit.record import Actor
    from models.db import Connection

LINK_MINUTES = 15
_MOST_OPEN = 3  # links of one person that can be open at once by asking for an e-mail
INSTALLATION = UUID(int=0)
"""Tenant of jobs that are no tenant's."""


def link_token(secret_key: str, link_id: UUID) -> str:
    """Return the secret of a link: 43 letters, the same at every call."""
    digest = hmac.digest(secret_key.encode(), f"sign-in-link:{link_id}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


async def _keep(connection: Connection, operator_id: UUID, token: str) -> None:
    await connection.execute("DELETE FROM sign_in_link WHERE expires_at < now() - interval '1 day'")
    await connection.execute(
        "INSERT INTO sign_in_link (token_hash, operator_id, expires_at)"
        " VALUES ($1, $2, now() + make_interval(mins => $3))",
        hash_value(token),
        operator_id,
        LINK_MINUTES,
    )


async def make_link(
    connection: Connection, operator: Operator, *, secret_key: str, actor: Actor, correlation_id: UUID
) -> str:
    """Make a link for a person and return its token, which is known only now.

    Args:
        connection: outside a transaction.
        operator: who is to sign in with it.
        secret_key: what the token derives from.
        actor: who asks for it; the audit log names them.
        correlation_id: of the audit event.
    """
    token = link_token(secret_key, uuid4())
    async with connection.transaction():
        await _keep(connection, operator.id, token)
        event = Event(
            action="auth.operator.link",
            phase="applied",
            actor=actor,
            correlation_id=correlation_id,
            targets=[target(operator)],
            context={"minutes": LINK_MINUTES},
        )
        await record(connection, [event])
    return token


_BY_WORD = "SELECT * FROM operator WHERE (name = lower($1) OR lower(email) = lower($1)) AND disabled_at IS NULL"


async def stage_link(
    connection: Connection, word: str, *, secret_key: str, correlation_id: UUID, actor: Actor = ANONYMOUS
) -> UUID | None:
    """Stage the e-mail with a link for whoever has the name or the address ``word``.

    Args:
        connection: outside a transaction.
        word: as typed.
        secret_key: what the token derives from.
        correlation_id: of the job and the audit event.
        actor: who asks, if that is known.

    Returns:
        The job's id; None if there is no such person, or they have enough open links.
    """
    kind = KINDS["operator.link"]
    async with connection.transaction():
        row = await connection.fetchrow(f"{_BY_WORD} FOR UPDATE", word.strip())
        if row is None:
            return None
        operator = read_operator(row)
        count = await connection.fetchval(
            "SELECT count(*) FROM sign_in_link WHERE operator_id = $1 AND used_at IS NULL AND expires_at > now()",
            operator.id,
        )
        if count >= _MOST_OPEN:
            return None
        link_id, job_id = uuid4(), uuid7()
        await _keep(connection, operator.id, link_token(secret_key, link_id))
        await connection.execute(
            "INSERT INTO job (id, tenant_id, kind, queue, resource_id, correlation_id) VALUES ($1, $2, $3, $4, $5, $6)",
            job_id,
            INSTALLATION,
            kind.name,
            kind.queue,
            link_id,
            correlation_id,
        )
        metrics.JOBS_STAGED.add(1, kind.queue, kind.name)
        event = Event(
            action="auth.operator.link",
            phase="applied",
            actor=actor,
            correlation_id=correlation_id,
            targets=[target(operator)],
            job_id=job_id,
            context={"minutes": LINK_MINUTES, "sent": "email"},
        )
        await record(connection, [event])
    return job_id


_FIND = """
SELECT operator.*, used_at, expires_at <= now() AS over
  FROM sign_in_link JOIN operator ON operator.id = operator_id WHERE token_hash = $1
"""


async def find_link(connection: Connection | asyncpg.Pool, token: str) -> tuple[Operator | None, str]:
    """Return whose link ``token`` is, and its standing: `open`, `used`, `expired`, `disabled` or `unknown`."""
    row = await connection.fetchrow(_FIND, hash_value(token))
    if row is None:
        return None, "unknown"
    operator = read_operator(row)
    if row["used_at"] is not None:
        return operator, "used"
    if operator.disabled_at is not None:
        return operator, "disabled"
    return operator, "expired" if row["over"] else "open"


# Of many who come at once one gets the row; the others wait for it, and then it no longer fits.
_USE = """
UPDATE sign_in_link SET used_at = now() FROM operator
 WHERE token_hash = $1 AND used_at IS NULL AND expires_at > now()
   AND operator.id = operator_id AND disabled_at IS NULL
RETURNING operator.*
"""


async def use_link(
    connection: Connection, token: str, *, address: str | None, correlation_id: UUID
) -> tuple[Operator, str] | str:
    """Sign in with a link, once.

    Args:
        connection: outside a transaction.
        token: from the link.
        address: where the request came from, for the audit event.
        correlation_id: of the audit event.

    Returns:
        Who signed in and the value of the session's cookie; or why not, as `find_link` says it.
    """
    context = {"peer": address, "method": "link"}
    async with connection.transaction():
        row = await connection.fetchrow(_USE, hash_value(token))
        if row is None:
            operator, standing = await find_link(connection, token)
            if operator is not None:
                event = Event(
                    action="auth.session.deny",
                    phase="denied",
                    actor=SYSTEM,
                    correlation_id=correlation_id,
                    reason=f"link_{standing}",
                    targets=[target(operator)],
                    context=context,
                )
                await record(connection, [event])
            return standing
        operator = read_operator(row)
        value = await begin_session(connection, operator.id)
        event = Event(
            action="auth.session.sign_in",
            phase="applied",
            actor=operator.actor,
            correlation_id=correlation_id,
            targets=[target(operator)],
            context=context,
        )
        await record(connection, [event])
    return operator, value
