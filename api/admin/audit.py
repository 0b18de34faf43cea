"""`/admin/audit`: the audit log as pages: search, one event, everything that one request led to, saved views."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from aiohttp import web

from api.admin.audit_view import (
    ZONE_COOKIE,
    audit_link,
    changes,
    clock,
    shown,
    suggestions,
    viewer_zone,
    zones,
)
from api.keys import PAGES_POOL, SETTINGS
from api.pages.cookies import set_cookie
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.render import page, problem, redirect
from models.audit.query import MOST_COUNTED, MOST_EVENTS, count_facets, find_event, search_events
from models.audit.search import QUALIFIERS
from models.audit.views import delete_view, list_views, save_view
from models.audit.zones import find_zone
from models.errors import ClientError, InvalidQueryError, UsageError

if TYPE_CHECKING:
    from models.db import Connection

_PAGE = "/admin/audit"
_ROWS = 50
_MOST_TENANTS = 50
_YEAR_SECONDS = 365 * 24 * 3600
_PRESETS = (
    ("Last 7 days", ""),
    ("Failures and refusals", "outcome:failure,denied"),
    ("Users", "action:scim.user.*"),
    ("Groups", "action:scim.group.*"),
    ("E-mails", "action:invitation.*"),
    ("Sign-ins and tokens", "action:auth.*"),
    ("What operators did", "actor:operator"),
)


def _secret(request: web.Request) -> bytes:
    return request.config_dict[SETTINGS].secret_key.get_secret_value().encode()


async def _tenants(connection: Connection) -> dict[UUID, str]:
    rows = await connection.fetch("SELECT id, name FROM tenant ORDER BY name LIMIT $1", _MOST_TENANTS)
    return {row["id"]: row["name"] for row in rows}


@allowed("view_audit")
async def _list(request: web.Request) -> web.StreamResponse:
    text = request.query.get("q", "").strip()
    zone = viewer_zone(request)
    own_zone = str(zone) if request.query.get("zone") else None
    values: dict[str, Any] = {"found": None, "rows": [], "facets": None, "error": None, "older": None}
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        tenants = await _tenants(connection)
        try:
            found = await search_events(
                connection,
                text,
                tenant_id=None,
                secret=_secret(request),
                cursor=request.query.get("cursor") or None,
                limit=_ROWS,
                zone=zone,
            )
            if "cursor" not in request.query and not found.search.has_text:
                values["facets"] = await count_facets(connection, text, tenant_id=None, zone=zone)
        except ClientError as error:
            values["error"] = error
        else:
            values["found"] = found
            values["rows"] = [shown(event, zone) for event in found.events]
            values["older"] = audit_link(text, cursor=found.next, zone=own_zone) if found.next else None
        views = await list_views(connection, person(request).id)
    return await page(
        request,
        "admin/audit.html",
        status=400 if values["error"] else 200,
        query=text,
        zone=str(zone),
        zones=zones(),
        bounds=[clock(values["found"].search.since, zone), clock(values["found"].search.until, zone)]
        if values["found"]
        else None,
        first="cursor" not in request.query,
        position=values["error"].position if isinstance(values["error"], InvalidQueryError) else None,
        presets=_PRESETS,
        qualifiers=QUALIFIERS,
        suggestions=suggestions(text, tenants.values()),
        tenants=tenants,
        views=views,
        audit_link=audit_link,
        permalink=audit_link(text, zone=str(zone)),
        most_counted=MOST_COUNTED,
        **values,
    )


def _as_uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None


@allowed("view_audit")
async def _show(request: web.Request) -> web.StreamResponse:
    event_id = _as_uuid(request.match_info["id"])
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        event = await find_event(connection, event_id, tenant_id=None) if event_id else None
        tenants = await _tenants(connection)
    if event is None:
        return problem(request, 404, "There is no event with this id.")
    zone = viewer_zone(request)
    return await page(
        request,
        "admin/audit_event.html",
        event=shown(event, zone),
        changes=changes(event),
        tenant=tenants.get(event["tenant_id"], event["tenant_id"]),
        audit_link=audit_link,
    )


@allowed("view_audit")
async def _timeline(request: web.Request) -> web.StreamResponse:
    correlation_id = _as_uuid(request.match_info["id"])
    if correlation_id is None:
        return problem(request, 404, "This is no correlation id.")
    zone = viewer_zone(request)
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        found = await search_events(
            connection,
            f"correlation:{correlation_id}",
            tenant_id=None,
            secret=_secret(request),
            limit=MOST_EVENTS,
            zone=zone,
        )
    events = found.events[::-1]
    if not events:
        return problem(request, 404, "There are no events with this correlation id.")
    first = events[0]["occurred_at"]
    rows = [
        {**shown(event, zone), "after": event["occurred_at"] - first, "changes": changes(event)} for event in events
    ]
    return await page(
        request,
        "admin/audit_timeline.html",
        correlation_id=correlation_id,
        rows=rows,
        took=events[-1]["occurred_at"] - first,
        cut=found.next is not None,
        audit_link=audit_link,
    )


@allowed("view_audit")
async def _choose_zone(request: web.Request) -> web.StreamResponse:
    name, query = await fields(request, "zone", "q")
    try:
        zone = find_zone(name)
    except InvalidQueryError as error:
        raise UsageError(error.detail) from error
    response = redirect(request, audit_link(query))
    set_cookie(request, response, ZONE_COOKIE, str(zone), max_age=_YEAR_SECONDS)
    return response


@allowed("view_audit")
async def _save(request: web.Request) -> web.StreamResponse:
    name, query = await fields(request, "name", "q")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        try:
            await save_view(connection, person(request).id, name, query)
        except InvalidQueryError as error:
            raise UsageError(error.detail) from error
    return redirect(request, audit_link(query), f"The view {' '.join(name.split())} was saved.")


@allowed("view_audit")
async def _delete(request: web.Request) -> web.StreamResponse:
    (query,) = await fields(request, "q")
    view_id = _as_uuid(request.match_info["id"])
    if view_id is not None:
        await delete_view(request.config_dict[PAGES_POOL], person(request).id, view_id)
    return redirect(request, audit_link(query), "The view was deleted.")


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of these pages."""
    return [
        web.get(_PAGE, _list),
        web.get(_PAGE + "/events/{id}", _show),
        web.get(_PAGE + "/timeline/{id}", _timeline),
        web.post(_PAGE + "/zone", _choose_zone),
        web.post(_PAGE + "/views", _save),
        web.post(_PAGE + "/views/{id}/delete", _delete),
    ]
