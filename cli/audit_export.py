"""`usher audit export`: events into a file, with a manifest beside it."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from uuid_utils.compat import uuid7

from cli.show import Json, duration, print_json
from cli.store import with_store
from models import tenants
from models.audit.export import FORMATS, WIDEST, export_events, tell, write_manifest
from models.audit.record import OPERATOR
from models.audit.search import read_search
from models.errors import UsageError

if TYPE_CHECKING:
    from uuid import UUID

    from models.db import Connection
    from models.settings import Settings

Query = Annotated[str, typer.Argument(help="A search, as `usher audit ls` takes it; everything if empty.")]
Format = Annotated[str, typer.Option("--format", help=f"One of {', '.join(FORMATS)}.")]
Out = Annotated[Path, typer.Option(help="The file; the manifest is written beside it.")]
Since = Annotated[str, typer.Option(help="How far back when the search does not say: 24h, 7d.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's events.")]


def export(
    out: Out,
    query: Query = "",
    form: Format = "jsonl",
    since: Since = "7d",
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Write the events that a search finds to a file, oldest first, with a manifest that proves them."""
    if form not in FORMATS:
        raise UsageError(f"There is no format {form}; there are {', '.join(FORMATS)}.")
    window = duration(since)
    manifest = out.with_name(f"{out.name}.manifest.json")
    unfinished = [path.with_name(f".{path.name}.{os.getpid()}") for path in (out, manifest)]

    async def work(connection: Connection, _: Settings) -> dict[str, Any]:
        tenant_id: UUID | None = (await tenants.find_tenant(connection, tenant))["id"] if tenant else None
        now = await connection.fetchval("SELECT now()")
        search = read_search(query, now=now, window=window, widest=WIDEST)
        began = time.monotonic()
        with unfinished[0].open("wb") as file, unfinished[1].open("wb") as beside:
            done = await export_events(connection, search, tenant_id=tenant_id, form=form, file=file)
            seconds = time.monotonic() - began
            await write_manifest(connection, done, text=query, search=search, form=form, file=beside)
        who: dict[str, Any] = {"tenant_id": tenant_id, "actor": OPERATOR, "correlation_id": uuid7()}
        await tell(connection, uuid7(), text=query, form=form, rows=done.rows, **who)
        return {
            "file": str(out),
            "manifest": str(manifest),
            "rows": done.rows,
            "size": done.size,
            "sha256": done.sha256,
            "seconds": round(seconds, 3),
        }

    try:
        made = with_store(work)
        for path, final in zip(unfinished, (out, manifest), strict=True):
            path.replace(final)
    except OSError as error:
        raise UsageError(f"{out} cannot be written: {error.strerror}") from error
    finally:
        for path in unfinished:
            path.unlink(missing_ok=True)
    if as_json:
        print_json(made)
    else:
        print(f"{made['rows']} events, {made['size']} bytes, SHA-256 {made['sha256']}")
        print(f"{made['file']} and {made['manifest']}")
