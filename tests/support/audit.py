"""Audit events for tests: written as the application writes them, sealed, and tampered with as nobody should."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson
from uuid_utils.compat import uuid7

from models.audit.record import Actor, Event, record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from uuid import UUID

    from models.db import Connection


async def write_events(
    connection: Connection, tenant_id: UUID | None, count: int, *, together: int = 1, user: UUID | None = None
) -> list[UUID]:
    """Write events about users, ``together`` of them in each transaction; return the users' ids."""
    users = [user or uuid7() for _ in range(count)]
    for start in range(0, count, together):
        await record(
            connection,
            [
                Event(
                    action="scim.user.create",
                    phase="applied",
                    actor=Actor("token", id="abc", label="Entra"),
                    correlation_id=uuid7(),
                    tenant_id=tenant_id,
                    reason="seen",
                    targets=[{"type": "User", "id": str(one), "label": f"u{one}@example.com", "external_id": "e-1"}],
                    job_id=uuid7(),
                    context={"method": "POST", "route": "/Users", "ip": "192.0.2.7"},
                    diff=[{"op": "add", "path": "userName", "after": f"u{one}@example.com"}],
                )
                for one in users[start : start + together]
            ],
        )
    return users


@asynccontextmanager
async def superuser(url: str) -> AsyncIterator[asyncpg.Connection]:
    """Connect as the owner of the whole server, who can switch the triggers off."""
    connection = await asyncpg.connect(url)
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=_text, decoder=orjson.loads)
    await connection.execute("SET session_replication_role = replica")  # no trigger fires
    try:
        yield connection
    finally:
        await connection.close()


def _text(value: Any) -> str:
    return orjson.dumps(value).decode()


async def everything_of(url: str, table: str, condition: str) -> str:
    """Return rows of a table as text, all columns of them."""
    async with superuser(url) as connection:
        rows = await connection.fetch(f"SELECT t::text AS row FROM {table} AS t WHERE {condition}")  # noqa: S608  tests' own
    return "\n".join(row["row"] for row in rows)
