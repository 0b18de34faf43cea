"""`usher process`: which processes live, and telling a worker to take no more jobs."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli.show import Json, print_json, print_table
from cli.store import with_store
from models.audit.record import OPERATOR
from models.processes import list_processes, set_quiet

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Show the processes that live; tell a worker to take no more jobs.")

_COLUMNS = ("id", "role", "state", "host", "pid", "queues", "busy", "slots", "jobs_done", "jobs_failed", "beat_at")

ProcessId = Annotated[UUID, typer.Argument(help="Id of a worker, as `usher process ls` shows it.")]


@app.command("ls")
def list_them(as_json: Json = False) -> None:
    """List the processes of the last day: those that live first."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        return [{**asdict(one), "state": one.state} for one in await list_processes(connection)]

    rows = with_store(work)
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows, empty="No process was heard of within a day.", shorten=("host", "queues"))


def _tell(process_id: UUID, *, quiet: bool, as_json: bool) -> None:
    async def work(connection: Connection, _: Settings) -> bool:
        return await set_quiet(connection, process_id, quiet=quiet, actor=OPERATOR)

    changed = with_store(work)
    if as_json:
        print_json({"id": process_id, "quiet": quiet, "changed": changed})
        return
    what = "takes no more jobs" if quiet else "takes jobs again"
    print(f"Worker {process_id} {what} {'within five seconds' if changed else 'already'}.")


@app.command("quiet")
def quiet(process_id: ProcessId, as_json: Json = False) -> None:
    """Have a worker take no more jobs; what it has in hand it finishes."""
    _tell(process_id, quiet=True, as_json=as_json)


@app.command("unquiet")
def unquiet(process_id: ProcessId, as_json: Json = False) -> None:
    """Have a quiet worker take jobs again."""
    _tell(process_id, quiet=False, as_json=as_json)
