"""`usher schedule`: what runs again and again."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.show import Json, print_json, print_table
from cli.store import with_store
from models.audit.record import OPERATOR
from models.schedules import list_schedules, run_now

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Show what runs on a schedule and how it went; ask for a run.")

_COLUMNS = ("name", "every_seconds", "state", "started_at", "seconds", "next_at", "detail")


@app.command("ls")
def list_them(as_json: Json = False) -> None:
    """List every schedule with its last run."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        found = []
        for one in await list_schedules(connection):
            values = asdict(one)
            found.append({**values.pop("entry"), **values, "state": one.state})
        return found

    rows = with_store(work)
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows, empty="Nothing runs on a schedule.", shorten=("detail",))


@app.command("run")
def run(
    name: Annotated[str, typer.Argument(help="Name of a schedule, as `usher schedule ls` shows it.")],
    as_json: Json = False,
) -> None:
    """Ask for a run at once; a worker begins it within about a second."""

    async def work(connection: Connection, _: Settings) -> bool:
        return await run_now(connection, name, actor=OPERATOR)

    asked = with_store(work)
    if as_json:
        print_json({"name": name, "asked": asked})
    else:
        print(f"{name} runs as soon as a worker sees it." if asked else f"{name} was asked to run already.")
