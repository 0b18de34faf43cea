"""Invitations: what becomes of each, and the single-use link that its e-mail carries.

    pending ──begin_sending──► sending ──► sent ──accept──► accepted
       ▲                          │ │        └──(days go by, or superseded by a new one)──► expired
       └────────── retry ◄────────┘ └──► failed

The link's token derives from the invitation, so an attempt that follows a crash repeats the same message. A link is
good from the moment that its mail may have gone out, whatever the server's answer was; a row without a token hash
has no good link.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from models.audit.record import Actor, Event, record
from models.branding import Branding, read_branding
from models.errors import RetryableJobError
from models.jobs import finish
from models.suppression import IS_SUPPRESSED

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from models.db import Connection
    from models.jobs import Ending, Job

_TOKEN = re.compile(r"[A-Za-z0-9_-]{43}")
_CHUNK = 5000  # rows of one statement that expires invitations


@dataclass(frozen=True, slots=True)
class Letter:
    """Everything that the e-mail of one invitation needs."""

    invitation_id: UUID
    message_id: str
    email: str
    person: str
    """How to address the reader; may be empty."""
    tenant_name: str
    branding: Branding
    sign_in_url: str | None
    token: str = field(repr=False)


LEASE_LOST: Final = "lease_lost"


@dataclass(frozen=True, slots=True)
class Skipped:
    """Why no e-mail is to be sent; the job has been finished, unless its lease was lost."""

    reason: str
    """`lease_lost`, `invitation_gone`, `superseded`, `already_sent`, `already_accepted`, `user_gone`,
    `user_inactive`, `invitations_off` or `suppressed`."""


@dataclass(frozen=True, slots=True)
class OpenedInvitation:
    """An invitation as the holder of its link sees it."""

    id: UUID
    standing: str
    """`open`, `accepted`, `expired` or `withdrawn` (the user is gone or inactive)."""
    tenant_name: str
    branding: Branding
    sign_in_url: str | None


def link_token(secret_key: str, invitation_id: UUID) -> str:
    """Return the secret of an invitation's link: 43 letters, the same at every call."""
    digest = hmac.digest(secret_key.encode(), f"invitation:{invitation_id}".encode(), "sha256")
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def hash_token(token: str) -> bytes:
    """Return what the store keeps of a link's token."""
    return hashlib.sha256(token.encode()).digest()


_USER_NAME = """
(SELECT doc ->> 'userName' FROM users WHERE users.tenant_id = invitation.tenant_id AND users.id = user_id) AS user_name
"""

# One statement, hence one transaction; no row comes back when the lease was lost or the mail shall not go out.
_BEGIN = f"""
WITH held AS MATERIALIZED (
    SELECT resource_id FROM job WHERE id = $1 AND lease_token = $2 AND state = 'running' FOR UPDATE
)
UPDATE invitation
   SET state = 'sending', token_hash = $3, expires_at = now() + make_interval(days => $4),
       message_id = coalesce(message_id, '<' || invitation.id || '.' || generation || '@' || $5::text || '>')
  FROM held, tenant, users
 WHERE invitation.id = held.resource_id AND state IN ('pending', 'sending', 'failed')
   AND tenant.id = invitation.tenant_id AND tenant.invitations
   AND users.tenant_id = invitation.tenant_id AND users.id = user_id AND users.active AND NOT {IS_SUPPRESSED}
RETURNING invitation.id, message_id, email, display_name, branding, sign_in_url,
          coalesce(nullif(doc ->> 'displayName', ''), nullif(doc -> 'name' ->> 'formatted', ''),
                   concat_ws(' ', doc -> 'name' ->> 'givenName', doc -> 'name' ->> 'familyName')) AS person
"""  # noqa: S608  constants only


async def begin_sending(
    connection: Connection, job: Job, lease_token: UUID, *, secret_key: str, invitation_days: int, mail_domain: str
) -> Letter | Skipped:
    """Commit that the e-mail of a claimed `invitation.send` job is about to go out.

    Args:
        connection: outside a transaction: what is written here must be committed before SMTP begins.
        job: as it was claimed, under ``lease_token``.
        lease_token: the claim's.
        secret_key: what the link's token derives from.
        invitation_days: days that the link works.
        mail_domain: right side of the Message-ID; the first attempt's is kept.

    Returns:
        What the e-mail needs, or why there is to be none.

    Raises:
        RetryableJobError: the reason against it vanished while it was being looked for.
    """
    assert job.resource_id is not None  # noqa: S101  staged so by models.provision
    token = link_token(secret_key, job.resource_id)
    row = await connection.fetchrow(_BEGIN, job.id, lease_token, hash_token(token), invitation_days, mail_domain)
    if row is None:
        return await _skip(connection, job, lease_token)
    return Letter(
        invitation_id=row["id"],
        message_id=row["message_id"],
        email=row["email"],
        person=row["person"],
        tenant_name=row["display_name"],
        branding=read_branding(row["branding"], display_name=row["display_name"]),
        sign_in_url=row["sign_in_url"],
        token=token,
    )


_WHY_NOT = f"""
SELECT CASE WHEN invitation.state = 'accepted' THEN 'already_accepted'
            WHEN error_code = 'superseded' THEN 'superseded'
            WHEN invitation.state IN ('sent', 'expired') THEN 'already_sent'
            WHEN users.id IS NULL THEN 'user_gone'
            WHEN NOT users.active THEN 'user_inactive'
            WHEN NOT tenant.invitations THEN 'invitations_off'
            WHEN {IS_SUPPRESSED} THEN 'suppressed' END AS reason,
       invitation.id, user_id, email, message_id, sent_at, {_USER_NAME}
  FROM invitation
  JOIN tenant ON tenant.id = invitation.tenant_id
  LEFT JOIN users ON users.tenant_id = invitation.tenant_id AND users.id = user_id
 WHERE invitation.id = $1
"""  # noqa: S608  constants only


async def _skip(connection: Connection, job: Job, lease_token: UUID) -> Skipped:
    async with connection.transaction():
        if not await finish(connection, [job.id], lease_token):
            return Skipped(LEASE_LOST)
        # First the lock, then the look: whoever enables the user meanwhile waits for what is written here, or is seen.
        await connection.execute("SELECT FROM invitation WHERE id = $1 FOR UPDATE", job.resource_id)
        row = await connection.fetchrow(_WHY_NOT, job.resource_id)
        if row is None:
            await _record_sending(connection, job, "failed", None, reason="invitation_gone")
            return Skipped("invitation_gone")
        reason: str | None = row["reason"]
        if reason is None:
            raise RetryableJobError("invitation_changed", "The invitation changed while it was being looked at.")
        if reason == "already_accepted" and row["sent_at"] is None:
            # The link was used, so an attempt whose end is unknown did deliver it.
            await _record_sending(connection, job, "applied", row, reason=reason)
        elif reason not in ("already_accepted", "already_sent", "superseded"):
            await connection.execute(
                "UPDATE invitation SET state = 'failed', token_hash = NULL, error_detail = NULL,"
                " error_code = CASE WHEN error_code = 'user_deleted' THEN error_code ELSE $2 END WHERE id = $1",
                job.resource_id,
                reason,
            )
            await _record_sending(connection, job, "failed", row, reason=reason)
    return Skipped(reason)


_SENT = f"""
UPDATE invitation
   SET state = CASE WHEN state = 'accepted' OR token_hash IS NULL THEN state ELSE 'sent' END,
       sent_at = now(), expires_at = now() + make_interval(days => $2), error_code = NULL, error_detail = NULL
 WHERE id = $1
RETURNING id, user_id, email, message_id, {_USER_NAME}
"""  # noqa: S608  constants only


_TOLD = """
SELECT context ->> 'attempt' FROM audit_event
 WHERE correlation_id = $1 AND job_id = $2 AND action = 'invitation.email.send' AND phase = 'applied' LIMIT 1
"""


async def sent(
    connection: Connection,
    job: Job,
    lease_token: UUID,
    *,
    invitation_days: int,
    smtp_reply_class: str = "2xx",
) -> bool:
    """Record that the SMTP server took the e-mail, and finish the job.

    The message is out even if the lease was lost meanwhile, so that is recorded in any case: whoever has the job
    now finds the invitation sent. It is told once, also if somebody else sent the same message meanwhile, or an
    earlier call failed whose commit had happened all the same.

    Args:
        connection: outside a transaction, or inside one that has more to write.
        job: as it was claimed, under ``lease_token``.
        lease_token: the claim's.
        invitation_days: days from now that the link works.
        smtp_reply_class: of the server's answer to the message.

    Returns:
        Whether the lease held, so that the job is done.
    """
    async with connection.transaction():
        held = await finish(connection, [job.id], lease_token)
        # Who else sent it waits here, and then finds it told.
        state = await connection.fetchval("SELECT state FROM invitation WHERE id = $1 FOR UPDATE", job.resource_id)
        if not held or state != "sending":
            told_by = await connection.fetchval(_TOLD, job.correlation_id, job.id)
            if told_by is not None:
                return bool(held) or told_by == str(job.attempts)
        row = await connection.fetchrow(_SENT, job.resource_id, invitation_days)
        await _record_sending(connection, job, "applied", row, smtp_reply_class=smtp_reply_class)
    return bool(held)


_FAILED = f"""
UPDATE invitation
   SET state = CASE WHEN state NOT IN ('pending', 'sending', 'failed') THEN state
                    WHEN $3 = 'dead' THEN 'failed' ELSE 'pending' END,
       error_code = CASE WHEN error_code = 'superseded' THEN error_code ELSE $4 END,
       error_detail = (SELECT error_detail FROM job WHERE job.id = $2)
 WHERE id = $1
RETURNING id, user_id, email, message_id, {_USER_NAME}
"""  # noqa: S608  constants only


async def failed(connection: Connection, ending: Ending) -> None:
    """Record that an attempt at the e-mail failed: it waits for the next one, or has failed for good.

    Args:
        connection: in the transaction that ends the attempt, after `models.jobs.fail`.
        ending: how that left the job; its code becomes the invitation's and the audit event's reason.
    """
    job = ending.job
    row = await connection.fetchrow(_FAILED, job.resource_id, job.id, ending.state, ending.code)
    if ending.state == "dead":
        await _record_sending(connection, job, "failed", row, reason=ending.code)


def _targets(invitation_id: UUID | None, row: asyncpg.Record | None) -> list[dict[str, Any]]:
    """Return the user, by whom people look, and the invitation."""
    if row is None:
        return [{"type": "Invitation", "id": str(invitation_id)}]
    return [
        {"type": "User", "id": str(row["user_id"]), "label": row["user_name"]},
        {"type": "Invitation", "id": str(invitation_id), "label": row["email"]},
    ]


async def _record_sending(
    connection: Connection,
    job: Job,
    phase: str,
    row: asyncpg.Record | None,
    *,
    reason: str | None = None,
    smtp_reply_class: str | None = None,
) -> None:
    context = {
        "attempt": job.attempts,
        "message_id": row["message_id"] if row else None,
        "smtp_reply_class": smtp_reply_class,
    }
    event = Event(
        action="invitation.email.send",
        phase=phase,
        actor=Actor("job"),
        correlation_id=job.correlation_id,
        tenant_id=job.tenant_id,
        reason=reason,
        targets=_targets(job.resource_id, row),
        job_id=job.id,
        context={key: value for key, value in context.items() if value is not None},
    )
    await record(connection, [event])


_FIND = """
SELECT invitation.id, invitation.state, display_name, branding, sign_in_url,
       CASE WHEN invitation.state = 'accepted' THEN 'accepted'
            WHEN users.active IS NOT TRUE THEN 'withdrawn'
            WHEN invitation.state = 'expired' OR expires_at <= now() THEN 'expired'
            ELSE 'open' END AS standing
  FROM invitation
  JOIN tenant ON tenant.id = invitation.tenant_id
  LEFT JOIN users ON users.tenant_id = invitation.tenant_id AND users.id = user_id
 WHERE token_hash = $1
"""
_EXPIRE_ONE = "UPDATE invitation SET state = 'expired' WHERE id = $1 AND state = 'sent' AND expires_at <= now()"


async def _find(connection: Connection, token: str) -> OpenedInvitation | None:
    row = await connection.fetchrow(_FIND, hash_token(token))
    if row is None:
        return None
    if row["standing"] == "expired" and row["state"] == "sent":
        await connection.execute(_EXPIRE_ONE, row["id"])
    return OpenedInvitation(
        id=row["id"],
        standing=row["standing"],
        tenant_name=row["display_name"],
        branding=read_branding(row["branding"], display_name=row["display_name"]),
        sign_in_url=row["sign_in_url"],
    )


async def find_invitation(pool: asyncpg.Pool, token: str) -> OpenedInvitation | None:
    """Return the invitation whose link carries ``token``, or None if no link does.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: see `models.db.is_unavailable`.
    """
    if not _TOKEN.fullmatch(token):
        return None
    async with pool.acquire() as connection:
        return await _find(connection, token)


# Whoever comes second waits for the first one's row lock, then sees the state and changes nothing.
_ACCEPT = f"""
UPDATE invitation SET state = 'accepted', accepted_at = now()
  FROM users
 WHERE token_hash = $1 AND state IN ('pending', 'sending', 'sent', 'failed') AND expires_at > now()
   AND users.tenant_id = invitation.tenant_id AND users.id = user_id AND users.active
RETURNING invitation.id, invitation.tenant_id, user_id, email, {_USER_NAME}
"""  # noqa: S608  constants only


async def accept_invitation(
    pool: asyncpg.Pool, token: str, *, correlation_id: UUID
) -> tuple[OpenedInvitation | None, bool]:
    """Mark the invitation of a link accepted, once.

    Returns:
        The invitation as it stands afterwards (None if no link carries ``token``), and whether this call, and no
        earlier one, made it accepted.

    Raises:
        OSError, TimeoutError, asyncpg.PostgresError: see `models.db.is_unavailable`.
    """
    if not _TOKEN.fullmatch(token):
        return None, False
    async with pool.acquire() as connection, connection.transaction():
        row = await connection.fetchrow(_ACCEPT, hash_token(token))
        if row is not None:
            event = Event(
                action="invitation.link.accept",
                phase="applied",
                actor=Actor("person", id=str(row["user_id"]), label=row["user_name"]),
                correlation_id=correlation_id,
                tenant_id=row["tenant_id"],
                targets=_targets(row["id"], row),
            )
            await record(connection, [event])
        return await _find(connection, token), row is not None


_EXPIRE = """
UPDATE invitation SET state = 'expired'
 WHERE id = ANY (ARRAY(SELECT id FROM invitation WHERE state = 'sent' AND expires_at <= now()
                        LIMIT $1 FOR UPDATE SKIP LOCKED))
"""


async def expire_invitations(connection: Connection) -> int:
    """Set every sent invitation whose time is over to `expired`, a chunk a statement; return how many there were."""
    total = 0
    while True:
        status = await connection.execute(_EXPIRE, _CHUNK)
        expired = int(status.split()[1])
        total += expired
        if expired < _CHUNK:
            return total
