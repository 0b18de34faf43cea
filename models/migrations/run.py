"""Bringing a database to the newest schema, and asking how far it is.

Every process asks, few migrate: so alembic is imported where it is used.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg

from models.ids import new_id

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection as SyncConnection

    from models.db import Connection

_HERE = Path(__file__).parent
# In SQL of its own: what else writes audit events knows the newest schema only.
_MIGRATED = """
INSERT INTO audit_event (id, action, phase, outcome, severity, actor_type, targets, correlation_id, context)
VALUES (:id, :action, 'applied', 'success', 2, 'system', '[]', :id,
        jsonb_build_object('from', cast(:before AS text), 'to', cast(:after AS text)))
"""
_LOCK = 0x75736865  # any constant: two `usher migrate` at once take turns


def _config() -> Config:
    from alembic.config import Config  # noqa: PLC0415  see above

    config = Config()
    config.set_main_option("script_location", str(_HERE))
    return config


@cache
def head() -> str:
    """Return the revision that this code was written for: files are named by it, and it counts up."""
    return max(file.name.split("_", 1)[0] for file in (_HERE / "versions").glob("[0-9]*.py"))


async def upgrade(database_url: str, revision: str = "head") -> None:
    """Migrate the database at ``database_url`` (``postgresql://…``); safe to run twice and at once.

    The login must be able to create roles and tables.

    Raises:
        sqlalchemy.exc.DBAPIError: the server refused a statement.
        OSError: the server cannot be reached.
    """
    from alembic import command  # noqa: PLC0415  see above
    from alembic.runtime.migration import MigrationContext  # noqa: PLC0415  see above
    from sqlalchemy import text  # noqa: PLC0415  see above
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415  see above
    from sqlalchemy.pool import NullPool  # noqa: PLC0415  see above

    def _upgrade(connection: SyncConnection) -> None:
        connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
        config = _config()
        config.attributes["connection"] = connection
        before = MigrationContext.configure(connection).get_current_revision()
        command.upgrade(config, revision)
        after = MigrationContext.configure(connection).get_current_revision()
        if after is not None and after != before:
            said = {"action": "system.schema.migrate", "before": before or "nothing", "after": after}
            connection.execute(text(_MIGRATED), {"id": new_id(), **said})

    # asyncpg reads the URL itself, as for every other connection: SQLAlchemy does not know `sslmode` and its like.
    engine = create_async_engine(
        "postgresql+asyncpg://", poolclass=NullPool, async_creator=lambda: asyncpg.connect(database_url)
    )
    try:
        async with engine.begin() as connection:
            await connection.run_sync(_upgrade)
    finally:
        await engine.dispose()


async def current(connection: Connection) -> str | None:
    """Return the revision that the database stands at, or None before the first migration."""
    if await connection.fetchval("SELECT to_regclass('alembic_version')") is None:
        return None
    revision: str | None = await connection.fetchval("SELECT version_num FROM alembic_version")
    return revision
