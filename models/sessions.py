"""Sessions of signed-in browsers, known by the SHA-256 of a random value that only the browser has."""

from __future__ import annotations

import hashlib
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING

from models.operators import Operator, read_operator

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

    import asyncpg

    from models.db import Connection

IDLE_HOURS = 12
"""How long a session lives without a request."""
LONGEST_DAYS = 7
"""How long it lives at most, however much it is used."""
_ROLL_SECONDS = 60  # a session's end is moved at most this often


@dataclass(frozen=True, slots=True)
class Session:
    """One signed-in browser."""

    id_hash: bytes
    operator: Operator
    created_at: datetime
    seen_at: datetime
    expires_at: datetime


def hash_value(value: str) -> bytes:
    """Return what the store keeps of a secret that holds 256 bits."""
    return hashlib.sha256(value.encode(errors="replace")).digest()


_EXPIRY = f"least(now() + interval '{IDLE_HOURS} hours', {{}} + interval '{LONGEST_DAYS} days')"
_SESSION = f"""
SELECT id_hash, operator_session.created_at AS began_at, seen_at, expires_at, operator.*,
       seen_at < now() - interval '{_ROLL_SECONDS} seconds' AS stale
  FROM operator_session JOIN operator ON operator.id = operator_id
"""  # noqa: S608  constants only
_FIND = f"{_SESSION} WHERE id_hash = $1 AND expires_at > now() AND disabled_at IS NULL"
_ROLL = f"""
UPDATE operator_session SET seen_at = now(), expires_at = {_EXPIRY.format("created_at")}
 WHERE id_hash = $1
"""  # noqa: S608  constants only


def _read(row: asyncpg.Record) -> Session:
    return Session(row["id_hash"], read_operator(row), row["began_at"], row["seen_at"], row["expires_at"])


async def begin_session(connection: Connection, operator_id: UUID) -> str:
    """Sign a browser in and return the value of its cookie; sessions that are over go.

    Args:
        connection: in the transaction that found the person to be who they say.
        operator_id: of a person who is not disabled.
    """
    value = secrets.token_urlsafe(32)
    await connection.execute("DELETE FROM operator_session WHERE expires_at <= now()")
    await connection.execute(
        f"INSERT INTO operator_session (id_hash, operator_id, expires_at)"  # noqa: S608  constants only
        f" VALUES ($1, $2, {_EXPIRY.format('now()')})",
        hash_value(value),
        operator_id,
    )
    await connection.execute("UPDATE operator SET last_sign_in_at = now() WHERE id = $1", operator_id)
    return value


async def find_session(connection: Connection | asyncpg.Pool, value: str, *, keep_alive: bool = True) -> Session | None:
    """Return the session of a cookie's value, or None if there is none that is good.

    Args:
        connection: a pool will do.
        value: whatever the browser sent.
        keep_alive: whether a person asked, so that the session's end moves on.
    """
    row = await connection.fetchrow(_FIND, hash_value(value))
    if row is None:
        return None
    if row["stale"] and keep_alive:
        await connection.execute(_ROLL, row["id_hash"])
    return _read(row)


async def list_sessions(connection: Connection | asyncpg.Pool, operator_id: UUID) -> list[Session]:
    """Return the living sessions of a person, the one used last first."""
    rows = await connection.fetch(
        f"{_SESSION} WHERE operator_id = $1 AND expires_at > now() AND disabled_at IS NULL ORDER BY seen_at DESC",
        operator_id,
    )
    return [_read(row) for row in rows]


async def end_session(connection: Connection | asyncpg.Pool, id_hash: bytes) -> bool:
    """Sign one browser out; return whether it was signed in."""
    status = await connection.execute("DELETE FROM operator_session WHERE id_hash = $1", id_hash)
    return bool(status == "DELETE 1")


async def end_sessions(connection: Connection | asyncpg.Pool, operator_id: UUID, *, but: bytes | None = None) -> int:
    """Sign a person out everywhere, save the session ``but``; return of how many sessions."""
    status = await connection.execute(
        "DELETE FROM operator_session WHERE operator_id = $1 AND id_hash IS DISTINCT FROM $2", operator_id, but
    )
    return int(status.split()[1])
