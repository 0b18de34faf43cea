"""/Users: create, read, match, list, change and delete."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from api.requests import query_text, read_object
from api.scim.conditions import Precondition, is_unchanged
from api.scim.lists import USER_LIST, answer_list
from api.scim.query import query_of
from api.scim.responses import etag, nothing
from models import tracing
from models.directory.delete import delete_user
from models.directory.membership import Origin
from models.directory.read import Stored, as_uuid, get_user
from models.directory.write import Change, check_manager
from models.errors import NotFoundError
from models.ids import new_id
from models.intake import Create
from models.jobs import KINDS
from models.scim.document import read_user
from models.scim.json import dumps
from models.scim.patch import Patched, apply_patch
from models.scim.project import Projection
from models.scim.put import apply_put

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import datetime
    from uuid import UUID

    from aiohttp import web

    from api.scim.call import Call


def _projection(call: Call) -> Projection | None:
    attributes, excluded = query_text(call.request, "attributes"), query_text(call.request, "excludedAttributes")
    if attributes is None and excluded is None:
        return None
    return Projection.parse(attributes, excluded, call.schemas.user)


def _groups_at(call: Call, projection: Projection | None) -> str | None:
    """Return what the addresses of a user's groups begin with, or None when the answer has no groups."""
    return call.front.settings.scim_url if projection is None or projection.includes("groups") else None


async def create_user(call: Call) -> web.Response:
    """POST /Users (RFC 7644 §3.3): accept durably, then answer 201; a worker applies it."""
    projection = _projection(call)
    user = read_user(await read_object(call.request, call.front.settings), call.schemas.user)
    call.note(user.ignored)
    await check_manager(call.front.pool, call.principal.tenant_id, user.doc)
    doc = dumps(user.doc).decode()
    create = Create(
        tenant_id=call.principal.tenant_id,
        resource_id=new_id(),
        job_id=new_id(),
        user=user,
        doc=doc,
        actor=call.principal.actor,
        correlation_id=call.correlation_id,
        context=call.context(),
    )
    created_at = await (_accept_traced if tracing.active() else _accept)(call, create)
    stored = Stored(create.resource_id, doc, 1, created_at, created_at)
    return call.front.users.one(stored, status=201, projection=projection)


async def _accept(call: Call, create: Create) -> datetime:
    return await call.front.intake.accept(create, bulk=call.part is not None)


async def _accept_traced(call: Call, create: Create) -> datetime:
    parent = call.request.headers.get("traceparent")
    with tracing.publishing(
        KINDS["user.create"], job_id=create.job_id, correlation_id=create.correlation_id, traceparent=parent
    ) as context:
        return await _accept(call, replace(create, trace_context=context))


def _user_id(call: Call) -> UUID:
    user_id = as_uuid(call.resource_id)
    if user_id is None:
        raise NotFoundError("There is no user with this id.")
    return user_id


async def get_user_by_id(call: Call) -> web.Response:
    """GET /Users/{id} (RFC 7644 §3.4.1)."""
    projection = _projection(call)
    stored = await get_user(
        call.front.pool, call.principal.tenant_id, _user_id(call), scim_url=_groups_at(call, projection)
    )
    if stored is None:
        raise NotFoundError("There is no user with this id.")
    if is_unchanged(call.request, stored.version):
        return nothing(304, {"ETag": etag(stored.version)})
    return call.front.users.one(stored, projection=projection)


async def query_users(call: Call) -> web.Response:
    """GET /Users (RFC 7644 §3.4.2): matching queries, filters, and paging through everybody."""
    return await answer_list(call, [USER_LIST], query_of(call.request))


async def patch_user(call: Call) -> web.Response:
    """PATCH /Users/{id} (RFC 7644 §3.5.2), in the RFC's dialect and both of Entra's; always 200 with the resource."""
    body = await read_object(call.request, call.front.settings)
    return await _change(call, lambda doc: apply_patch(doc, body, call.schemas.user))


async def put_user(call: Call) -> web.Response:
    """PUT /Users/{id} (RFC 7644 §3.5.1): replaces a user, never creates one."""
    user = read_user(await read_object(call.request, call.front.settings), call.schemas.user, new=False)
    return await _change(call, lambda doc: apply_put(doc, user, call.schemas.user))


async def remove_user(call: Call) -> web.Response:
    """DELETE /Users/{id} (RFC 7644 §3.6)."""
    principal = call.principal
    origin = Origin(principal.tenant_id, principal.actor, call.correlation_id, call.context())
    await delete_user(
        call.front.pool, origin, _user_id(call), Precondition.of(call.request).check, schema=call.schemas.user
    )
    return nothing()


async def _change(call: Call, edit: Callable[[dict[str, Any]], Patched]) -> web.Response:
    projection = _projection(call)
    ignored: tuple[str, ...] = ()

    def noting(doc: dict[str, Any]) -> Patched:
        nonlocal ignored
        patched = edit(doc)
        ignored = patched.ignored
        return patched

    change = Change(
        tenant_id=call.principal.tenant_id,
        user_id=_user_id(call),
        edit=noting,
        check=Precondition.of(call.request).check,
        schema=call.schemas.user,
        groups_at=_groups_at(call, projection),
        actor=call.principal.actor,
        correlation_id=call.correlation_id,
        context=call.context(),
    )
    stored = await call.front.writer.update(change)
    call.note(ignored)
    return call.front.users.one(stored, projection=projection)
