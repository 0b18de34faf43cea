"""/Groups: create, read, match, list, change and delete.

A PATCH is answered 204 unless it asks for the group with `attributes` or `excludedAttributes`: whoever changes the
members of a large group does not want them all back (entra-cases.md 108).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import structlog

from api.requests import query_text, read_object
from api.scim.conditions import Precondition, is_unchanged
from api.scim.lists import GROUP_LIST, answer_list
from api.scim.query import query_of
from api.scim.responses import etag, nothing
from models.directory.group_write import create_group, delete_group, patch_members, replace_group, write_group
from models.directory.groups import get_group, with_members
from models.directory.membership import Origin
from models.directory.read import as_uuid
from models.errors import NotFoundError
from models.ids import new_id
from models.scim.document import read_group
from models.scim.patch import apply_operations
from models.scim.patch_members import split_member_operations
from models.scim.project import Projection

if TYPE_CHECKING:
    from uuid import UUID

    from aiohttp import web

    from api.scim.call import Call
    from models.directory.group_write import Check
    from models.directory.membership import Changed
    from models.directory.read import Stored

_ALARMING = 10  # members lost at once

_log = structlog.get_logger("groups")


def _projection(call: Call) -> Projection | None:
    attributes, excluded = query_text(call.request, "attributes"), query_text(call.request, "excludedAttributes")
    if attributes is None and excluded is None:
        return None
    return Projection.parse(attributes, excluded, call.schemas.group)


def _wants_members(projection: Projection | None) -> bool:
    return projection is None or projection.includes("members")


def _group_id(call: Call) -> UUID:
    group_id = as_uuid(call.resource_id)
    if group_id is None:
        raise NotFoundError("There is no group with this id.")
    return group_id


def _origin(call: Call) -> Origin:
    return Origin(call.principal.tenant_id, call.principal.actor, call.correlation_id, call.context())


def _check(call: Call) -> Check | None:
    condition = Precondition.of(call.request)
    return None if condition == Precondition(None, None) else condition.check


async def _answer(call: Call, group: Stored, projection: Projection | None, status: int = 200) -> web.Response:
    """Answer with a group that was written, and its members if they are wanted."""
    if _wants_members(projection):
        front = call.front
        [group] = await with_members(front.pool, call.principal.tenant_id, [group], front.settings.scim_url)
    return call.front.groups.one(group, status=status, projection=projection)


async def post_group(call: Call) -> web.Response:
    """POST /Groups (RFC 7644 §3.3)."""
    projection = _projection(call)
    group = read_group(await read_object(call.request, call.front.settings), call.schemas.group)
    call.note(group.ignored)
    stored = await create_group(call.front.pool, _origin(call), new_id(), group)
    return await _answer(call, stored, projection, 201)


async def get_group_by_id(call: Call) -> web.Response:
    """GET /Groups/{id} (RFC 7644 §3.4.1)."""
    return await _read_group(call, _group_id(call), _projection(call))


async def _read_group(call: Call, group_id: UUID, projection: Projection | None) -> web.Response:
    stored = await get_group(
        call.front.pool,
        call.principal.tenant_id,
        group_id,
        scim_url=call.front.settings.scim_url,
        members=_wants_members(projection),
    )
    if stored is None:
        raise NotFoundError("There is no group with this id.")
    if call.request.method == "GET" and is_unchanged(call.request, stored.version):
        return nothing(304, call.front.groups.head(stored))
    return call.front.groups.one(stored, projection=projection)


async def query_groups(call: Call) -> web.Response:
    """GET /Groups (RFC 7644 §3.4.2): matching queries, reference checks, filters, and paging through all."""
    return await answer_list(call, [GROUP_LIST], query_of(call.request))


async def put_group(call: Call) -> web.Response:
    """PUT /Groups/{id} (RFC 7644 §3.5.1): what the body leaves out is cleared, members too."""
    projection, group_id, check = _projection(call), _group_id(call), _check(call)
    group = read_group(await read_object(call.request, call.front.settings), call.schemas.group)
    call.note(group.ignored)
    written = await replace_group(call.front.pool, _origin(call), group_id, group, check)
    _watch(call, group_id, written.members)
    return await _answer(call, written.group, projection)


async def patch_group(call: Call) -> web.Response:
    """PATCH /Groups/{id} (RFC 7644 §3.5.2), in the RFC's dialect and both of Entra's."""
    projection, group_id, check = _projection(call), _group_id(call), _check(call)
    body = await read_object(call.request, call.front.settings)
    members, rest = split_member_operations(body, call.schemas.group)
    ignored: tuple[str, ...] = ()

    def edit(doc: dict[str, Any]) -> dict[str, Any]:
        nonlocal ignored
        patched = apply_operations(doc, rest, call.schemas.group)
        ignored = patched.ignored
        return patched.doc

    pool, origin = call.front.pool, _origin(call)
    if rest:
        written = await write_group(pool, origin, group_id, edit, check=check, members=members or None)
        version, changed = written.group.version, written.members
    else:
        changed = await patch_members(pool, origin, group_id, members, check)
        version = changed.version
    call.note(ignored)
    if members.replace:
        _watch(call, group_id, changed)
    if projection is not None:
        return await _read_group(call, group_id, projection)
    return nothing(headers={"ETag": etag(version)})


async def remove_group(call: Call) -> web.Response:
    """DELETE /Groups/{id} (RFC 7644 §3.6); its members stay what they are."""
    await delete_group(call.front.pool, _origin(call), _group_id(call), _check(call))
    return nothing()


def _watch(call: Call, group_id: UUID, changed: Changed | None) -> None:
    """Say so when a replacement took many members and brought fewer: it may not be meant (entra-cases.md 92)."""
    if changed is not None and changed.removed >= _ALARMING and changed.removed > changed.added:
        _log.warning(
            "A group lost many members by a replacement",
            action="group.shrunk",
            correlation_id=str(call.correlation_id),
            tenant_id=str(call.tenant_id),
            group_id=str(group_id),
            removed=changed.removed,
            added=changed.added,
        )
