"""`usher queue`: how the ledger stands, finding jobs, and holding queues back."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer

from cli import queue_actions, queue_top
from cli.show import Json, duration, print_json, print_table
from cli.store import with_store
from models import backlog, bulk, job_detail, pauses
from models.audit.record import OPERATOR
from models.errors import UsageError
from models.job_find import find_page, resolve
from models.job_search import QUALIFIERS, Search, Term, parse_search
from models.jobs import KINDS

if TYPE_CHECKING:
    from datetime import timedelta

    from models.db import Connection
    from models.settings import Settings

app = typer.Typer(
    invoke_without_command=True,
    help="Show the queues and find jobs; retry, cancel, discard, pause and resume them.",
)

COLUMNS = ("kind", "tenant", "waiting", "running", "retry", "dead", "oldest_seconds")
_JOB_COLUMNS = ("id", "kind", "tenant", "state", "attempts", "staged_at", "run_at", "user_name", "error_code")
_PAUSE_COLUMNS = ("kind", "tenant", "reason", "paused_by", "paused_at", "expires_at")
_OPEN = Term("state", ("staged", "running", "retry", "dead"))
_LANGUAGE = "; ".join(f"{name}: {takes}" for name, takes in QUALIFIERS.items())
After = Annotated[UUID | None, typer.Option(help="Go on behind this job.")]
Kind = Annotated[str | None, typer.Option(help="Such as user.create or invitation.send.")]
Tenant = Annotated[str | None, typer.Option(help="A tenant's short name.")]


async def read_standing(connection: Connection) -> list[dict[str, Any]]:
    """Return `models.backlog.stats` with the ages rounded."""
    rows = await backlog.stats(connection)
    for row in rows:
        row["oldest_seconds"] = None if row["oldest_seconds"] is None else round(row["oldest_seconds"], 1)
    return rows


@app.callback()
def queue(context: typer.Context, as_json: Json = False) -> None:
    """Show per kind and tenant how many jobs wait, run, retry or are dead, and how old the oldest is."""
    if context.invoked_subcommand is not None:
        return

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        return await read_standing(connection)

    rows = with_store(work)
    if as_json:
        print_json(rows)
    else:
        print_table(COLUMNS, rows, empty="Nothing waits, nothing runs, nothing is dead.", shorten=("tenant",))


@app.command("stats")
def stats(as_json: Json = False) -> None:
    """Show how the queues stand, what is paused, the dead jobs by error, and the bulk operations under way."""

    async def work(connection: Connection, _: Settings) -> dict[str, Any]:
        groups, _short = await job_detail.dead_groups(connection)
        return {
            "queues": await read_standing(connection),
            "pauses": await pauses.list_pauses(connection),
            "dead": groups,
            "bulk": [one for one in await bulk.list_operations(connection) if one["state"] == "running"],
        }

    found = with_store(work)
    if as_json:
        print_json(found)
        return
    print_table(COLUMNS, found["queues"], empty="Nothing waits, nothing runs, nothing is dead.", shorten=("tenant",))
    print()
    print_table(_PAUSE_COLUMNS, found["pauses"], empty="Nothing is paused.", shorten=("reason",))
    if found["dead"]:
        print()
        columns = ("count", "kind", "error_code", "first_at", "last_at", "query")
        print_table(columns, found["dead"], empty="", shorten=("error_code",))
    if found["bulk"]:
        print()
        print_table(queue_actions.BULK_COLUMNS, found["bulk"], empty="", shorten=("query",))


@app.command("ls")
def ls(
    search: Annotated[
        str | None, typer.Argument(help=f"Such as 'state:dead kind:invitation.send age:>1h'. Qualifiers: {_LANGUAGE}.")
    ] = None,
    state: Annotated[str | None, typer.Option(help="staged, running, retry, done, dead or cancelled.")] = None,
    kind: Kind = None,
    newest: Annotated[bool, typer.Option("--newest", help="Newest first.")] = False,
    after: After = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most jobs to show.")] = 50,
    as_json: Json = False,
) -> None:
    """List jobs that a search finds, oldest first; without a state, those that have not ended well yet.

    Only done or cancelled ones come newest first.
    """
    terms = list(parse_search(search or "").terms)
    for qualifier, value, choices in (("state", state, backlog.STATES), ("kind", kind, tuple(KINDS))):
        if value is not None:
            if value not in choices:
                raise UsageError(f"There is no {qualifier} {value}; there are {', '.join(choices)}.")
            terms.append(Term(qualifier, (value,)))
    named = {term.qualifier for term in terms}
    if not named & {"state", "id", "correlation"}:
        terms.append(_OPEN)
    wanted = Search(tuple(terms))
    ended = bool(wanted.states()) and wanted.states() <= {"done", "cancelled"}

    async def work(connection: Connection, _: Settings) -> Any:
        query = await resolve(connection, wanted)
        return await find_page(connection, query, after=after, limit=limit, newest=newest or ended)

    page = with_store(work)
    if as_json:
        print_json(page.jobs)
    else:
        print_table(_JOB_COLUMNS, page.jobs, empty="No such jobs.", shorten=("tenant", "user_name", "error_code"))
    if page.note:
        print(f"usher: {page.note}", file=sys.stderr)
    if page.after is not None and (page.note or sys.stdout.isatty()):
        print(f"usher: There may be more: --after {page.after}", file=sys.stderr)


@app.command("show")
def show(
    job_id: queue_actions.JobId,
    reveal: Annotated[
        bool, typer.Option("--reveal", help="Show what the job carries as it is; that is audited.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show one job: its life, the attempts that failed, its audit events."""

    async def work(connection: Connection, _: Settings) -> dict[str, Any]:
        found = await job_detail.read_detail(connection, job_id)
        if reveal:
            found["payload"] = await job_detail.reveal(connection, job_id, actor=OPERATOR)
        return found

    job = with_store(work)
    if as_json:
        print_json(job)
        return
    names = ("id", "kind", "queue", "tenant", "state", "user_name", "user_id", "correlation_id", "attempts", "run_at")
    print_table(("what", "value"), [{"what": name, "value": job[name]} for name in names], empty="")
    print()
    print_table(("step", "at", "waited", "note"), job["timeline"], empty="")
    if job["attempts_failed"]:
        print()
        tried = ("attempt", "ended_at", "outcome", "error_code", "error_detail", "trace")
        print_table(tried, job["attempts_failed"], empty="", shorten=("error_detail", "trace"))
    if job["events"]:
        print()
        columns = ("occurred_at", "action", "phase", "reason", "actor_label")
        print_table(columns, job["events"], empty="", shorten=("actor_label",))
    print()
    print_json(job["payload"])


@app.command("pause")
def pause(
    reason: Annotated[str, typer.Option(help="Why; others see it, and the audit log keeps it.")],
    kind: Kind = None,
    tenant: Tenant = None,
    lasting: Annotated[
        str | None, typer.Option("--for", help="How long: 30m, 4h, 2d; until resumed if left out.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Have no worker take jobs of a kind, of a tenant or of both; what is running goes on."""
    length: timedelta | None = duration(lasting) if lasting is not None else None

    async def work(connection: Connection, _: Settings) -> tuple[dict[str, Any], bool]:
        return await pauses.pause(connection, kind=kind, tenant=tenant, reason=reason, actor=OPERATOR, duration=length)

    made, new = with_store(work)
    if as_json:
        print_json({**made, "new": new})
    elif new:
        print(f"{pauses.scope(made)}: paused.")
    else:
        print(f"{pauses.scope(made)}: paused already, by {made['paused_by']}: {made['reason']}")


@app.command("resume")
def resume(kind: Kind = None, tenant: Tenant = None, as_json: Json = False) -> None:
    """End the pause of a kind, of a tenant or of both; workers go on within seconds."""
    if kind is None and tenant is None:
        raise UsageError("Say what to resume: --kind, --tenant or both, as it was paused.")

    async def work(connection: Connection, _: Settings) -> dict[str, Any]:
        held = await pauses.find_pause(connection, kind=kind, tenant=tenant)
        return (await pauses.resume(connection, held["id"], actor=OPERATOR))[0]

    ended = with_store(work)
    if as_json:
        print_json(ended)
    else:
        print(f"{pauses.scope(ended)}: resumed.")


queue_actions.add_to(app)
queue_top.add_to(app)
