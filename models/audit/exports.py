"""Exports that a page asked for: staged, written by a worker, fetched by a link until it expires."""

from __future__ import annotations

import hmac
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Any, Final

from uuid_utils.compat import uuid7

from models.audit.export import FORMATS, WIDEST
from models.audit.search import read_search
from models.errors import UsageError

if TYPE_CHECKING:
    from uuid import UUID

    from models.audit.export import Exported
    from models.audit.record import Actor
    from models.db import Connection

LINK_LIFE: Final = timedelta(hours=1)
LOST_SECONDS: Final = 60
"""After this long without a sign of its worker, another one begins anew."""
_COLUMNS = (
    "id, tenant_id, query, format, state, from_at, to_at, rows, size, path, error_code, requested_by, correlation_id,"
    " created_at, beat_at, finished_at, expires_at"
)
_CLAIM = f"""
UPDATE audit_export SET state = 'running', beat_at = now(), rows = 0, size = 0
 WHERE id = (SELECT id FROM audit_export
              WHERE state = 'staged' OR (state = 'running' AND beat_at < now() - make_interval(secs => {LOST_SECONDS}))
              ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING {_COLUMNS}
"""  # noqa: S608  constants


async def ask_export(
    connection: Connection, *, text: str, form: str, tenant_id: UUID | None, actor: Actor, correlation_id: UUID
) -> UUID:
    """Stage an export of what a search finds now; return its id.

    Raises:
        UsageError: there is no such format.
        InvalidQueryError: the search cannot be read.
    """
    if form not in FORMATS:
        raise UsageError(f"There is no format {form}; there are {', '.join(FORMATS)}.")
    now = await connection.fetchval("SELECT now()")
    search = read_search(text, now=now, widest=WIDEST)
    export_id: UUID = uuid7()
    await connection.execute(
        "INSERT INTO audit_export (id, tenant_id, query, format, from_at, to_at, requested_by, correlation_id)"
        " VALUES ($1, $2, $3, $4, $5, $6, $7, $8)",
        export_id,
        tenant_id,
        text,
        form,
        search.since,
        now,
        actor.label or actor.id or actor.type,
        correlation_id,
    )
    return export_id


async def claim_export(connection: Connection) -> dict[str, Any] | None:
    """Take the oldest export that waits, or whose worker is gone."""
    rows = await connection.fetch(_CLAIM)
    return dict(rows[0]) if rows else None


async def beat(connection: Connection, export_id: UUID, done: Exported) -> None:
    """Say how far an export is."""
    await connection.execute(
        "UPDATE audit_export SET beat_at = now(), rows = $2, size = $3 WHERE id = $1", export_id, done.rows, done.size
    )


async def finish_export(connection: Connection, export_id: UUID, done: Exported, path: str) -> None:
    """Say that an export can be fetched."""
    await connection.execute(
        "UPDATE audit_export SET state = 'done', rows = $2, size = $3, path = $4, finished_at = now(),"
        " expires_at = now() + $5::interval WHERE id = $1",
        export_id,
        done.rows,
        done.size,
        path,
        LINK_LIFE,
    )


async def fail_export(connection: Connection, export_id: UUID, code: str) -> None:
    """Say that an export came to nothing, with a bounded code."""
    await connection.execute(
        "UPDATE audit_export SET state = 'failed', error_code = $2, finished_at = now() WHERE id = $1", export_id, code
    )


async def expire_exports(connection: Connection) -> list[str]:
    """End the links whose time is over; return the files that can go."""
    rows = await connection.fetch(
        "UPDATE audit_export SET state = 'expired' WHERE state = 'done' AND expires_at <= now() RETURNING path"
    )
    return [row["path"] for row in rows if row["path"]]


async def list_exports(connection: Connection, limit: int = 50) -> list[dict[str, Any]]:
    """Return the newest exports, newest first."""
    rows = await connection.fetch(f"SELECT {_COLUMNS} FROM audit_export ORDER BY id DESC LIMIT $1", limit)  # noqa: S608  constants
    return [dict(row) for row in rows]


async def find_export(connection: Connection, export_id: UUID) -> dict[str, Any] | None:
    """Return one export, with ``open`` telling whether its link is still good."""
    row = await connection.fetchrow(
        f"SELECT {_COLUMNS}, state = 'done' AND expires_at > now() AS open FROM audit_export WHERE id = $1",  # noqa: S608  constants
        export_id,
    )
    return dict(row) if row else None


def link_token(secret: bytes, export: dict[str, Any]) -> str:
    """Return the secret part of the link to an export that is done: another one for each time it is written."""
    said = f"audit export {export['id']} {export['expires_at']}"
    return hmac.new(secret, said.encode(), sha256).hexdigest()
