"""Writing the exports that pages asked for, one at a time; if a worker dies, another begins anew."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from models.audit.export import WIDEST, Exported, export_events, tell, write_manifest
from models.audit.exports import beat, claim_export, expire_exports, fail_export, finish_export
from models.audit.record import Actor
from models.audit.search import read_search
from models.db import is_unavailable

if TYPE_CHECKING:
    from models.db import Connection
    from worker.context import Context

_BEAT_SECONDS = 1.0
_PRIVATE = 0o700

_log = structlog.get_logger("exporter")


async def export_waiting(context: Context, connection: Connection) -> str:
    """Write the oldest export that waits, and delete the files of those whose links are over."""
    folder = context.settings.audit_export_dir
    if folder is None:
        return ""
    for path in await expire_exports(connection):
        await asyncio.to_thread(_delete, Path(path))
    export = await claim_export(connection)
    if export is None:
        return ""
    try:
        done = await _write(context, connection, export, folder)
    except Exception as error:
        if is_unavailable(error):
            raise
        _log.error(
            "An export failed", action="audit.export_failed", export=str(export["id"]), error=type(error).__name__
        )
        await fail_export(connection, export["id"], type(error).__name__)
        return "an export failed"
    return f"{done.rows} events exported"


def _delete(path: Path) -> None:
    for each in (path, _manifest(path)):
        each.unlink(missing_ok=True)


def _manifest(path: Path) -> Path:
    return path.with_name(f"{path.name}.manifest.json")


async def _write(context: Context, connection: Connection, export: dict[str, Any], folder: Path) -> Exported:
    await asyncio.to_thread(folder.mkdir, mode=_PRIVATE, parents=True, exist_ok=True)
    form: str = export["format"]
    path = folder / f"audit-{export['id']}.{'csv' if form == 'csv' else 'jsonl'}"
    # The range of time is that of the moment in which it was asked for.
    search = read_search(export["query"], now=export["to_at"], widest=WIDEST)
    done = Exported()
    beating = asyncio.create_task(_beat(context, export, done), name="export beat")
    try:
        with path.open("wb") as file, _manifest(path).open("wb") as beside:
            await export_events(connection, search, tenant_id=export["tenant_id"], form=form, file=file, done=done)
            await write_manifest(connection, done, text=export["query"], search=search, form=form, file=beside)
    finally:
        beating.cancel()
    async with connection.transaction():
        await finish_export(connection, export["id"], done, str(path))
        await tell(
            connection,
            export["id"],
            text=export["query"],
            form=form,
            rows=done.rows,
            tenant_id=export["tenant_id"],
            actor=Actor("operator", label=export["requested_by"]),
            correlation_id=export["correlation_id"],
        )
    return done


async def _beat(context: Context, export: dict[str, Any], done: Exported) -> None:
    while True:
        await asyncio.sleep(_BEAT_SECONDS)
        async with context.pool.acquire() as connection:
            await beat(connection, export["id"], done)
