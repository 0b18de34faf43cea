"""`/admin/tokens`: issuing, rotating and revoking bearer tokens; a secret is shown once, in the answer itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL, SETTINGS
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.render import page, problem, redirect
from models.errors import UsageError
from models.tenants import find_tenant, tenant_names
from models.tokens import SCOPES, describe_token, issue_token, list_tokens, revoke_token, rotate_token

if TYPE_CHECKING:
    from models.tokens import IssuedToken

_PAGE = "/admin/tokens"
_MOST_DAYS = 3650
_MOST = 200  # tokens of a page
GRACE = {"0": "at once", "3600": "in 1 hour", "86400": "in 1 day", "604800": "in 7 days"}
"""When a rotated token ends, by its seconds."""


@allowed("manage_tokens")
async def _list(request: web.Request) -> web.StreamResponse:
    name = request.query.get("tenant", "").strip()
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        found = await find_tenant(connection, name) if name else None
        tokens = await list_tokens(connection, found["id"] if found else None, limit=_MOST + 1)
        names = await tenant_names(connection)
    days = request.config_dict[SETTINGS].token_days
    return await page(
        request, "admin/tokens.html", tokens=tokens[:_MOST], most=_MOST, more=len(tokens) > _MOST, tenants=names,
        name=name, scopes=SCOPES, days=days,
    )  # fmt: skip


@allowed("manage_tokens")
async def _show(request: web.Request) -> web.StreamResponse:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        try:
            token = await describe_token(connection, request.match_info["id"])
        except UsageError as error:
            return problem(request, 404, error.detail)
    return await page(
        request, "admin/token.html", token=token, grace=GRACE, days=request.config_dict[SETTINGS].token_days
    )


def _days(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 4 or not 1 <= int(text) <= _MOST_DAYS:
        raise UsageError(f"A token lives 1 to {_MOST_DAYS} days.")
    return int(text)


async def _reveal(request: web.Request, issued: IssuedToken, tenant: str, successor_of: str | None) -> web.Response:
    """Show a secret, this once: it is in no address, no cookie and no store."""
    return await page(
        request,
        "admin/token_issued.html",
        issued=issued,
        tenant=tenant,
        successor_of=successor_of,
        scim_url=request.config_dict[SETTINGS].scim_url,
    )


@allowed("manage_tokens")
async def _issue(request: web.Request) -> web.StreamResponse:
    tenant, label, days = await fields(request, "tenant", "label", "days")
    scopes = [scope for scope in SCOPES if scope in (await request.post()).getall("scope", [])]
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        found = await find_tenant(connection, tenant.strip())
        issued = await issue_token(
            connection,
            tenant_id=found["id"],
            scopes=scopes,
            label=label.strip(),
            days=_days(days),
            actor=person(request).actor,
            correlation_id=uuid7(),
        )
    return await _reveal(request, issued, found["name"], None)


@allowed("manage_tokens")
async def _rotate(request: web.Request) -> web.StreamResponse:
    token_id = request.match_info["id"]
    days, grace = await fields(request, "days", "grace")
    if grace not in GRACE:
        raise UsageError(f"The old token ends {', '.join(GRACE.values())}.")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        token = await describe_token(connection, token_id)
        issued = await rotate_token(
            connection,
            token_id,
            days=_days(days),
            grace_seconds=int(grace),
            actor=person(request).actor,
            correlation_id=uuid7(),
        )
    return await _reveal(request, issued, token["tenant"], token_id)


@allowed("manage_tokens")
async def _revoke(request: web.Request) -> web.StreamResponse:
    token_id = request.match_info["id"]
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        token = await describe_token(connection, token_id)
        await revoke_token(connection, token_id, actor=person(request).actor, correlation_id=uuid7())
    return redirect(
        request,
        f"/ops/tenants/{token['tenant']}",
        f"Token {token_id} is revoked; within 5 seconds no process accepts it.",
    )


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [
        web.get(_PAGE, _list),
        web.post(_PAGE, _issue),
        web.get(_PAGE + "/{id}", _show),
        web.post(_PAGE + "/{id}/rotate", _rotate),
        web.post(_PAGE + "/{id}/revoke", _revoke),
    ]
