"""Reading audit events as lines: each the JSON of one event, written by PostgreSQL, sent by COPY.

The lines are what is hashed (`models.audit.canonical`) and what an export consists of.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from models.db import Connection

_FIELDS = """
e.id, e.xid::text AS xid, e.tenant_id,
to_char(e.occurred_at AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"') AS occurred_at,
e.action, e.phase, e.outcome, e.reason, e.severity, e.actor_type, e.actor_id, e.actor_label, e.targets, e.target_type,
e.target_id, e.correlation_id, e.job_id, e.context, e.diff, e.changed, e.schema_version, e.salt,
encode(e.personal_hash, 'hex') AS personal_hash, e.erasure_id
"""
_MOST_SECONDS = 3600.0


def lines(condition: str, tail: str = "") -> str:
    """Return the statement for the lines of some events.

    Args:
        condition: SQL over `audit_event AS e`.
        tail: what stands behind it, such as an order.
    """
    events = f"SELECT {_FIELDS} FROM audit_event AS e WHERE {condition} {tail}"  # noqa: S608  statements of ours
    return f"SELECT row_to_json(x)::text AS line FROM ({events}) AS x"  # noqa: S608  as above


async def each_line(connection: Connection, statement: str, *values: Any, work: Callable[[bytes], None]) -> None:
    """Give every line that ``statement`` finds to ``work``, while PostgreSQL goes on writing the next.

    Raises:
        asyncpg.PostgresError: the store refused, or was too slow.
    """

    def split(data: bytes) -> None:
        for text in data[:-1].split(b"\n"):
            work(text)

    await each_block(connection, statement, *values, work=split)


async def each_block(connection: Connection, statement: str, *values: Any, work: Callable[[bytes], None]) -> None:
    """Give the lines to ``work`` as they come: several whole ones at a time, each ending with a line feed.

    Raises:
        asyncpg.PostgresError: the store refused, or was too slow.
    """
    rest = b""

    async def take(data: bytes) -> None:  # the loop has its turn before each, while it is waited for
        nonlocal rest
        block, feed, rest = (rest + data).rpartition(b"\n")
        if feed:
            # JSON has no raw control character, so a backslash is all that COPY escapes.
            work(block.replace(b"\\\\", b"\\") + feed)

    await connection.copy_from_query(statement, *values, output=take, timeout=_MOST_SECONDS)
