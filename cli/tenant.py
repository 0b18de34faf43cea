"""`usher tenant`: the customers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from uuid_utils.compat import uuid7

from cli.show import Json, duration, print_json, print_table
from cli.store import with_store
from models import request_log, tenants
from models.audit.record import OPERATOR
from models.errors import UsageError

if TYPE_CHECKING:
    from datetime import datetime

    from models.db import Connection
    from models.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Add, list and change tenants (customers); capture what they send.")

_COLUMNS = ("name", "display_name", "users", "invitations", "invitation_delay_seconds", "sign_in_url", "created_at")
_SHORTEN = ("display_name", "sign_in_url")

DisplayName = Annotated[str | None, typer.Option(help="Name that invited people read.")]
SignInUrl = Annotated[str | None, typer.Option(help="Where people go after accepting an invitation.")]
Invitations = Annotated[bool | None, typer.Option(help="Invite created users by e-mail.")]
Delay = Annotated[str | None, typer.Option(help="How long after the create the invitation goes out: 0s, 30m, 2d.")]
AuditDays = Annotated[int | None, typer.Option(help="Days that audit events are kept, 90 at least.")]
Brand = Annotated[
    list[str] | None,
    typer.Option(help=f"KEY=VALUE for mails and pages; KEY is one of {', '.join(tenants.BRANDING)}. Repeatable."),
]


def _values(
    display_name: str | None,
    sign_in_url: str | None,
    invitations: bool | None,
    delay: str | None,
    brand: list[str] | None,
) -> dict[str, Any]:
    values: dict[str, Any] = {
        "display_name": display_name,
        "sign_in_url": sign_in_url,
        "invitations": invitations,
        "invitation_delay_seconds": None if delay is None else int(duration(delay).total_seconds()),
    }
    if brand:
        pairs = [item.partition("=") for item in brand]
        if not all(equals for _, equals, _ in pairs):
            raise UsageError("Write a branding value as KEY=VALUE, for example accent_color=#1f6feb.")
        values["branding"] = {key: value for key, _, value in pairs}
    return {key: value for key, value in values.items() if value is not None}


def _show(tenant: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print_json(tenant)
    else:
        print_table([column for column in _COLUMNS if column in tenant], [tenant], empty="", shorten=_SHORTEN)


@app.command("add")
def add(
    name: Annotated[str, typer.Argument(help="Short name: lower-case letters, digits and dashes.")],
    display_name: DisplayName = None,
    sign_in_url: SignInUrl = None,
    invitations: Invitations = None,
    invitation_delay: Delay = None,
    brand: Brand = None,
    as_json: Json = False,
) -> None:
    """Add a tenant; then give it a token with `usher token issue`."""
    values = _values(display_name, sign_in_url, invitations, invitation_delay, brand)

    async def work(connection: Connection, _: Settings) -> dict[str, Any]:
        return await tenants.add_tenant(connection, name=name, actor=OPERATOR, correlation_id=uuid7(), **values)

    _show(with_store(work), as_json)


@app.command("change")
def change(
    name: Annotated[str, typer.Argument(help="Short name of the tenant.")],
    display_name: DisplayName = None,
    sign_in_url: SignInUrl = None,
    invitations: Invitations = None,
    invitation_delay: Delay = None,
    audit_days: AuditDays = None,
    brand: Brand = None,
    as_json: Json = False,
) -> None:
    """Change what is given and leave the rest; branding is replaced as a whole."""
    values = _values(display_name, sign_in_url, invitations, invitation_delay, brand)
    if audit_days is not None:
        values["audit_days"] = audit_days
    if not values:
        raise UsageError("Nothing to change; see `usher tenant change --help`.")

    async def work(connection: Connection, _: Settings) -> dict[str, Any]:
        return await tenants.change_tenant(connection, name, values, actor=OPERATOR, correlation_id=uuid7())

    _show(with_store(work), as_json)


@app.command("capture")
def capture(
    name: Annotated[str, typer.Argument(help="Short name of the tenant.")],
    minutes: Annotated[int, typer.Option(min=0, help="How long from now; 0 ends it.")] = 30,
    as_json: Json = False,
) -> None:
    """Keep the bodies of a tenant's requests for a while, with everything hidden that may be somebody's."""

    async def work(connection: Connection, _: Settings) -> datetime | None:
        return await request_log.set_capture(connection, name, minutes, actor=OPERATOR, correlation_id=uuid7())

    until = with_store(work)
    if as_json:
        print_json({"tenant": name, "capture_until": until})
    elif until is None:
        print("No more bodies are kept, within seconds; those there are deleted within a day.")
    else:
        print(f"Bodies are kept until {until:%Y-%m-%d %H:%M} UTC, and deleted a day later.")
        print(f"`usher requests {name} --bodies` shows them.")


@app.command("list")
def list_(as_json: Json = False) -> None:
    """List the tenants."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        return await tenants.list_tenants(connection)

    rows = with_store(work)
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows, empty="No tenants yet. `usher tenant add NAME` adds one.", shorten=_SHORTEN)
