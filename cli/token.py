"""`usher token`: the bearer tokens that tenants use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer
from uuid_utils.compat import uuid7

from cli.show import Json, duration, print_json, print_table
from cli.store import with_store
from models import tenants, tokens
from models.audit.record import OPERATOR

if TYPE_CHECKING:
    from models.db import Connection
    from models.settings import Settings
    from models.tokens import IssuedToken

app = typer.Typer(no_args_is_help=True, help="Issue, list, rotate and revoke bearer tokens.")

_COLUMNS = ("id", "tenant", "label", "scopes", "created_at", "expires_at", "last_used_at", "revoked_at")
Days = Annotated[int | None, typer.Option(min=1, max=3650, help="Days until it expires; else USHER_TOKEN_DAYS.")]
TokenId = Annotated[str, typer.Argument(help="The token's id, the part between the underscores.")]


def _show(issued: IssuedToken, settings: Settings, as_json: bool) -> None:
    if as_json:
        print_json(
            {
                "id": issued.id,
                "token": issued.text,
                "expires_at": issued.expires_at,
                "tenant_url": settings.scim_url,
            }
        )
        return
    print(f"Tenant URL    {settings.scim_url}")
    print(f"Secret Token  {issued.text}")
    print(f"It expires on {issued.expires_at:%Y-%m-%d} and is shown only this once.")


@app.command("issue")
def issue(
    tenant: Annotated[str, typer.Argument(help="Short name of the tenant.")],
    scope: Annotated[list[str] | None, typer.Option(help=f"One of {', '.join(tokens.SCOPES)}. Repeatable.")] = None,
    label: Annotated[str, typer.Option(help="What it is for, such as 'Entra production'.")] = "",
    days: Days = None,
    as_json: Json = False,
) -> None:
    """Issue a token; several may work at once, so that rotating leaves no gap."""

    async def work(connection: Connection, settings: Settings) -> tuple[IssuedToken, Settings]:
        found = await tenants.find_tenant(connection, tenant)
        issued = await tokens.issue_token(
            connection,
            tenant_id=found["id"],
            scopes=scope or ["scim"],
            label=label,
            days=days or settings.token_days,
            actor=OPERATOR,
            correlation_id=uuid7(),
        )
        return issued, settings

    issued, settings = with_store(work)
    _show(issued, settings, as_json)


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Argument(help="Only this tenant's.")] = None, as_json: Json = False
) -> None:
    """List tokens, newest first; their secrets are not kept and cannot be shown."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        found = await tenants.find_tenant(connection, tenant) if tenant else None
        return await tokens.list_tokens(connection, found["id"] if found else None)

    rows = with_store(work)
    if as_json:
        print_json(rows)
    else:
        print_table(
            _COLUMNS,
            rows,
            empty="No tokens. `usher token issue TENANT` issues one.",
            shorten=("tenant", "label", "scopes"),
        )


@app.command("rotate")
def rotate(
    token_id: TokenId,
    grace: Annotated[str, typer.Option(help="How long the old one works on: 0s, 24h, 7d.")] = "24h",
    days: Days = None,
    as_json: Json = False,
) -> None:
    """Issue a successor; paste it into Entra before the old one ends."""
    grace_seconds = int(duration(grace).total_seconds())

    async def work(connection: Connection, settings: Settings) -> tuple[IssuedToken, Settings]:
        issued = await tokens.rotate_token(
            connection,
            token_id,
            days=days or settings.token_days,
            grace_seconds=grace_seconds,
            actor=OPERATOR,
            correlation_id=uuid7(),
        )
        return issued, settings

    issued, settings = with_store(work)
    _show(issued, settings, as_json)


@app.command("revoke")
def revoke(token_id: TokenId, as_json: Json = False) -> None:
    """End a token; within 5 seconds no process accepts it."""

    async def work(connection: Connection, _: Settings) -> Any:
        return await tokens.revoke_token(connection, token_id, actor=OPERATOR, correlation_id=uuid7())

    revoked_at = with_store(work)
    if as_json:
        print_json({"id": token_id, "revoked_at": revoked_at})
    else:
        print(f"Token {token_id} is revoked; within 5 seconds no process accepts it.")
