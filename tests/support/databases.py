"""Databases for tests: copies of one migrated template, used again once they are as the template is.

A copy costs PostgreSQL about a fifth of a second to make, to get to know and to drop; emptying it costs a tenth of
that. Whatever cannot be told to be as new is dropped.
"""

from __future__ import annotations

import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

import asyncpg

from models.migrations import run

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

_MOST_PAGES = 1000
"""Of all tables together: what was deleted lies there still, and would slow down who comes after."""
_END_MILLISECONDS = 5000

# Statistics count for the tables alone: autovacuum looks at the catalogues whenever it likes, in the template too.
# A row that was there when the template was made has a transaction id of that time; every other one is newer. So it is
# with the catalogues, too: whatever makes or alters an object leaves a newer row there, or one fewer.
_CATALOGUES = (
    *("pg_attrdef", "pg_attribute", "pg_class", "pg_constraint", "pg_default_acl", "pg_event_trigger", "pg_extension"),
    *("pg_index", "pg_namespace", "pg_policy", "pg_proc", "pg_rewrite", "pg_trigger", "pg_type"),
)
_SHAPE = ", ".join(
    f"(SELECT concat(count(*), ' ', count(*) FILTER (WHERE xmin::text::bigint > $1)) FROM {catalogue})"  # noqa: S608  constants
    for catalogue in _CATALOGUES
)
_STATE = f"""
SELECT {_SHAPE}, (SELECT count(*) FROM pg_statistic JOIN pg_class AS c ON c.oid = starelid
         WHERE relnamespace = 'public'::regnamespace),
       (SELECT count(*) FROM pg_db_role_setting JOIN pg_database AS d ON d.oid = setdatabase
         WHERE datname = current_database())
"""  # noqa: S608  constants
_END = """
SELECT bool_and(pg_terminate_backend(pid, $1)) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'
"""
_TABLES = """
SELECT oid::regclass::text AS name, pg_relation_size(oid) / 8192 AS pages FROM pg_class
 WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND pg_relation_size(oid) > 0 ORDER BY relname
"""


@dataclass(slots=True)
class Databases:
    """Copies of one template on one server."""

    admin_url: str
    """Of a database of the server that is not Usher's own."""
    template: str
    again: bool = True
    """Whether a copy is used again when it is as new."""
    _newest: int = 0
    """Transaction that nothing in the template is newer than."""
    _state: tuple[object, ...] = ()
    _rows: int = 0
    _spare: list[str] = field(default_factory=list)

    async def make_template(self) -> None:
        """Make and migrate the template."""
        await execute(self.admin_url, f'CREATE DATABASE "{self.template}"')
        url = with_path(self.admin_url, self.template)
        await run.upgrade(url)
        connection = await asyncpg.connect(url)
        try:
            self._newest = await connection.fetchval("SELECT pg_current_xact_id()::text::bigint")
            self._state = tuple(await connection.fetchrow(_STATE, self._newest) or ())
            self._rows = await _count(connection, await connection.fetch(_TABLES))
        finally:
            await connection.close()

    @asynccontextmanager
    async def copy(self) -> AsyncIterator[str]:
        """Give the URL of a database that is as the template is; afterwards its sessions are ended."""
        if self._spare:
            name = self._spare.pop()
        else:
            name = f"usher_test_{uuid.uuid4().hex[:12]}"
            await execute(self.admin_url, f'CREATE DATABASE "{name}" TEMPLATE "{self.template}"')
        url = with_path(self.admin_url, name)
        try:
            yield url
        finally:
            if self.again and await self._is_as_new(url):
                self._spare.append(name)
            else:
                await drop_database(self.admin_url, name)

    async def _is_as_new(self, url: str) -> bool:
        """Throw away what was written to a copy, and tell whether it is as the template is."""
        try:
            connection = await asyncpg.connect(url)
            try:
                if await connection.fetchval(_END, _END_MILLISECONDS) is False:
                    return False
                if tuple(await connection.fetchrow(_STATE, self._newest) or ()) != self._state:
                    return False
                return await self._empty(connection) == self._rows
            finally:
                await connection.close()
        except (asyncpg.PostgresError, OSError):  # the test dropped it, or its login may not do all of this
            return False

    async def _empty(self, connection: asyncpg.Connection) -> int | None:
        """Delete all newer rows and return how many others there are; None if there is too much."""
        tables = await connection.fetch(_TABLES)
        if sum(table["pages"] for table in tables) > _MOST_PAGES:
            return None
        async with connection.transaction():
            await connection.execute("SET LOCAL session_replication_role = replica")  # triggers refuse some of it
            await connection.execute(
                ";".join(f"DELETE FROM {table['name']} WHERE xmin::text::bigint > {self._newest}" for table in tables)  # noqa: S608  of the catalogue
            )
            return await _count(connection, tables)

    async def drop_spare(self) -> None:
        """Drop the copies that are kept."""
        while self._spare:
            await drop_database(self.admin_url, self._spare.pop())

    async def drop(self) -> None:
        """Drop the copies that are kept, and the template."""
        await self.drop_spare()
        await drop_database(self.admin_url, self.template)


async def _count(connection: asyncpg.Connection, tables: Sequence[asyncpg.Record]) -> int:
    parts = [f"(SELECT count(*) FROM {table['name']})" for table in tables]  # noqa: S608  of the catalogue
    rows: int = await connection.fetchval(f"SELECT {' + '.join(parts) or '0'}")
    return rows


async def drop_database(admin_url: str, name: str) -> None:
    """Drop a database, ending the sessions that are still on it."""
    await execute(admin_url, f'DROP DATABASE IF EXISTS "{name}" WITH (FORCE)')


async def execute(url: str, statement: str) -> None:
    """Run one statement on a connection of its own."""
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


def with_path(url: str, path: str) -> str:
    """Return the URL of another database on the same server."""
    return urlunsplit(urlsplit(url)._replace(path=f"/{path}"))
