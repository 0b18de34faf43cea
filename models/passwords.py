"""Operators' passwords: argon2id hashes, made and checked beside the event loop."""

from __future__ import annotations

import asyncio
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TYPE_CHECKING

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from models.audit.record import Event, record
from models.errors import UsageError
from models.operators import target
from models.sessions import end_sessions

if TYPE_CHECKING:
    from uuid import UUID

    from models.audit.record import Actor
    from models.db import Connection
    from models.operators import Operator

SHORTEST = 12
"""Characters (NIST SP 800-63B asks for length and forbids rules on what they are)."""
LONGEST = 200
_HASHER = PasswordHasher()  # argon2id with the second set of parameters that RFC 9106 §4 recommends: 64 MiB a hash
_THREADS = ThreadPoolExecutor(max_workers=2, thread_name_prefix="argon2")


@cache
def _nobody() -> str:
    """Return a hash that is checked when there is nobody to check, so that it takes as long."""
    return _HASHER.hash("-")


def _plain(password: str) -> bytes:
    """Return what is hashed: the same bytes however a keyboard composes its letters."""
    return unicodedata.normalize("NFC", password).encode(errors="replace")


def check_password(password: str, operator: Operator) -> None:
    """Refuse a new password that would be too easy to guess.

    Raises:
        UsageError: it is too short, too long, or the name or address itself.
    """
    if not SHORTEST <= len(password) <= LONGEST:
        raise UsageError(f"A password has {SHORTEST} to {LONGEST} characters; a few words are a good one.")
    if len(set(password)) < 4 or password.lower() in {operator.name, operator.email.lower()}:
        raise UsageError("That password would be guessed at once; a few words are a good one.")


async def hash_password(password: str) -> str:
    """Return an argon2id hash of ``password``."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, _HASHER.hash, _plain(password))


def _verify(stored: str | None, password: str) -> tuple[bool, bool]:
    nobody = _nobody()  # asked for somebody too: the first check of a process is slower for both
    try:
        _HASHER.verify(stored or nobody, _plain(password))
    except (VerificationError, InvalidHashError):
        return False, False
    return stored is not None, stored is not None and _HASHER.check_needs_rehash(stored)


async def verify_password(stored: str | None, password: str) -> tuple[bool, bool]:
    """Tell whether ``password`` has the hash ``stored``, and whether it should be hashed anew with today's parameters.

    Takes as long when there is no hash.
    """
    if len(password) > LONGEST:
        password = ""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, _verify, stored, password)


async def set_password(
    connection: Connection,
    operator: Operator,
    password: str,
    *,
    actor: Actor,
    correlation_id: UUID,
    keep_session: bytes | None = None,
) -> None:
    """Give a person a new password and sign them out everywhere else; open links to sign in end too.

    Args:
        connection: outside a transaction.
        operator: whose.
        password: as typed.
        actor: who does it.
        correlation_id: of the audit event.
        keep_session: ``id_hash`` of the session that goes on.

    Raises:
        UsageError: see `check_password`.
    """
    check_password(password, operator)
    hashed = await hash_password(password)
    async with connection.transaction():
        await connection.execute("UPDATE operator SET password_hash = $2 WHERE id = $1", operator.id, hashed)
        await connection.execute("DELETE FROM sign_in_link WHERE operator_id = $1", operator.id)
        await end_sessions(connection, operator.id, but=keep_session)
        await record(
            connection,
            [
                Event(
                    action="auth.operator.password",
                    phase="applied",
                    actor=actor,
                    correlation_id=correlation_id,
                    targets=[target(operator)],
                )
            ],
        )
