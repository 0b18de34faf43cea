"""Signing in with a password, and what slows down guessing it.

Failures are counted by the operator (or by whatever was typed, if that is nobody) and by the address they come from,
for an hour. Beyond a few each further try has to wait, twice as long each time but never more than a minute: nobody
is ever locked out, and one who guesses gets some thousand tries a day. Names and addresses are kept as keyed hashes.
"""

from __future__ import annotations

import hmac
import ipaddress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from models.audit.record import ANONYMOUS, Event, record
from models.operators import Operator, read_operator, target
from models.passwords import hash_password, verify_password
from models.sessions import begin_session

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    import asyncpg

    from models.db import Connection

FREE_BY_NAME = 5
"""Failures by name that cost nothing."""
FREE_BY_ADDRESS = 20
"""Failures by address that cost nothing; many people may share one."""
LONGEST_WAIT_SECONDS = 60.0
_REMEMBERED = "interval '1 hour'"


@dataclass(frozen=True, slots=True)
class Refused:
    """Nobody was signed in."""

    wait_seconds: float = 0.0
    """How long until the next try counts; 0 when name or password were wrong."""


def wait_seconds(failures: int, free: int) -> float:
    """Return how long to wait after the last of ``failures`` when the first ``free`` cost nothing."""
    if failures < free:
        return 0.0
    return min(2.0 ** min(failures - free, 30), LONGEST_WAIT_SECONDS)


def failure_key(secret_key: str, what: str, text: str) -> bytes:
    """Return what stands for a name or an address in the store."""
    return hmac.digest(secret_key.encode(), f"sign-in:{what}:{text}".encode(errors="replace"), "sha256")


def peer_key(address: str | None) -> str:
    """Return what counts as one address: of IPv6 the network, because one house has more than it can use up."""
    try:
        parsed = ipaddress.ip_address(address or "")
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network((parsed, 64), strict=False)) if parsed.version == 6 else str(parsed)


async def reserve_try(connection: Connection, limits: Mapping[bytes, int]) -> tuple[list[UUID], float]:
    """Count a try as failed before it is judged, so that many at once are not judged as one.

    Args:
        connection: outside a transaction.
        limits: by key, how many failures cost nothing.

    Returns:
        The ids of the failures, to be taken back with `forget`; and the seconds to wait, in which case there are none.
    """
    async with connection.transaction():
        for key in sorted(limits):
            await connection.execute("SELECT pg_advisory_xact_lock($1)", int.from_bytes(key[:8], "big", signed=True))
        await connection.execute(
            f"DELETE FROM sign_in_failure WHERE key = ANY ($1) AND failed_at < now() - {_REMEMBERED}",  # noqa: S608
            list(limits),
        )
        rows = await connection.fetch(
            "SELECT key, count(*) AS failures, extract(epoch FROM clock_timestamp() - max(failed_at))::float AS since"
            " FROM sign_in_failure WHERE key = ANY ($1) GROUP BY key",
            list(limits),
        )
        wait = max((wait_seconds(row["failures"], limits[row["key"]]) - row["since"] for row in rows), default=0.0)
        if wait > 0:
            return [], wait
        ids = [uuid7() for _ in limits]
        await connection.execute(
            # The clock and not the transaction's beginning: it may have waited for others.
            "INSERT INTO sign_in_failure (id, key, failed_at)"
            " SELECT id, key, clock_timestamp() FROM unnest($1::uuid[], $2::bytea[]) AS f (id, key)",
            ids,
            list(limits),
        )
    return ids, 0.0


async def forget(connection: Connection, ids: list[UUID], name_key: bytes | None = None) -> None:
    """Take back failures that were none, and with ``name_key`` all of that name; the old ones of everybody go."""
    await connection.execute(
        f"DELETE FROM sign_in_failure WHERE id = ANY ($1) OR key = $2 OR failed_at < now() - {_REMEMBERED}",  # noqa: S608  constants only
        ids,
        name_key,
    )


async def sign_in(
    pool: asyncpg.Pool, *, word: str, password: str, address: str | None, secret_key: str, correlation_id: UUID
) -> tuple[Operator, str] | Refused:
    """Sign in with a name or e-mail address and a password.

    Args:
        pool: a connection is not held while the password is checked.
        word: the name or address, as typed.
        password: as typed.
        address: where the request came from.
        secret_key: under which names and addresses are hashed.
        correlation_id: of the audit events.

    Returns:
        Who signed in and the value of the session's cookie; or that nobody did. Whether there is such a person cannot
        be told from the answer or its time.
    """
    word = word.strip().lower()
    async with pool.acquire() as connection:
        row = await connection.fetchrow("SELECT * FROM operator WHERE name = $1 OR lower(email) = $1", word)
        name_key = failure_key(secret_key, "name", str(row["id"]) if row else word)
        peer = failure_key(secret_key, "address", peer_key(address))
        ids, wait = await reserve_try(connection, {name_key: FREE_BY_NAME, peer: FREE_BY_ADDRESS})
    if wait:
        return Refused(wait)
    right, stale = await verify_password(row["password_hash"] if row else None, password)
    rehashed = await hash_password(password) if stale else None
    async with pool.acquire() as connection, connection.transaction():
        # Asked once more: the person may have been disabled, or their password changed, while this one was checked.
        found = await connection.fetchrow(
            "SELECT * FROM operator WHERE id = $1 AND password_hash = $2 AND disabled_at IS NULL FOR UPDATE",
            row["id"] if row else uuid7(),
            row["password_hash"] if row else "",
        )
        context = {"peer": address, "method": "password"}
        if not right or not found:
            event = Event(
                action="auth.session.deny",
                phase="denied",
                actor=ANONYMOUS,
                correlation_id=correlation_id,
                reason="disabled" if right else "wrong_password" if row else "unknown_name",
                targets=[target(read_operator(row))] if row else [],  # what was typed may be a password
                context=context,
            )
            await record(connection, [event])
            return Refused()
        operator = read_operator(found)
        await forget(connection, ids, name_key)
        if rehashed:
            await connection.execute("UPDATE operator SET password_hash = $2 WHERE id = $1", operator.id, rehashed)
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


async def prove(pool: asyncpg.Pool, operator: Operator, password: str, *, secret_key: str) -> Refused | None:
    """Let a signed-in person show that they know their password; return None if they do. Guessing is slowed too."""
    key = failure_key(secret_key, "name", str(operator.id))
    async with pool.acquire() as connection:
        ids, wait = await reserve_try(connection, {key: FREE_BY_NAME})
        stored = await connection.fetchval("SELECT password_hash FROM operator WHERE id = $1", operator.id)
    if wait:
        return Refused(wait)
    right, _ = await verify_password(stored, password)
    if not right:
        return Refused()
    async with pool.acquire() as connection:
        await forget(connection, ids)
    return None
