"""Saved views: searches of the audit log that an operator keeps under a name."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from uuid_utils.compat import uuid7

from models.audit.search import read_search
from models.errors import UsageError

if TYPE_CHECKING:
    from uuid import UUID

    import asyncpg

    from models.db import Connection

MOST_VIEWS: Final = 50
"""That one operator can keep."""
_LONGEST_NAME: Final = 80  # characters


async def list_views(connection: Connection | asyncpg.Pool, operator_id: UUID) -> list[dict[str, Any]]:
    """Return an operator's views by name: `id`, `name`, `query`."""
    rows = await connection.fetch(
        "SELECT id, name, query FROM saved_view WHERE operator_id = $1 ORDER BY lower(name), name", operator_id
    )
    return [dict(row) for row in rows]


async def save_view(connection: Connection, operator_id: UUID, name: str, query: str) -> None:
    """Keep a search under a name; one that is there already is replaced.

    Raises:
        InvalidQueryError: the search cannot be read.
        UsageError: the name is empty or too long, or there are too many views.
    """
    name = " ".join(name.split())
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise UsageError(f"A view needs a name of 1 to {_LONGEST_NAME} characters.")
    read_search(query, now=datetime.now(UTC))
    async with connection.transaction():
        await connection.execute("SELECT FROM operator WHERE id = $1 FOR UPDATE", operator_id)  # one at a time
        others = await connection.fetchval(
            "SELECT count(*) FROM saved_view WHERE operator_id = $1 AND name <> $2", operator_id, name
        )
        if others >= MOST_VIEWS:
            raise UsageError(f"There are {MOST_VIEWS} views already; delete one first.")
        await connection.execute(
            "INSERT INTO saved_view (id, operator_id, name, query) VALUES ($1, $2, $3, $4)"
            " ON CONFLICT ON CONSTRAINT saved_view_name DO UPDATE SET query = excluded.query",
            uuid7(),
            operator_id,
            name,
            query,
        )


async def delete_view(connection: Connection | asyncpg.Pool, operator_id: UUID, view_id: UUID) -> None:
    """Forget a view of this operator's; another's stays what it is."""
    await connection.execute("DELETE FROM saved_view WHERE id = $1 AND operator_id = $2", view_id, operator_id)
