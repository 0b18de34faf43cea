"""`/ops/emails/suppressed`: the addresses that get no more mail."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.render import page, query, redirect
from models.directory.read import as_uuid
from models.suppression import PAGE, list_suppressed, suppress, unsuppress
from models.tenants import find_tenant

if TYPE_CHECKING:
    from uuid import UUID

_PAGE = "/ops/emails/suppressed"


@allowed("view_jobs")
async def _list(request: web.Request) -> web.StreamResponse:
    filters = {name: request.query.get(name, "").strip() for name in ("tenant", "after_tenant", "after")}
    last = as_uuid(filters["after_tenant"]) if filters["after_tenant"] else None
    after: tuple[UUID, str] | None = (last, filters["after"]) if last else None
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        tenant_id = (await find_tenant(connection, filters["tenant"]))["id"] if filters["tenant"] else None
        rows = await list_suppressed(connection, tenant_id=tenant_id, after=after, limit=PAGE + 1)
    further = None
    if len(rows) > PAGE:
        edge = rows[PAGE - 1]
        further = _PAGE + query(filters, after_tenant=edge["tenant_id"], after=edge["email_key"])
    return await page(request, "ops/suppressed.html", rows=rows[:PAGE], filters=filters, further=further)


@allowed("resend_email")
async def _add(request: web.Request) -> web.StreamResponse:
    tenant, email, reason = await fields(request, "tenant", "email", "reason")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        found = await find_tenant(connection, tenant.strip())
        added = await suppress(
            connection, found["id"], email, reason=reason, actor=person(request).actor, correlation_id=uuid7()
        )
    return redirect(
        request, _PAGE, "The address gets no more mail." if added else "The address was on the list already."
    )


@allowed("resend_email")
async def _remove(request: web.Request) -> web.StreamResponse:
    tenant, email = await fields(request, "tenant", "email")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        found = await find_tenant(connection, tenant)
        removed = await unsuppress(connection, found["id"], email, actor=person(request).actor, correlation_id=uuid7())
    text = "The address gets mail again. What was not sent meanwhile is sent when you ask for it."
    return redirect(request, _PAGE, text if removed else "The address was not on the list any more.")


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [web.get(_PAGE, _list), web.post(_PAGE, _add), web.post(_PAGE + "/remove", _remove)]
