"""`/ops/requests`: what clients sent lately, and one request with its bodies if they were captured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web

from api.keys import PAGES_POOL
from api.pages.guard import allowed, person
from api.pages.live import live_page, shared
from api.pages.render import fragment, page, problem
from models.directory.read import as_uuid
from models.errors import UsageError
from models.request_log import KEPT_DAYS, PAGE, find_request, list_requests, omitted
from models.tenants import find_tenant

if TYPE_CHECKING:
    from uuid import UUID

    from models.db import Connection

_PAGE = "/ops/requests"
_TEMPLATE = "ops/requests.html"
ROUTES = (
    *(
        "/Users",
        "/Users/{id}",
        "/Users/.search",
        "/Groups",
        "/Groups/{id}",
        "/Groups/.search",
        "/",
        "/.search",
        "/Bulk",
    ),
    *("/Me", "/AsyncRequests/{id}", "/ServiceProviderConfig", "/ResourceTypes", "/ResourceTypes/{id}", "/Schemas"),
    *("/Schemas/{id}", "(unknown)"),
)


def _id(name: str, text: str) -> UUID | None:
    if not text:
        return None
    found = as_uuid(text.strip())
    if found is None:
        raise UsageError(f"The {name} is not an id; copy it whole, as in 01a20b57-b047-7246-83ab-d4d84441d838.")
    return found


def _filters(request: web.Request) -> dict[str, str]:
    """Return what the person asks for, as it stands in the address."""
    names = ("tenant", "failed", "correlation", "route", "before")
    return {name: request.query.get(name, "").strip() for name in names}


async def _find(connection: Connection, filters: dict[str, str]) -> dict[str, Any]:
    tenant_id = (await find_tenant(connection, filters["tenant"]))["id"] if filters["tenant"] else None
    rows = await list_requests(
        connection,
        tenant_id=tenant_id,
        failed=bool(filters["failed"]),
        correlation_id=_id("correlation id", filters["correlation"]),
        route=filters["route"] or None,
        before=_id("page", filters["before"]),
        limit=PAGE + 1,
    )
    more = len(rows) > PAGE
    return {
        "rows": rows[:PAGE],
        "older": rows[PAGE - 1]["id"] if more else None,
        "omitted": await omitted(connection, tenant_id),
    }


@allowed("view_jobs")
async def _list(request: web.Request) -> web.StreamResponse:
    filters = _filters(request)

    async def found() -> dict[str, Any]:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            return await _find(connection, filters)

    async def regions() -> dict[str, str]:
        values = await shared(request, f"requests {sorted(filters.items())}", found)
        return {"requests": await fragment(request, _TEMPLATE, "requests", filters=filters, **values)}

    if "live" in request.query:
        return await live_page(request, regions)
    return await page(request, _TEMPLATE, filters=filters, routes=ROUTES, kept_days=KEPT_DAYS, **await found())


@allowed("view_jobs")
async def _show(request: web.Request) -> web.StreamResponse:
    request_id = as_uuid(request.match_info["id"])
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        found = await find_request(connection, request_id) if request_id else None
    if found is None:
        return problem(request, 404, f"There is no such request, or it was longer ago than {KEPT_DAYS} days.")
    captured: dict[str, Any] = (found["captured"] or {}) if person(request).may("capture_requests") else {}
    bodies = {
        name: "" if body is None else orjson.dumps(body, option=orjson.OPT_INDENT_2).decode()
        for name, body in captured.items()
    }
    return await page(request, "ops/request.html", found=found, bodies=bodies)


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [web.get(_PAGE, _list), web.get(_PAGE + "/{id}", _show)]
