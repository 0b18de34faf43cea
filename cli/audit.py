"""`usher audit`: what happened, newest first."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cli.show import Json, duration, print_json, print_table
from cli.store import with_store
from models import tenants
from models.audit.query import list_events

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings

_COLUMNS = ("occurred_at", "action", "phase", "reason", "actor", "target", "correlation_id")


def audit(
    since: Annotated[str, typer.Option(help="How far back: 90s, 15m, 24h, 7d.")] = "24h",
    action: Annotated[str | None, typer.Option(help="An action, or several as in 'scim.user.*'.")] = None,
    target: Annotated[str | None, typer.Option(help="Id, userName, externalId or name of what was acted on.")] = None,
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's events.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="Most events to show.")] = 100,
    as_json: Json = False,
) -> None:
    """List audit events, newest first; --json has them whole, with every change."""
    back = duration(since)

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        found = await tenants.find_tenant(connection, tenant) if tenant else None
        return await list_events(
            connection,
            since=back,
            tenant_id=found["id"] if found else None,
            action=action,
            target=target,
            limit=limit,
        )

    events = with_store(work)
    if as_json:
        print_json(events)
        return
    for event in events:
        first = event["targets"][0] if event["targets"] else {}
        event["target"] = first.get("label") or first.get("id")
        event["actor"] = " ".join(filter(None, (event["actor_type"], event["actor_label"] or event["actor_id"])))
    print_table(_COLUMNS, events, empty=f"No such events in the last {since}.", shorten=("reason", "actor", "target"))
