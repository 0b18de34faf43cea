"""The plans that PostgreSQL makes for the statements of a request: under the role of requests, behind its walls."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import asyncpg
import orjson

from models.db import TENANT_ROLE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator


class Recorder:
    """A pool, or a connection, that remembers the statements that are run, in a transaction that comes to nothing."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self.connection = connection
        self.statements: list[tuple[str, tuple[Any, ...]]] = []

    def __getattr__(self, name: str) -> Any:
        method = getattr(self.connection, name)

        async def run(query: str, *values: Any) -> Any:
            self.statements.append((query, values))
            return await method(query, *values)

        return run

    @asynccontextmanager
    async def acquire(self, **_: Any) -> AsyncIterator[Recorder]:
        yield self

    async def execute(self, query: str, *values: Any) -> Any:
        begins = query.startswith("BEGIN; ")
        if begins or query == "COMMIT":  # see `models.db.tenant_scope`
            return await self.connection.execute(query.removeprefix("BEGIN; ")) if begins else None
        return await self.__getattr__("execute")(query, *values)


def nodes(plan: Any) -> Iterator[dict[str, Any]]:
    """Give every node of a plan."""
    yield plan
    for child in plan.get("Plans", []):
        yield from nodes(child)


@asynccontextmanager
async def recording(url: str) -> AsyncIterator[Recorder]:
    """Lend a recorder."""
    connection = await asyncpg.connect(url)
    try:
        await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=_encode, decoder=orjson.loads)
        await connection.execute(f"SET ROLE {TENANT_ROLE}")
        async with undone(connection):
            yield Recorder(connection)
    finally:
        await connection.close()


async def plans(recorder: Recorder) -> AsyncIterator[tuple[str, dict[str, Any]]]:
    """Run the statements again and yield each with its plans: made for its values, and made for any values."""
    connection = recorder.connection
    for mode in ("force_custom_plan", "force_generic_plan"):
        for query, values in recorder.statements:
            async with undone(connection):
                # Every statement here has the tenant that it speaks for as its first parameter.
                await connection.execute(
                    f"SELECT set_config('usher.tenants', '{{{values[0]}}}', true),"
                    f" set_config('plan_cache_mode', '{mode}', true)"
                )
                [explained] = await (await connection.prepare(query)).explain(*values, analyze=True)
            yield query, explained["Plan"]


@asynccontextmanager
async def undone(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Do something, and nothing after all."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


def _encode(value: Any) -> str:
    return orjson.dumps(value).decode()
