"""Bearer tokens: `ush_<id>_<secret>`, bound to one tenant, of which only a hash is kept."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import string
import zlib
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from models.audit.record import Actor, Event, record
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    import asyncpg

    from models.db import Connection

PREFIX = "ush"
SCOPES = ("scim", "ops", "audit", "admin")
_ALPHABET = string.digits + string.ascii_letters
_ID_LENGTH = 12
_SECRET_LENGTH = 43  # of 62 letters: 256 bits
_CHECK_LENGTH = 6
_NO_HASH = bytes(32)


@dataclass(frozen=True, slots=True)
class TokenRecord:
    """What the store knows about a token."""

    id: str
    tenant_id: UUID
    label: str
    secret_hash: bytes
    scopes: frozenset[str]
    expires_at: datetime
    revoked_at: datetime | None
    schemas: str = "{}"
    """The tenant's own schemas, as JSON: read along, so that they cost no question of their own."""
    capture_until: datetime | None = None
    """Until when the tenant's bodies are kept for operators; read along too."""
    read_at: datetime = field(default_factory=lambda: datetime.now(UTC))
    """When it was read, by the database's clock: whether it has expired is not for a process's own clock to say."""


@dataclass(frozen=True, slots=True)
class IssuedToken:
    """A new token; the only moment at which its text is known."""

    id: str
    text: str
    expires_at: datetime

    def __repr__(self) -> str:
        return f"IssuedToken(id={self.id!r}, expires_at={self.expires_at!r})"


def _base62(number: int, length: int) -> str:
    letters = []
    for _ in range(length):
        number, rest = divmod(number, 62)
        letters.append(_ALPHABET[rest])
    return "".join(reversed(letters))


def _check(body: str) -> str:
    return _base62(zlib.crc32(body.encode()), _CHECK_LENGTH)


def _random(length: int) -> str:
    return "".join(secrets.choice(_ALPHABET) for _ in range(length))


def split_token(text: str) -> tuple[str, str] | None:
    """Return (id, secret) of a token whose form and checksum are right, else None; asks no store."""
    parts = text.split("_")
    if len(parts) != 3 or parts[0] != PREFIX or not text.isascii():
        return None
    token_id, secret = parts[1], parts[2]
    if len(token_id) != _ID_LENGTH or len(secret) != _SECRET_LENGTH + _CHECK_LENGTH:
        return None
    body = text[:-_CHECK_LENGTH]
    return (token_id, secret) if hmac.compare_digest(_check(body), text[-_CHECK_LENGTH:]) else None


def hash_secret(secret: str) -> bytes:
    """Return the SHA-256 that is stored; a slow hash would protect nothing, as the secret holds 256 bits."""
    return hashlib.sha256(secret.encode()).digest()


def refusal(token: TokenRecord | None, secret: str, scope: str, now: datetime) -> str | None:
    """Return why ``secret`` is not good for ``scope``, or None if it is.

    The comparison takes the same time whether or not the token exists.

    Returns:
        None, `unknown`, `revoked`, `expired` or `scope`.
    """
    same = hmac.compare_digest(hash_secret(secret), token.secret_hash if token else _NO_HASH)
    if token is None or not same:
        return "unknown"
    if token.revoked_at is not None and token.revoked_at <= now:
        return "revoked"
    if token.expires_at <= now:
        return "expired"
    return None if scope in token.scopes else "scope"


async def find_token(connection: Connection | asyncpg.Pool, token_id: str) -> TokenRecord | None:
    """Read one token, or None if there is no such id."""
    row = await connection.fetchrow(
        "SELECT token.id, tenant_id, label, secret_hash, scopes, expires_at, revoked_at, schemas::text,"
        " capture_until, now() AS read_at"
        " FROM token JOIN tenant ON tenant.id = tenant_id WHERE token.id = $1",
        token_id,
    )
    if row is None:
        return None
    return TokenRecord(
        id=row["id"],
        tenant_id=row["tenant_id"],
        label=row["label"],
        secret_hash=row["secret_hash"],
        scopes=frozenset(row["scopes"]),
        expires_at=row["expires_at"],
        revoked_at=row["revoked_at"],
        schemas=row["schemas"],
        capture_until=row["capture_until"],
        read_at=row["read_at"],
    )


async def touch_tokens(connection: Connection | asyncpg.Pool, used: dict[str, datetime]) -> None:
    """Note when each token id was last used; never moves a time back."""
    await connection.execute(
        "UPDATE token SET last_used_at = greatest(last_used_at, u.at)"
        " FROM unnest($1::text[], $2::timestamptz[]) AS u (id, at) WHERE token.id = u.id",
        list(used),
        list(used.values()),
    )


def _target(token_id: str, label: str) -> dict[str, str]:
    return {"type": "Token", "id": token_id, "label": label}


async def issue_token(
    connection: Connection,
    *,
    tenant_id: UUID,
    scopes: Sequence[str] = ("scim",),
    label: str = "",
    days: int = 365,
    actor: Actor,
    correlation_id: UUID,
    action: str = "auth.token.issue",
) -> IssuedToken:
    """Make a token for a tenant and audit it.

    Raises:
        UsageError: an unknown scope, or no scope at all.
    """
    wrong = [scope for scope in scopes if scope not in SCOPES]
    if wrong or not scopes:
        raise UsageError(f"A token needs scopes out of {', '.join(SCOPES)}; not {', '.join(wrong) or 'none'}.")
    token_id = _random(_ID_LENGTH)
    body = f"{PREFIX}_{token_id}_{_random(_SECRET_LENGTH)}"
    text = body + _check(body)
    expires_at = datetime.now(UTC) + timedelta(days=days)
    secret = text.split("_")[2]
    async with connection.transaction():
        await connection.execute(
            "INSERT INTO token (id, tenant_id, label, secret_hash, scopes, expires_at) VALUES ($1, $2, $3, $4, $5, $6)",
            token_id,
            tenant_id,
            label,
            hash_secret(secret),
            list(scopes),
            expires_at,
        )
        await record(
            connection,
            [
                Event(
                    action=action,
                    phase="applied",
                    actor=actor,
                    correlation_id=correlation_id,
                    tenant_id=tenant_id,
                    targets=[_target(token_id, label)],
                    context={"scopes": list(scopes), "expires_at": expires_at.isoformat()},
                )
            ],
        )
    return IssuedToken(token_id, text, expires_at)


_TOKENS = """
SELECT token.id, tenant.name AS tenant, label, scopes, token.created_at, expires_at, revoked_at, last_used_at
  FROM token JOIN tenant ON tenant.id = token.tenant_id
"""


async def list_tokens(
    connection: Connection, tenant_id: UUID | None = None, *, limit: int | None = None
) -> list[dict[str, Any]]:
    """Return the tokens of one tenant, or of all, newest first, at most ``limit`` (all if None).

    Of each: id, tenant, label, scopes and its dates.
    """
    rows = await connection.fetch(
        f"{_TOKENS} WHERE $1::uuid IS NULL OR tenant_id = $1 ORDER BY token.created_at DESC, token.id LIMIT $2",
        tenant_id,
        limit,
    )
    return [dict(row) for row in rows]


async def describe_token(connection: Connection, token_id: str) -> dict[str, Any]:
    """Return one token as `list_tokens` does.

    Raises:
        UsageError: there is no such token.
    """
    row = await connection.fetchrow(f"{_TOKENS} WHERE token.id = $1", token_id)
    if row is None:
        raise UsageError("There is no such token.")
    return dict(row)


async def revoke_token(
    connection: Connection, token_id: str, *, actor: Actor, correlation_id: UUID, after_seconds: int = 0
) -> datetime:
    """End a token, now or after a grace period; return the moment from which it no longer works.

    Raises:
        UsageError: there is no such token.
    """
    async with connection.transaction():
        row = await connection.fetchrow(
            "UPDATE token SET revoked_at = least(coalesce(revoked_at, 'infinity'), now() + make_interval(secs => $2))"
            " WHERE id = $1 RETURNING tenant_id, label, revoked_at",
            token_id,
            after_seconds,
        )
        if row is None:
            raise UsageError(f"There is no token {token_id}. `usher token list` shows them.")
        await record(
            connection,
            [
                Event(
                    action="auth.token.revoke",
                    phase="applied",
                    actor=actor,
                    correlation_id=correlation_id,
                    tenant_id=row["tenant_id"],
                    targets=[_target(token_id, row["label"])],
                    context={"revoked_at": row["revoked_at"].isoformat()},
                )
            ],
        )
    revoked_at: datetime = row["revoked_at"]
    return revoked_at


async def rotate_token(
    connection: Connection,
    token_id: str,
    *,
    days: int,
    grace_seconds: int,
    actor: Actor,
    correlation_id: UUID,
) -> IssuedToken:
    """Issue a successor with the same tenant, label and scopes; the old one works on for ``grace_seconds``.

    Raises:
        UsageError: there is no such token.
    """
    async with connection.transaction():
        row = await connection.fetchrow("SELECT tenant_id, label, scopes FROM token WHERE id = $1", token_id)
        if row is None:
            raise UsageError(f"There is no token {token_id}. `usher token list` shows them.")
        issued = await issue_token(
            connection,
            tenant_id=row["tenant_id"],
            scopes=row["scopes"],
            label=row["label"],
            days=days,
            actor=actor,
            correlation_id=correlation_id,
            action="auth.token.rotate",
        )
        await revoke_token(
            connection, token_id, actor=actor, correlation_id=correlation_id, after_seconds=grace_seconds
        )
    return issued
