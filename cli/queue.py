"""`usher queue`: how the ledger stands, and a hand for single jobs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli.show import Json, print_json, print_table
from cli.store import with_store
from models import backlog, job_actions
from models.audit.record import OPERATOR

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings

app = typer.Typer(invoke_without_command=True, help="Show the queues; retry or cancel a job.")

_COLUMNS = ("kind", "tenant", "waiting", "running", "retry", "dead", "oldest_seconds")
_JOB_COLUMNS = ("id", "kind", "tenant", "state", "attempts", "staged_at", "run_at", "error_code")
JobId = Annotated[UUID, typer.Argument(help="The job's id, as `usher queue ls` and the audit log show it.")]


@app.callback()
def queue(context: typer.Context, as_json: Json = False) -> None:
    """Show per kind and tenant how many jobs wait, run, retry or are dead, and how old the oldest is."""
    if context.invoked_subcommand is not None:
        return

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        return await backlog.stats(connection)

    rows = with_store(work)
    for row in rows:
        row["oldest_seconds"] = None if row["oldest_seconds"] is None else round(row["oldest_seconds"], 1)
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows, empty="Nothing waits, nothing runs, nothing is dead.", shorten=("tenant",))


@app.command("ls")
def ls(
    state: Annotated[str | None, typer.Option(help="staged, running, retry, done, dead or cancelled.")] = None,
    kind: Annotated[str | None, typer.Option(help="Such as user.create or invitation.send.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most jobs to show.")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs that have not ended well yet, oldest first, or those in one state."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        return await backlog.list_jobs(connection, state=state, kind=kind, limit=limit)

    rows = with_store(work)
    if as_json:
        print_json(rows)
    else:
        print_table(_JOB_COLUMNS, rows, empty="No such jobs.", shorten=("tenant", "error_code"))


@app.command("retry")
def retry(job_id: JobId, as_json: Json = False) -> None:
    """Make a job due at once, with all its attempts before it again."""

    async def work(connection: Connection, _: Settings) -> None:
        await job_actions.retry_now(connection, job_id, actor=OPERATOR)

    with_store(work)
    if as_json:
        print_json({"id": job_id, "state": "staged"})
    else:
        print(f"Job {job_id} is due now; a worker takes it within seconds.")


@app.command("cancel")
def cancel(job_id: JobId, as_json: Json = False) -> None:
    """End a job that is not running. A cancelled create takes the user away and frees the userName."""

    async def work(connection: Connection, _: Settings) -> None:
        await job_actions.cancel(connection, job_id, actor=OPERATOR)

    with_store(work)
    if as_json:
        print_json({"id": job_id, "state": "cancelled"})
    else:
        print(f"Job {job_id} is cancelled.")
