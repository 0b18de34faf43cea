"""The pool to PostgreSQL: what its connections ask the server about itself."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest.mock import patch
from uuid import UUID

import asyncpg

from models.db import Session, open_pool
from tests.support.api import store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from models.settings import Settings

_asks = asyncpg.Connection._introspect_types  # type: ignore[attr-defined]  # the stubs lack it
ONE = UUID(int=1)


async def test_sessions_are_called_by_their_pool_and_their_process(settings: Settings) -> None:
    for process_id, called in ((None, "usher tests"), (ONE, f"usher tests {ONE}")):
        pool = await open_pool(settings, name="tests", process_id=process_id, size=1)
        assert await pool.fetchval("SHOW application_name") == called
        await pool.close()


async def test_what_is_the_same_everywhere_is_asked_once_and_what_is_not_on_each_connection(settings: Settings) -> None:
    async with store(settings) as connection:
        await connection.execute("CREATE TYPE mood AS ENUM ('glad', 'sad'); GRANT USAGE ON TYPE mood TO PUBLIC")
    asked: list[frozenset[int]] = []

    async def asks(session: asyncpg.Connection, oids: Iterable[int], *rest: Any) -> Any:
        asked.append(frozenset(oids))
        return await _asks(session, oids, *rest)

    with patch.object(asyncpg.Connection, "_introspect_types", asks), patch.dict(Session._own_types, clear=True):
        pool = await open_pool(settings, name="tests", size=2)
        async with pool.acquire() as first, pool.acquire() as second:
            for one in (first, second):
                assert await one.fetchval("SELECT $1::uuid[] || $2::uuid", [ONE], ONE) == [ONE, ONE]
                assert await one.fetchval("SELECT $1::smallint[]", [1]) == [1]
            assert len(asked) == len(set(asked)) == 2
            for one in (first, second):
                assert await one.fetchval("SELECT $1::mood[]", ["glad"]) == ["glad"]
            assert len(asked) == 4
        await pool.close()
