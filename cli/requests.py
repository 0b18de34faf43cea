"""`usher requests`: what clients sent lately."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import orjson
import typer

from cli.show import Json, cell, print_json, print_table
from cli.store import with_store
from models.request_log import find_request, first_id, list_requests, omitted
from models.tenants import find_tenant

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings

_COLUMNS = ("occurred_at", "tenant", "method", "path", "status", "scim_type", "ms", "note")
Correlation = Annotated[UUID | None, typer.Option(help="Only the request with this correlation id.")]
_LOOK_SECONDS = 1.0
_OVERLAP = timedelta(seconds=10)  # processes write once a second, and not in one order
_MOST = 1000


def _shown(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "ms": round(row["duration_seconds"] * 1000, 1)}


def _line(row: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return orjson.dumps(row, default=str).decode()
    return "  ".join(cell(row[column]) for column in _COLUMNS)


async def _follow(connection: Connection, wanted: dict[str, Any], shown: set[UUID], as_json: bool) -> None:
    """Print what comes, oldest first, until interrupted."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        edge = first_id(datetime.now(UTC) - _OVERLAP)
        shown = {each for each in shown if each > edge}
        for row in await list_requests(connection, **wanted, after=edge, limit=_MOST):
            if row["id"] not in shown:
                shown.add(row["id"])
                print(_line(_shown(row), as_json), flush=True)


def requests(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's; without it also strangers'.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="Only what was refused or failed.")] = False,
    correlation: Correlation = None,
    route: Annotated[str | None, typer.Option(help="Only this route, such as /Users or '/Users/{id}'.")] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C with what comes.")] = False,
    bodies: Annotated[bool, typer.Option("--bodies", help="With captured bodies; only as JSON.")] = False,
    limit: Annotated[int, typer.Option(min=1, max=_MOST, help="Most requests to show.")] = 50,
    as_json: Json = False,
) -> None:
    """List what clients sent lately, newest first: refusals and tolerated deviations in words, nobody's data."""

    async def work(connection: Connection, _: Settings) -> tuple[list[dict[str, Any]], int]:
        tenant_id = (await find_tenant(connection, tenant))["id"] if tenant else None
        wanted: dict[str, Any] = {
            "tenant_id": tenant_id,
            "failed": failed,
            "correlation_id": correlation,
            "route": route,
        }
        rows = await list_requests(connection, **wanted, limit=limit)
        if follow:
            for row in reversed(rows):
                print(_line(_shown(row), as_json), flush=True)
            await _follow(connection, wanted, {row["id"] for row in rows}, as_json)
        if bodies:
            rows = [await find_request(connection, row["id"]) or row for row in rows]
        return rows, await omitted(connection, tenant_id)

    try:
        rows, left_out = with_store(work)
    except KeyboardInterrupt:
        return
    if as_json or bodies:
        print_json([_shown(row) for row in rows])
        return
    print_table(_COLUMNS, map(_shown, rows), empty="No such requests in the last days.", shorten=("note",))
    if left_out:
        print(f"{left_out} further requests of the last hour were counted, but have no row.")
