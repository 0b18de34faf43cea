"""The schema that the migrations make: the same as the table classes say, and safe to migrate to in any way."""

from __future__ import annotations

import asyncio
import os
import sys
import uuid
from asyncio.subprocess import PIPE, STDOUT
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import asyncpg
import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.dialects.postgresql.base import ischema_names
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool
from sqlmodel import SQLModel

from models.audit.actions import ACTIONS
from models.audit.record import SYSTEM, Event, make_partitions, record
from models.migrations import run
from models.tables.audit import Xid8
from tests.support.databases import drop_database, with_path
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import sqlalchemy

    from models.db import Connection
    from tests.support.servers import Servers


@asynccontextmanager
async def empty_database(servers: Servers) -> AsyncIterator[str]:
    """Give the URL of a database with nothing in it, dropped afterwards."""
    name = f"usher_test_{uuid.uuid4().hex[:12]}"
    async with connected(servers.admin_url) as connection:
        await connection.execute(f'CREATE DATABASE "{name}"')
    try:
        yield with_path(servers.admin_url, name)
    finally:
        await drop_database(servers.admin_url, name)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


async def with_sqlalchemy(url: str, work: Callable[[sqlalchemy.Connection], Any]) -> Any:
    """Run ``work`` on a SQLAlchemy connection, in one transaction."""
    engine = create_async_engine(url.replace("postgresql://", "postgresql+asyncpg://", 1), poolclass=NullPool)
    try:
        async with engine.begin() as connection:
            return await connection.run_sync(work)
    finally:
        await engine.dispose()


# What a schema consists of, in PostgreSQL's own spelling. Partitions are left out: they are made as months pass.
_ANATOMY = {
    "columns": """
        SELECT c.relname || '.' || a.attname AS name,
               concat_ws(' ', format_type(a.atttypid, a.atttypmod), CASE WHEN a.attnotnull THEN 'NOT NULL' END,
                         nullif(a.attgenerated, ''), pg_get_expr(d.adbin, d.adrelid)) AS definition
          FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
          LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
           AND a.attnum > 0 AND NOT a.attisdropped
    """,
    "indexes": """
        SELECT c.relname AS name, pg_get_indexdef(c.oid) AS definition
          FROM pg_class c
         WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('i', 'I') AND NOT c.relispartition
    """,
    "constraints": """
        SELECT c.relname || '.' || k.conname AS name, pg_get_constraintdef(k.oid) AS definition
          FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
         WHERE c.relnamespace = 'public'::regnamespace AND NOT c.relispartition
    """,
    "partitioning": """
        SELECT c.relname AS name, pg_get_partkeydef(c.oid) AS definition
          FROM pg_class c WHERE c.relnamespace = 'public'::regnamespace AND c.relkind = 'p'
    """,
}


async def anatomy(url: str) -> dict[str, dict[str, str]]:
    """Return what the tables of a database consist of, by part and name."""
    async with connected(url) as connection:
        return {
            part: {
                row["name"]: row["definition"]
                for row in await connection.fetch(query)
                if not row["name"].startswith("alembic_version")
            }
            for part, query in _ANATOMY.items()
        }


async def test_the_migrations_make_what_the_table_classes_say(servers: Servers, database_url: str) -> None:
    """Both are built and compared in the server's own words: also checks, computed columns and index expressions."""
    async with empty_database(servers) as url:
        async with connected(database_url) as migrated_one, connected(url) as empty:
            for name in ("usher_fold", "usher_fold_json"):  # what the indexes of the classes call
                await empty.execute(
                    await migrated_one.fetchval("SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname = $1", name)
                )
        await with_sqlalchemy(url, SQLModel.metadata.create_all)
        from_classes = await anatomy(url)
    migrated = await anatomy(database_url)
    assert len(migrated["columns"]) > 80
    assert len(migrated["indexes"]) > 20
    for part in _ANATOMY:
        assert migrated[part] == from_classes[part], part


async def test_alembic_sees_nothing_to_migrate(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(ischema_names, "xid8", Xid8)  # a type that SQLAlchemy does not know by itself
    async with connected(database_url) as connection:
        partitions = {
            row["relname"]
            for row in await connection.fetch("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
        }
    assert "audit_event_default" in partitions

    def wanted(name: str | None, kind: str, _: Any) -> bool:
        return kind != "table" or name not in {*partitions, "alembic_version"}

    def compare(connection: sqlalchemy.Connection) -> list[Any]:
        options = {"compare_type": True, "compare_server_default": True, "include_name": wanted}
        return list(compare_metadata(MigrationContext.configure(connection, opts=options), SQLModel.metadata))

    assert await with_sqlalchemy(database_url, compare) == []


async def test_there_is_one_newest_migration() -> None:
    assert ScriptDirectory.from_config(run._config()).get_heads() == [run.head()]


async def test_an_empty_database_stands_at_no_migration(servers: Servers) -> None:
    async with empty_database(servers) as url, connected(url) as connection:
        assert await run.current(connection) is None


async def test_migrating_again_changes_nothing(servers: Servers) -> None:
    async with empty_database(servers) as url:
        await run.upgrade(url)
        before = await anatomy(url)
        async with connected(url) as connection:
            objects = await connection.fetch("SELECT oid::bigint, relname FROM pg_class ORDER BY oid")
            await run.upgrade(url)
            assert await connection.fetch("SELECT oid::bigint, relname FROM pg_class ORDER BY oid") == objects
            assert await run.current(connection) == run.head()
        assert await anatomy(url) == before


async def test_both_spellings_of_the_scheme_are_understood(servers: Servers) -> None:
    async with empty_database(servers) as url:
        await run.upgrade(url.replace("postgresql://", "postgres://", 1))
        async with connected(url) as connection:
            assert await run.current(connection) == run.head()


async def test_migrations_at_once_take_turns(servers: Servers) -> None:
    async with empty_database(servers) as url:
        environment = {
            **os.environ,
            "USHER_DATABASE_URL": url,
            "USHER_REDIS_URL": servers.redis_url,
            "USHER_SECRET_KEY": "a-secret-key-for-tests-of-enough-length",
        }
        started = [
            await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "cli.main", "migrate"), env=environment, stdout=PIPE, stderr=STDOUT
            )
            for _ in range(3)
        ]
        said = [(await process.communicate())[0].decode() for process in started]
        assert [process.returncode for process in started] == [0, 0, 0], said
        assert said == [f"The database is at migration {run.head()}.\n"] * 3
        async with connected(url) as connection:
            rows = await connection.fetch("SELECT version_num FROM alembic_version")
            assert [row["version_num"] for row in rows] == [run.head()]


async def test_a_migration_waits_for_the_one_before_it(servers: Servers) -> None:
    async with empty_database(servers) as url, connected(url) as first, connected(url) as watcher:
        async with first.transaction():
            await first.execute("SELECT pg_advisory_xact_lock($1)", run._LOCK)
            second = asyncio.create_task(run.upgrade(url))

            async def waits() -> bool:
                return bool(
                    await watcher.fetchval(
                        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
                        " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
                    )
                )

            seen: bool = await wait_until(waits, "the second migration waits for the lock")
            assert seen
            assert not second.done()
        await second
        assert await run.current(watcher) == run.head()


async def test_a_migration_that_fails_leaves_nothing(servers: Servers) -> None:
    async with empty_database(servers) as url, connected(url) as connection:
        await connection.execute("CREATE TABLE invitation (mine text)")  # in the way of the migration's own
        with pytest.raises(Exception, match="already exists"):
            await run.upgrade(url)
        assert await run.current(connection) is None
        assert await connection.fetchval("SELECT to_regclass('tenant')") is None


async def test_the_way_back_leaves_an_empty_schema(servers: Servers) -> None:
    async with empty_database(servers) as url:
        await run.upgrade(url)

        def downgrade(connection: sqlalchemy.Connection) -> None:
            config = run._config()
            config.attributes["connection"] = connection
            command.downgrade(config, "base")

        await with_sqlalchemy(url, downgrade)
        assert await anatomy(url) == {part: {} for part in _ANATOMY}
        async with connected(url) as connection:
            left = "SELECT count(*) FROM pg_proc WHERE pronamespace = 'public'::regnamespace AND proname LIKE 'usher%'"
            assert await connection.fetchval(left) == 0
        await run.upgrade(url)
        async with connected(url) as connection:
            assert await run.current(connection) == run.head()


@pytest.mark.parametrize("scheme", ["postgresql", "postgres"])
async def test_a_url_may_say_all_that_other_connections_understand(servers: Servers, scheme: str) -> None:
    async with empty_database(servers) as url:
        await run.upgrade(f"{scheme}{url.removeprefix('postgresql')}?sslmode=prefer&target_session_attrs=read-write")
        async with connected(url) as connection:
            assert await run.current(connection) == run.head()


async def test_a_database_of_its_own_owner_can_be_migrated(servers: Servers) -> None:
    """It takes no superuser where an administrator made the three roles beforehand (docs/deploy.md)."""
    owner = f"owner_{uuid.uuid4().hex[:8]}"
    async with empty_database(servers) as url, connected(servers.admin_url) as admin:
        await admin.execute(f"CREATE ROLE {owner} LOGIN PASSWORD 'of-the-owner'")
        name = url.rsplit("/", 1)[1]
        await admin.execute(f'ALTER DATABASE "{name}" OWNER TO {owner}')
        await admin.execute(f"GRANT usher_app, usher_tenant, usher_maintenance TO {owner}")
        try:
            host = url.split("@", 1)[1]
            await run.upgrade(f"postgresql://{owner}:of-the-owner@{host}")
            async with connected(url) as connection:
                assert await run.current(connection) == run.head()
        finally:
            await drop_database(servers.admin_url, name)
            await admin.execute(f"DROP OWNED BY {owner}")
            await admin.execute(f"DROP ROLE {owner}")


# --- audit_event -----------------------------------------------------------------------------------------------------


async def record_one(connection: Connection) -> uuid.UUID:
    """Record an event and return its correlation id."""
    correlation_id = uuid.uuid4()
    await record(
        connection,
        [
            Event(
                action="tenant.settings.create",
                phase="applied",
                actor=SYSTEM,
                correlation_id=correlation_id,
                targets=[{"type": "Tenant", "id": "t-1", "label": "acme"}],
            )
        ],
    )
    return correlation_id


@pytest.fixture
async def application(pool: asyncpg.Pool) -> AsyncIterator[Connection]:
    """A connection as api and worker have it."""
    async with pool.acquire() as connection:
        yield connection


CHANGES = ["UPDATE audit_event SET reason = 'other'", "DELETE FROM audit_event", "TRUNCATE audit_event"]


@pytest.mark.parametrize("change", CHANGES)
async def test_the_application_cannot_change_an_audit_event(application: Connection, change: str) -> None:
    assert await application.fetchval("SELECT current_user") == "usher_app"
    await record_one(application)
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await application.execute(change)
    assert (
        await application.fetchval(
            "SELECT count(*) FROM audit_event WHERE reason IS NULL AND action <> 'system.schema.migrate'"
        )
        == 1
    )


@pytest.mark.parametrize("change", CHANGES)
async def test_a_partition_is_no_way_round(application: Connection, change: str) -> None:
    await record_one(application)
    partition: str = await application.fetchval("SELECT tableoid::regclass::text FROM audit_event")
    assert partition == f"audit_event_{datetime.now(UTC):%Y%m}"
    with pytest.raises(asyncpg.InsufficientPrivilegeError, match="permission denied"):
        await application.execute(change.replace("audit_event", partition))


@pytest.mark.parametrize("change", CHANGES)
async def test_the_owner_is_stopped_too(database_url: str, application: Connection, change: str) -> None:
    await record_one(application)
    async with connected(database_url) as owner:
        await owner.execute("SET ROLE usher_maintenance")
        with pytest.raises(asyncpg.InsufficientPrivilegeError, match="audit events are insert-only"):
            await owner.execute(change)


async def test_the_application_cannot_make_or_drop_tables(application: Connection) -> None:
    for statement in (
        "DROP TABLE audit_event_default",
        "ALTER TABLE audit_event DISABLE TRIGGER ALL",
        "CREATE TABLE public.mine (id int)",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await application.execute(statement)


async def test_months_have_their_partitions(application: Connection) -> None:
    now = datetime.now(UTC)
    months = [(now.year + (now.month - 1 + ahead) // 12, (now.month - 1 + ahead) % 12 + 1) for ahead in range(4)]
    rows = await application.fetch(
        "SELECT c.relname, pg_get_userbyid(c.relowner) AS owner, pg_get_expr(c.relpartbound, c.oid) AS bounds"
        " FROM pg_class c JOIN pg_inherits i ON i.inhrelid = c.oid WHERE i.inhparent = 'audit_event'::regclass"
    )
    expected = {f"audit_event_{year}{month:02}" for year, month in months}
    assert {row["relname"] for row in rows} == {*expected, "audit_event_default"}
    assert {row["owner"] for row in rows} == {"usher_maintenance"}
    first = next(row["bounds"] for row in rows if row["relname"] == min(expected))
    assert f"FROM ('{months[0][0]}-{months[0][1]:02}-01 00:00:00+00')" in first


async def test_partitions_are_made_ahead_once(application: Connection) -> None:
    assert await make_partitions(application, 3) == 0
    assert await make_partitions(application, 14) == 11
    assert await make_partitions(application, 14) == 0


async def test_the_database_fills_in_what_an_event_needs(application: Connection) -> None:
    async with application.transaction():
        correlation_id = await record_one(application)
        xid = await application.fetchval("SELECT pg_current_xact_id()::text")
    row = await application.fetchrow(
        "SELECT xid::text, target_type, target_id, severity, schema_version, now() - occurred_at AS age"
        " FROM audit_event WHERE correlation_id = $1",
        correlation_id,
    )
    assert row is not None
    assert row["xid"] == xid
    assert (row["target_type"], row["target_id"]) == ("Tenant", "t-1")
    assert (row["severity"], row["schema_version"]) == (ACTIONS["tenant.settings.create"].severity, 1)
    assert 0 <= row["age"].total_seconds() < 60


async def test_an_event_goes_with_its_transaction(application: Connection) -> None:
    transaction = application.transaction()
    await transaction.start()
    await record_one(application)
    await transaction.rollback()
    assert await application.fetchval("SELECT count(*) FROM audit_event WHERE action <> 'system.schema.migrate'") == 0
