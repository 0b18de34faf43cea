"""What is thrown away because its time is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.deferred import KEEP_DAYS

if TYPE_CHECKING:
    from models.db import Connection


async def _delete(connection: Connection, statement: str, *values: object) -> int:
    return int((await connection.execute(statement, *values)).split()[1])


async def forget_deferred(connection: Connection) -> int:
    """Forget the outcomes of requests that were carried out days ago; return how many there were."""
    return await _delete(
        connection,
        "DELETE FROM deferred_request WHERE finished_at < now() - make_interval(days => $1)",
        KEEP_DAYS,
    )


async def forget_sessions(connection: Connection) -> int:
    """Delete sessions that ran out, and links and failures of sign-ins a day later; return how many there were."""
    return (
        await _delete(connection, "DELETE FROM operator_session WHERE expires_at <= now()")
        + await _delete(connection, "DELETE FROM sign_in_link WHERE expires_at < now() - interval '1 day'")
        + await _delete(connection, "DELETE FROM sign_in_failure WHERE failed_at < now() - interval '1 day'")
    )
