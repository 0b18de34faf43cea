"""`usher cycle`: how far the cycles are that Entra is running."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.show import Json, print_json, print_table
from cli.store import with_store
from models.cycle import list_cycles
from models.tenants import find_tenant

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings

_COLUMNS = ("tenant", "state", "began_at", "accepted", "applied", "invited", "inviting", "dead", "seconds_left")


def cycle(
    tenant: Annotated[str | None, typer.Argument(help="Short name of a tenant; its latest cycle, however old.")] = None,
    as_json: Json = False,
) -> None:
    """Show how far cycles are: users accepted, applied and invited, and when what is accepted will be done."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        if tenant is not None:
            await find_tenant(connection, tenant)
        return [
            {**asdict(one), "waiting": one.waiting, "state": one.state, "seconds_left": one.seconds_left}
            for one in await list_cycles(connection, tenant)
        ]

    rows = with_store(work)
    if as_json:
        print_json(rows)
        return
    for row in rows:
        row["seconds_left"] = None if row["seconds_left"] is None else round(row["seconds_left"])
    print_table(_COLUMNS, rows, empty="No cycle is going on, and nothing waits.")
