"""`usher mail`: invitation e-mails, sending them again, and the suppression list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from uuid_utils.compat import uuid7

from cli.show import Json, print_json, print_table
from cli.store import with_store
from models import mailings, suppression
from models.audit.record import OPERATOR
from models.errors import UsageError, UsherError
from models.resending import REFUSALS, Resent, resend
from models.tenants import find_tenant

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Find invitation e-mails, send them again, suppress addresses.")

_COLUMNS = ("id", "created_at", "tenant", "user_name", "email", "state", "sent_at", "error_code", "error_detail")
_SUPPRESSED = ("tenant", "email_key", "reason", "created_by", "created_at")

Tenant = Annotated[str | None, typer.Option(help="Short name of the tenant.")]
State = Annotated[str | None, typer.Option(help=f"One of {', '.join(mailings.STATES)}.")]
Code = Annotated[str | None, typer.Option(help="The error: smtp_4xx, smtp_5xx, smtp_unreachable, suppressed, …")]
Reply = Annotated[str | None, typer.Option(help="The mail server's reply: 550 or '550 5.1.1'.")]
User = Annotated[str | None, typer.Option(help="The user's userName.")]
Ids = Annotated[list[UUID] | None, typer.Argument(help="Ids of invitations.")]
InvitationId = Annotated[UUID, typer.Argument(help="The invitation's id, as `usher mail ls` shows it.")]
Address = Annotated[str, typer.Argument(help="An e-mail address.")]
OneTenant = Annotated[str, typer.Argument(help="Short name of the tenant.")]


async def _wanted(
    connection: Connection, tenant: str | None, state: str | None, code: str | None, reply: str | None, user: str | None
) -> mailings.Mailings:
    tenant_id = (await find_tenant(connection, tenant))["id"] if tenant else None
    return mailings.Mailings(tenant_id, state, code, reply, user)


@app.command("ls")
def ls(
    tenant: Tenant = None,
    state: State = None,
    code: Code = None,
    reply: Reply = None,
    user: User = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="Most invitations to show.")] = 50,
    as_json: Json = False,
) -> None:
    """List invitations, newest first."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        return await mailings.list_mailings(
            connection, await _wanted(connection, tenant, state, code, reply, user), limit=limit
        )

    rows = with_store(work)
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows, empty="No such invitations.", shorten=("user_name", "email", "error_detail"))


@app.command("show")
def show(invitation_id: InvitationId, as_json: Json = False) -> None:
    """Show one invitation with its history."""

    async def work(connection: Connection, _: Settings) -> dict[str, Any] | None:
        return await mailings.find_mailing(connection, invitation_id)

    found = with_store(work)
    if found is None:
        raise UsherError(f"There is no invitation {invitation_id}.")
    if as_json:
        print_json(found)
        return
    print_table(_COLUMNS, [found], empty="")
    print()
    events = ("occurred_at", "action", "outcome", "reason", "actor_label")
    print_table(events, found["events"], empty="Nothing has happened yet.")


@app.command("resend")
def send_again(
    invitation_ids: Ids = None,
    tenant: Tenant = None,
    state: State = None,
    code: Code = None,
    reply: Reply = None,
    user: User = None,
    yes: Annotated[bool, typer.Option("--yes", help="Send all that match without asking.")] = False,
    as_json: Json = False,
) -> None:
    """Send invitations again with a new link: those named, or all that match the options."""
    if bool(invitation_ids) == any((tenant, state, code, reply, user)):
        raise UsageError("Name invitations, or say with options which are meant; not both.")
    if not invitation_ids and not yes:
        typer.confirm("Send every invitation that matches again?", abort=True)

    async def work(connection: Connection, _: Settings) -> Resent:
        total, correlation_id = Resent(), uuid7()
        if invitation_ids:
            return await resend(connection, invitation_ids, actor=OPERATOR, correlation_id=correlation_id)
        wanted = await _wanted(connection, tenant, state, code, reply, user)
        async for done in mailings.resend_matching(connection, wanted, actor=OPERATOR, correlation_id=correlation_id):
            total.made.update(done.made)
            total.refused.update(done.refused)
        return total

    done = with_store(work)
    if as_json:
        print_json(
            {
                "sent": {str(earlier): new for earlier, new in done.made.items()},
                "refused": {str(each): reason for each, reason in done.refused.items()},
            }
        )
    else:
        print(f"{len(done.made)} on their way again; a worker takes them within seconds.")
        for invitation_id, reason in done.refused.items():
            print(f"Not {invitation_id}: {REFUSALS[reason]}")
    if done.refused and not done.made:
        raise typer.Exit(1)


@app.command("suppress")
def suppress(
    tenant: OneTenant,
    email: Address,
    reason: Annotated[str, typer.Option(help="Why; stands in the list and the audit log.")] = "by hand",
    as_json: Json = False,
) -> None:
    """Have an address get no more mail from a tenant."""

    async def work(connection: Connection, _: Settings) -> bool:
        found = await find_tenant(connection, tenant)
        return await suppression.suppress(
            connection, found["id"], email, reason=reason, actor=OPERATOR, correlation_id=uuid7()
        )

    added = with_store(work)
    if as_json:
        print_json({"tenant": tenant, "email": email, "added": added})
    else:
        print("The address gets no more mail." if added else "The address was on the list already.")


@app.command("unsuppress")
def unsuppress(tenant: OneTenant, email: Address, as_json: Json = False) -> None:
    """Have an address get mail again; what was not sent meanwhile is sent with `usher mail resend`."""

    async def work(connection: Connection, _: Settings) -> bool:
        found = await find_tenant(connection, tenant)
        return await suppression.unsuppress(connection, found["id"], email, actor=OPERATOR, correlation_id=uuid7())

    removed = with_store(work)
    if as_json:
        print_json({"tenant": tenant, "email": email, "removed": removed})
    else:
        print("The address gets mail again." if removed else "The address was not on the list.")


@app.command("suppressed")
def suppressed(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000, help="Most addresses to show.")] = 1000,
    as_json: Json = False,
) -> None:
    """List the addresses that get no more mail."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        tenant_id = (await find_tenant(connection, tenant))["id"] if tenant else None
        return await suppression.list_suppressed(connection, tenant_id=tenant_id, limit=limit)

    rows = with_store(work)
    if as_json:
        print_json(rows)
    else:
        print_table(_SUPPRESSED, rows, empty="No address is suppressed.", shorten=("email_key", "reason"))
