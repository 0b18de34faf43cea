"""`usher audit`: what happened, asked in the language of `models.audit.search`."""

from __future__ import annotations

import asyncio
import csv
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import orjson
import typer
from typer.core import TyperGroup

from cli.audit_proof import mount
from cli.audit_stream import app as stream_app
from cli.show import Json, cell, duration, print_json, print_table
from cli.store import with_store
from models import tenants
from models.audit.grammar import quote, read_terms
from models.audit.query import MOST_EVENTS, Follower, find_event, search_events
from models.audit.spreadsheet import HEADS, row
from models.errors import InvalidQueryError, UsageError, UsherError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from models.db import Connection
    from models.settings import Settings

_COLUMNS = ("occurred_at", "action", "phase", "reason", "actor", "target", "correlation_id")
_SINCE = "24h"
_LOOK_SECONDS = 1.0

Query = Annotated[str, typer.Argument(help="Such as 'action:scim.user.* outcome:failure'; docs/audit.md has it all.")]
Since = Annotated[str | None, typer.Option(help="How far back: 90s, 15m, 24h (the default), 7d.")]
ActionName = Annotated[str | None, typer.Option(help="An action, or several as in 'scim.user.*'.")]
Target = Annotated[str | None, typer.Option(help="Id, userName, externalId or name of what was acted on.")]
Tenant = Annotated[str | None, typer.Option(help="Only this tenant's events.")]
Limit = Annotated[int, typer.Option(min=1, max=100_000, help="Most events to show.")]
EventId = Annotated[UUID, typer.Argument(help="The event's id, as --json and the pages show it.")]
Csv = Annotated[bool, typer.Option("--csv", help="Print CSV, for spreadsheets.")]


@contextmanager
def _refusing(text: str = "") -> Iterator[None]:
    """Make every refusal end with status 1; 2 is what `usher audit verify` says of tampering, and nothing else."""
    try:
        yield
    except InvalidQueryError as error:
        place = "" if error.position is None else f"\n  {cell(text)}\n  {' ' * error.position}^"
        raise UsherError(error.detail + place) from error
    except UsageError as error:
        raise UsherError(error.detail) from error
    except Exception as error:
        if getattr(error, "exit_code", None) == 2 and not isinstance(error, typer.Exit):
            error.exit_code = 1  # type: ignore[attr-defined]  # what an error of typer's parser carries
        raise


class AuditGroup(TyperGroup):
    """A group whose mistakes of usage end with status 1."""

    def make_context(self, *args: Any, **options: Any) -> Any:
        """Read the group's own options."""
        with _refusing():
            return super().make_context(*args, **options)

    def invoke(self, ctx: Any) -> Any:
        """Run a command of the group."""
        with _refusing():
            return super().invoke(ctx)


app = typer.Typer(
    cls=AuditGroup, invoke_without_command=True, help="Ask the audit log: list events, follow them, show one whole."
)


@app.callback()
def audit(
    context: typer.Context,
    since: Since = None,
    action: ActionName = None,
    target: Target = None,
    tenant: Tenant = None,
    limit: Limit = 100,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """Ask the audit log: list events, follow them, show one whole. Without a command it is `usher audit ls`."""
    given = (since, action, target, tenant) != (None,) * 4 or limit != 100 or as_json or as_csv
    if context.invoked_subcommand is None:
        list_events("", since, action, target, tenant, limit, as_json, as_csv)
    elif given:
        raise UsageError(f"Options stand behind the command: usher audit {context.invoked_subcommand} …")


def _text(query: str, since: str | None, action: str | None, target: str | None) -> str:
    """Return one search for a query and the options that say the same as a qualifier."""
    parts = [query] if query.strip() else []
    if since is not None:
        duration(since)
        if any(term.name == "created" for term in read_terms(query)):
            raise UsageError("The search says created: already; leave --since out.")
        parts.append(f"created:{since}")
    if action is not None:
        parts.append(f"action:{quote(action)}" if action else 'action:""')
    if target is not None:
        parts.append(f"target:{quote(target)}")
    return " ".join(parts)


async def _tenant_id(connection: Connection, tenant: str | None) -> UUID | None:
    return (await tenants.find_tenant(connection, tenant))["id"] if tenant else None


def _list(text: str, tenant: str | None, limit: int) -> list[dict[str, Any]]:
    async def work(connection: Connection, settings: Settings) -> list[dict[str, Any]]:
        tenant_id = await _tenant_id(connection, tenant)
        events: list[dict[str, Any]] = []
        cursor = None
        while True:
            page = await search_events(
                connection,
                text,
                tenant_id=tenant_id,
                secret=settings.secret_key.get_secret_value().encode(),
                cursor=cursor,
                limit=min(limit - len(events), MOST_EVENTS),
                window=duration(_SINCE),
            )
            events += page.events
            cursor = page.next
            if cursor is None or len(events) >= limit:
                return events

    with _refusing(text):
        return with_store(work)


@app.command("ls")
def list_events(
    query: Query = "",
    since: Since = None,
    action: ActionName = None,
    target: Target = None,
    tenant: Tenant = None,
    limit: Limit = 100,
    as_json: Json = False,
    as_csv: Csv = False,
) -> None:
    """List the events that a search finds, newest first; --json has them whole, with every change."""
    if as_json and as_csv:
        raise UsageError("Either --json or --csv.")
    with _refusing(query):
        text = _text(query, since, action, target)
    events = _list(text, tenant, limit)
    if as_json:
        print_json(events)
    elif as_csv:
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow(HEADS)
        writer.writerows(map(row, events))
    else:
        bounded = since or (None if "created:" in text.lower() or target else _SINCE)
        empty = f"No such events in the last {bounded}." if bounded else "No such events."
        print_table(_COLUMNS, map(_in_table, events), empty=empty, shorten=("reason", "actor", "target"))


def _in_table(event: dict[str, Any]) -> dict[str, Any]:
    first = event["targets"][0] if event["targets"] else {}
    actor = " ".join(filter(None, (event["actor_type"], event["actor_label"] or event["actor_id"])))
    return {**event, "target": first.get("label") or first.get("id"), "actor": actor}


def _line(event: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return orjson.dumps(event, default=str).decode()
    shown = _in_table(event)
    return "  ".join(cell(shown[column]) for column in _COLUMNS)


@app.command("tail")
def tail(
    query: Query = "",
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until Ctrl-C with what comes to be.")] = False,
    lines: Annotated[int, typer.Option("--lines", "-n", min=0, max=MOST_EVENTS, help="How many of the last.")] = 10,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Show the last events that a search finds, oldest first, one a line; with -f also those to come."""

    async def work(connection: Connection, settings: Settings) -> None:
        tenant_id = await _tenant_id(connection, tenant)
        follower = Follower(query, tenant_id=tenant_id)
        await follower.look(connection)
        secret = settings.secret_key.get_secret_value().encode()
        page = await search_events(connection, query, tenant_id=tenant_id, secret=secret, limit=max(lines, 1))
        shown = page.events[:lines]
        known = {event["id"] for event in page.events}
        for event in reversed(shown):
            print(_line(event, as_json), flush=True)
        while follow:
            await asyncio.sleep(_LOOK_SECONDS)
            for event in await follower.look(connection):
                # What came to be between the first look and the list has been shown.
                if event["id"] not in known:
                    print(_line(event, as_json), flush=True)

    try:
        with _refusing(query):
            with_store(work)
    except KeyboardInterrupt:
        return


@app.command("show")
def show(
    event_id: EventId,
    tenant: Tenant = None,
    as_json: Json = False,
) -> None:
    """Show one event whole, with what was before and after."""

    async def work(connection: Connection, _: Settings) -> dict[str, Any]:
        tenant_id = await _tenant_id(connection, tenant)
        found = await find_event(connection, event_id, tenant_id=tenant_id)
        if found is None:
            raise UsherError(f"There is no event {event_id}.")
        return found

    with _refusing():
        event = with_store(work)
    if as_json:
        print_json(event)
        return
    width = max(map(len, event))
    for name, value in event.items():
        if name not in ("diff", "changed", "targets", "context"):
            print(f"{name.replace('_', ' '):<{width}}  {cell(value)}")
    for target in event["targets"]:
        print(f"{'target':<{width}}  {' '.join(cell(value) for value in target.values())}")
    for name, value in (event["context"] or {}).items():
        print(f"{'context ' + name:<{width}}  {cell(value)}")
    if event["diff"]:
        print()
        changes = [
            {
                "change": item["op"],
                "path": item["path"],
                "before": _value(item, "before"),
                "after": _value(item, "after"),
            }
            for item in event["diff"]
        ]
        print_table(("change", "path", "before", "after"), changes, empty="", shorten=("before", "after"))


def _value(change: dict[str, Any], side: str) -> str | None:
    if side not in change:
        return None
    value = change[side]
    return value if isinstance(value, str) else orjson.dumps(value).decode()


mount(app)
app.add_typer(stream_app, name="stream")
