"""`/admin/operators`: who may sign in, and as what."""

from __future__ import annotations

from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL, RING, SETTINGS
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.render import page, redirect
from models.jobs import EMAIL
from models.links import stage_link
from models.operators import PERMISSIONS, ROLES, add_operator, change_operator, find_operator, list_operators

_PAGE = "/admin/operators"


@allowed("manage_operators")
async def _list(request: web.Request) -> web.StreamResponse:
    operators = await list_operators(request.config_dict[PAGES_POOL])
    return await page(request, "admin/operators.html", operators=operators, roles=ROLES, permissions=PERMISSIONS)


@allowed("manage_operators")
async def _show(request: web.Request) -> web.StreamResponse:
    operator = await find_operator(request.config_dict[PAGES_POOL], request.match_info["name"])
    return await page(request, "admin/operator.html", operator=operator, roles=ROLES)


@allowed("manage_operators")
async def _add(request: web.Request) -> web.StreamResponse:
    name, email, role = await fields(request, "name", "email", "role")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        added = await add_operator(
            connection, name=name, email=email, role=role, actor=person(request).actor, correlation_id=uuid7()
        )
    return redirect(request, f"{_PAGE}/{added.name}", f"{added.name} was added. Send them a link to sign in.")


@allowed("manage_operators")
async def _change(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    email, role, access = await fields(request, "email", "role", "access")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        changed = await change_operator(
            connection,
            name,
            email=email or None,
            role=role or None,
            disabled={"disabled": True, "enabled": False}.get(access),
            actor=person(request).actor,
            correlation_id=uuid7(),
        )
    words = {"disabled": "was shut out and signed out everywhere", "enabled": "was let in again"}
    return redirect(request, f"{_PAGE}/{changed.name}", f"{changed.name} {words.get(access, 'was changed')}.")


@allowed("manage_operators")
async def _send_link(request: web.Request) -> web.StreamResponse:
    name = request.match_info["name"]
    secret = request.config_dict[SETTINGS].secret_key.get_secret_value()
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        job_id = await stage_link(
            connection, name, secret_key=secret, actor=person(request).actor, correlation_id=uuid7()
        )
    if job_id is None:
        return redirect(request, f"{_PAGE}/{name}", f"{name} is disabled, or has enough unused links already.")
    request.config_dict[RING].ring(EMAIL, [job_id])
    return redirect(request, f"{_PAGE}/{name}", f"A link to sign in is on its way to {name}.")


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [
        web.get(_PAGE, _list),
        web.post(_PAGE, _add),
        web.get(_PAGE + "/{name}", _show),
        web.post(_PAGE + "/{name}", _change),
        web.post(_PAGE + "/{name}/link", _send_link),
    ]
