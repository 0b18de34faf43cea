"""`/ops/tenants`: how each customer fares; and one of them, with its settings, tokens and capture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL, SETTINGS
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.live import live_page, shared
from api.pages.render import fragment, page, problem, redirect
from models.errors import UsageError
from models.request_log import CAPTURE_HOURS, MOST_CAPTURE_MINUTES, set_capture, traffic
from models.tenant_report import MOST_COUNTED, minutes, report
from models.tenants import change_tenant, find_tenant
from models.tokens import list_tokens

if TYPE_CHECKING:
    from models.db import Connection

_PAGE = "/ops/tenants"
_LIST = "ops/tenants.html"
_ONE = "ops/tenant.html"
_DAY = 86_400.0
_REPORT_SECONDS = 4.0  # how old a report may be that several people look at
_LONGEST_DELAY = 365 * 86_400


@allowed("view_jobs")
async def _list(request: web.Request) -> web.StreamResponse:
    async def found() -> list[dict[str, Any]]:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            return await report(connection)

    async def regions() -> dict[str, str]:
        rows = await shared(request, "tenants", found, seconds=_REPORT_SECONDS)
        return {"tenants": await fragment(request, _LIST, "tenants", rows=rows, most=MOST_COUNTED)}

    if "live" in request.query:
        return await live_page(request, regions)
    return await page(
        request, _LIST, rows=await shared(request, "tenants", found, seconds=_REPORT_SECONDS), most=MOST_COUNTED
    )


async def _facts(connection: Connection, name: str) -> dict[str, Any]:
    rows = await report(connection, name)
    if not rows:
        raise UsageError(f"There is no tenant {name}. The page Tenants lists them.")
    tenant = rows[0]
    return {
        "tenant": tenant,
        "settings": await find_tenant(connection, name),
        "minutes": await minutes(connection, tenant["id"]),
        "day": await traffic(connection, tenant["id"], seconds=_DAY),
        "tokens": await list_tokens(connection, tenant["id"]),
    }


@allowed("view_jobs")
async def _show(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    fixed: dict[str, Any] = {"most": MOST_COUNTED, "scim_url": request.config_dict[SETTINGS].scim_url}

    async def found() -> dict[str, Any]:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            return await _facts(connection, name)

    async def regions() -> dict[str, str]:
        values = await shared(request, f"tenant {name}", found, seconds=_REPORT_SECONDS)
        return {"traffic": await fragment(request, _ONE, "traffic", **fixed, **values)}

    if "live" in request.query:
        return await live_page(request, regions)
    try:
        values = await found()
    except UsageError as error:
        return problem(request, 404, error.detail)
    return await page(request, _ONE, **fixed, **values, capture_hours=CAPTURE_HOURS, most_minutes=MOST_CAPTURE_MINUTES)


@allowed("capture_requests")
async def _capture(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    (text,) = await fields(request, "minutes")
    if not (text.isascii() and text.isdigit()) or len(text) > 5:
        raise UsageError("Write the minutes as a whole number; 0 ends the capture.")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        until = await set_capture(connection, name, int(text), actor=person(request).actor, correlation_id=uuid7())
    words = "Bodies are kept from now on, within seconds." if until else "No more bodies are kept, within seconds."
    return redirect(request, f"{_PAGE}/{name}", words)


@allowed("manage_tokens")
async def _change(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    display_name, sign_in_url, invitations, delay = await fields(
        request, "display_name", "sign_in_url", "invitations", "invitation_delay_seconds"
    )
    if not (delay.isascii() and delay.isdigit()) or len(delay) > 9 or int(delay) > _LONGEST_DELAY:
        raise UsageError("Write the delay as a whole number of seconds, at most a year.")
    changes = {
        "display_name": display_name,
        "sign_in_url": sign_in_url.strip() or None,
        "invitations": invitations == "on",
        "invitation_delay_seconds": int(delay),
    }
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        await change_tenant(connection, name, changes, actor=person(request).actor, correlation_id=uuid7())
    return redirect(request, f"{_PAGE}/{name}", "The settings are as you wrote them.")


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [
        web.get(_PAGE, _list),
        web.get(_PAGE + "/{name}", _show),
        web.post(_PAGE + "/{name}", _change),
        web.post(_PAGE + "/{name}/capture", _capture),
    ]
