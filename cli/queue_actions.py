"""`usher queue retry|cancel|discard|bulk`: acting on single jobs, or on all that a search finds."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from uuid_utils.compat import uuid7

from cli.show import Json, duration, print_json, print_table
from cli.store import with_store
from models import bulk
from models.audit.record import OPERATOR
from models.errors import UsageError
from models.job_actions import ACTIONS, DUE_ALREADY, act, explain

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings

BULK_COLUMNS = ("id", "action", "query", "state", "expected", "applied", "skipped", "requested_by", "created_at")
_LOOK_SECONDS = 0.5

JobId = Annotated[UUID, typer.Argument(help="The job's id, as `usher queue ls` and the audit log show it.")]
JobIds = Annotated[list[UUID] | None, typer.Argument(help="Ids, as `usher queue ls` and the audit log show them.")]
Query = Annotated[str | None, typer.Option("--query", "-q", help="Every job that this search finds; a worker does it.")]
Yes = Annotated[bool, typer.Option("--yes", help="With --query: do it; without this it only says what it would do.")]
Wait = Annotated[bool, typer.Option("--wait", help="With --query: wait until a worker has done it.")]
Reason = Annotated[str | None, typer.Option(help="Why; the audit log keeps it.")]


def add_to(app: typer.Typer) -> None:
    """Add the commands to `usher queue`."""
    app.command("retry")(retry)
    app.command("cancel")(cancel)
    app.command("discard")(discard)
    app.command("bulk")(show_bulk)


def retry(
    job_ids: JobIds = None,
    query: Query = None,
    delay: Annotated[str | None, typer.Option(help="How long until they are due: 90s, 15m, 2h.")] = None,
    reason: Reason = None,
    yes: Yes = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Make jobs due at once, or after a delay, with all their attempts before them again."""
    seconds = duration(delay).total_seconds() if delay is not None else 0.0
    _run("retry", job_ids, query, reason, seconds, yes=yes, wait=wait, as_json=as_json)


def cancel(
    job_ids: JobIds = None,
    query: Query = None,
    reason: Reason = None,
    yes: Yes = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """End jobs that are not running. A cancelled create takes the user away and frees the userName."""
    _run("cancel", job_ids, query, reason, 0.0, yes=yes, wait=wait, as_json=as_json)


def discard(
    reason: Annotated[str, typer.Option(help="Why; the audit log keeps it.")],
    job_ids: JobIds = None,
    query: Query = None,
    yes: Yes = False,
    wait: Wait = False,
    as_json: Json = False,
) -> None:
    """Give dead jobs up. A discarded create takes the user away and frees the userName."""
    _run("discard", job_ids, query, reason, 0.0, yes=yes, wait=wait, as_json=as_json)


_DONE = {
    "retry": "Job {} is due now; a worker takes it within seconds.",
    "cancel": "Job {} is cancelled.",
    "discard": "Job {} is discarded.",
}
_STATE = {"retry": "staged", "cancel": "cancelled", "discard": "cancelled"}


def _run(
    action: str,
    job_ids: list[UUID] | None,
    query: str | None,
    reason: str | None,
    delay_seconds: float,
    *,
    yes: bool,
    wait: bool,
    as_json: bool,
) -> None:
    if bool(job_ids) == (query is not None):
        raise UsageError(f"Say which jobs to {action}: ids, or --query with a search.")
    if query is not None:
        _run_query(action, query, reason, delay_seconds, yes=yes, wait=wait, as_json=as_json)
        return
    ids = list(dict.fromkeys(job_ids or []))

    async def work(connection: Connection, _: Settings) -> dict[UUID, str]:
        outcome = await act(connection, action, ids, actor=OPERATOR, reason=reason, delay_seconds=delay_seconds)
        return outcome.left

    left = with_store(work)
    refused = {job_id: why for job_id, why in left.items() if why != DUE_ALREADY}
    if len(ids) == 1 and refused:
        raise UsageError(explain(action, ids[0], refused[ids[0]]))
    _tell(action, ids, left, delay_seconds, as_json=as_json)
    if refused:
        raise typer.Exit(1)


def _tell(action: str, ids: list[UUID], left: dict[UUID, str], delay_seconds: float, *, as_json: bool) -> None:
    """Say what became of each job."""
    if as_json:
        found = {job_id: left.get(job_id, _STATE[action]) for job_id in ids}
        rows = [{"id": job_id, "state": "staged" if why == DUE_ALREADY else why} for job_id, why in found.items()]
        print_json(rows[0] if len(rows) == 1 else rows)
        return
    for job_id in ids:
        if left.get(job_id, DUE_ALREADY) != DUE_ALREADY:
            print(f"usher: {explain(action, job_id, left[job_id])}", file=sys.stderr)
        elif action == "retry" and delay_seconds:
            print(f"Job {job_id} is due in {delay_seconds:g} s.")
        else:
            print(_DONE[action].format(job_id))


def _run_query(
    action: str, query: str, reason: str | None, delay_seconds: float, *, yes: bool, wait: bool, as_json: bool
) -> None:
    async def look(connection: Connection, _: Settings) -> bulk.Preview:
        return await bulk.preview(connection, action, query)

    async def go(connection: Connection, _: Settings) -> dict[str, Any]:
        operation, _new = await bulk.start(
            connection, uuid7(), action, query, actor=OPERATOR, reason=reason, delay_seconds=delay_seconds
        )
        while wait and operation["state"] == "running":
            await asyncio.sleep(_LOOK_SECONDS)
            operation = await bulk.get(connection, operation["id"])
        return operation

    if not yes:
        found = with_store(look)
        if as_json:
            examples = [{"id": job["id"], "kind": job["kind"], "tenant": job["tenant"]} for job in found.examples]
            fields = {"action": action, "query": found.query, "count": found.count, "capped": found.capped}
            print_json({**fields, "users_vanish": found.users_vanish, "examples": examples})
            return
        many = f"{found.count - 1:,} or more jobs" if found.capped else f"{found.count:,} job{'s'[: found.count != 1]}"
        print(f"{many} would be {ACTIONS[action].done}. Nothing was changed; --yes does it.")
        if found.users_vanish:
            print("Creates are among them: their users vanish, and their userNames are free again.")
        return
    operation = with_store(go)
    if as_json:
        print_json(operation)
    elif operation["state"] == "running":
        print(f"Bulk operation {operation['id']} is under way: `usher queue bulk {operation['id']}` shows how far.")
    else:
        print(
            f"{operation['state']}: {operation['applied']:,} {ACTIONS[action].done},"
            f" {operation['skipped']:,} had moved on by themselves."
        )
    if operation["state"] == "failed":
        raise typer.Exit(1)


def show_bulk(
    operation_id: Annotated[UUID | None, typer.Argument(help="Only this one.")] = None,
    stop: Annotated[bool, typer.Option("--stop", help="Stop it after the batch that is under way.")] = False,
    as_json: Json = False,
) -> None:
    """Show bulk operations, newest first, or stop one."""
    if stop and operation_id is None:
        raise UsageError("Say which operation to stop.")

    async def work(connection: Connection, _: Settings) -> tuple[list[dict[str, Any]], bool]:
        if operation_id is None:
            return await bulk.list_operations(connection), False
        stopped = stop and await bulk.stop(connection, operation_id, actor=OPERATOR)
        return [await bulk.get(connection, operation_id)], stopped

    rows, stopped = with_store(work)
    if as_json:
        print_json(rows[0] if operation_id is not None else rows)
        return
    print_table(BULK_COLUMNS, rows, empty="No bulk operations yet.", shorten=("query",))
    if stop and not stopped:
        print("It had come to its end already; nothing was changed.")
