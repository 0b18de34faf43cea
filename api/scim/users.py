"""/Users: create, read, match and list."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from api.requests import query_integer, query_text, read_object
from models.directory.read import Stored, as_uuid, find_users, get_user, list_users
from models.errors import NotFoundError
from models.intake import Create
from models.scim.document import read_user
from models.scim.filter import lookup, parse_filter
from models.scim.json import dumps
from models.scim.project import Projection
from models.scim.schema import USER

if TYPE_CHECKING:
    from aiohttp import web

    from api.scim.call import Call


def _projection(request: web.Request) -> Projection | None:
    attributes, excluded = query_text(request, "attributes"), query_text(request, "excludedAttributes")
    return None if attributes is None and excluded is None else Projection.parse(attributes, excluded, USER)


async def create_user(call: Call) -> web.Response:
    """POST /Users (RFC 7644 §3.3): accept durably, then answer 201; a worker applies it."""
    projection = _projection(call.request)
    user = read_user(await read_object(call.request, call.front.settings))
    call.note(user.ignored)
    doc = dumps(user.doc).decode()
    create = Create(
        tenant_id=call.principal.tenant_id,
        resource_id=uuid7(),
        job_id=uuid7(),
        user=user,
        doc=doc,
        actor=call.principal.actor,
        correlation_id=call.correlation_id,
        context=call.context(),
    )
    created_at = await call.front.intake.accept(create)
    stored = Stored(create.resource_id, doc, 1, created_at, created_at)
    return call.front.users.one(stored, status=201, projection=projection)


async def get_user_by_id(call: Call) -> web.Response:
    """GET /Users/{id} (RFC 7644 §3.4.1)."""
    projection = _projection(call.request)
    user_id = as_uuid(call.resource_id)
    stored = user_id and await get_user(call.front.pool, call.principal.tenant_id, user_id)
    if not stored:
        raise NotFoundError("There is no user with this id.")
    return call.front.users.one(stored, projection=projection)


async def query_users(call: Call) -> web.Response:
    """GET /Users (RFC 7644 §3.4.2): matching queries, filters, and index paging through everybody."""
    request = call.request
    settings, pool = call.front.settings, call.front.pool
    projection = _projection(request)
    start_index = query_integer(request, "startIndex", 1, least=1)
    count = min(query_integer(request, "count", settings.page_size, least=0), settings.max_page_size)
    text = query_text(request, "filter")
    tree = None if text is None else parse_filter(text)
    wanted = None if tree is None else lookup(tree, USER)
    if wanted is not None:
        found = await find_users(pool, call.principal.tenant_id, wanted)
        total, stored = len(found), found[start_index - 1 : start_index - 1 + count]
    else:
        page = await list_users(pool, call.principal.tenant_id, tree=tree, start_index=start_index, count=count)
        total, stored = page.total, page.resources
    return call.front.users.page(stored, total=total, start_index=start_index, projection=projection)
