"""One way to answer every list and every search, of one resource type or of several."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.scim.responses import list_answer
from models.directory.groups import GROUPS, find_groups, with_members
from models.directory.list import Listed, Part, list_by_cursor, list_by_index
from models.directory.read import USERS
from models.scim.cursor import make_cursor, read_cursor
from models.scim.filter import lookup, parse_filter, quick_lookup
from models.scim.filter_types import filter_of_each
from models.scim.project import Projection
from models.scim.sort import parse_order

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from aiohttp import web

    from api.scim.call import Call
    from api.scim.query import Query
    from api.scim.responses import Resources
    from models.directory.read import Source, Stored
    from models.scim.filter import Lookup
    from models.scim.schema import ResourceSchema
    from models.scim.sort import Order

_FURTHEST = 2**62  # what PostgreSQL takes as a number of rows


@dataclass(frozen=True, slots=True)
class Kind:
    """A resource type as lists have it."""

    source: Source
    rows: str
    """The attribute that is rows of another table."""
    schema: Callable[[Call], ResourceSchema]
    writer: Callable[[Call], Resources]
    find: Callable[[Call, Lookup, bool], Awaitable[list[Stored]]]
    """Answers a matching query, with the attribute of `rows` if that is wanted."""
    complete: Callable[[Call, list[Stored]], Awaitable[list[Stored]]] | None = None
    """Reads the attribute of `rows` where the statement of the page cannot."""


async def _find_users(call: Call, wanted: Lookup, rows: bool) -> list[Stored]:
    url = call.front.settings.scim_url if rows else None
    return await call.front.finder.find(call.principal.tenant_id, wanted, scim_url=url)


async def _find_groups(call: Call, wanted: Lookup, rows: bool) -> list[Stored]:
    url = call.front.settings.scim_url
    return await find_groups(call.front.pool, call.principal.tenant_id, wanted, scim_url=url, members=rows)


async def _with_members(call: Call, groups: list[Stored]) -> list[Stored]:
    return await with_members(call.front.pool, call.principal.tenant_id, groups, call.front.settings.scim_url)


USER_LIST = Kind(USERS, "groups", lambda call: call.schemas.user, lambda call: call.front.users, _find_users)
GROUP_LIST = Kind(
    GROUPS, "members", lambda call: call.schemas.group, lambda call: call.front.groups, _find_groups, _with_members
)


class _Choice:
    """One of the types of a list, with what is wanted of it."""

    def __init__(self, call: Call, kind: Kind, query: Query) -> None:
        self.kind = kind
        self.schema = kind.schema(call)
        self.writer = kind.writer(call)
        self.projection: Projection | None = None
        if query.attributes is not None or query.excluded is not None:
            self.projection = Projection.parse(query.attributes, query.excluded, self.schema)
        self.rows = self.projection is None or self.projection.includes(kind.rows)

    def write(self, stored: Stored) -> bytes:
        return self.writer.write(stored, self.projection)


async def answer_list(call: Call, kinds: Sequence[Kind], query: Query) -> web.Response:
    """Answer with a ListResponse of one resource type or, in one order, of several.

    Raises:
        InvalidFilterError: the filter cannot be read, or names what none of the types has.
        InvalidValueError: `sortBy` does; or both `attributes` and `excludedAttributes` are given.
        InvalidCursorError, ExpiredCursorError, InvalidCountError: the cursor is not good for this query.
        TooManyError: the groups of the page have too many members together.
    """
    choices = [_Choice(call, kind, query) for kind in kinds]
    schemas = [choice.schema for choice in choices]
    order = parse_order(query.sort_by, query.sort_order, schemas)
    start_index = min(query.start_index, _FURTHEST)
    alone = choices[0] if len(choices) == 1 and order is None and query.cursor is None else None
    if alone is not None and query.filter is not None:
        wanted = quick_lookup(query.filter, alone.schema) or lookup(parse_filter(query.filter), alone.schema)
        if wanted is not None:
            found = await alone.kind.find(call, wanted, alone.rows)
            page = found[start_index - 1 : start_index - 1 + _count(call, query)]
            return list_answer(map(alone.write, page), total=len(found), start_index=start_index)
    tree = None if query.filter is None else parse_filter(query.filter)
    if tree is None:
        parts = [Part(choice.kind.source, choice.schema, rows=choice.rows) for choice in choices]
    else:
        trees = [tree] if len(choices) == 1 else filter_of_each(tree, schemas)
        parts = [
            Part(choice.kind.source, choice.schema, each, rows=choice.rows)
            for choice, each in zip(choices, trees, strict=True)
        ]
    if query.cursor is not None:
        listed, next_cursor = await _walk(call, parts, query, order)
        return list_answer(await _write(call, choices, listed), total=listed.total, next_cursor=next_cursor)
    listed = await list_by_index(
        call.front.pool,
        call.principal.tenant_id,
        parts,
        start_index=start_index,
        count=_count(call, query),
        scim_url=call.front.settings.scim_url,
        order=order,
    )
    return list_answer(await _write(call, choices, listed), total=listed.total, start_index=start_index)


def _count(call: Call, query: Query) -> int:
    settings = call.front.settings
    return min(settings.page_size if query.count is None else query.count, settings.max_page_size)


async def _walk(call: Call, parts: Sequence[Part], query: Query, order: Order | None) -> tuple[Listed, str | None]:
    """Read a page by cursor; also return the cursor of the next, None on the last."""
    settings, tenant_id = call.front.settings, call.principal.tenant_id
    secret, now = settings.secret_key.get_secret_value().encode(), time.time()
    walk = (
        str(tenant_id),
        call.principal.actor.id or "",
        " ".join(part.schema.name for part in parts),
        query.filter or "",
        f"{order.path} {order.descending}" if order else "",
    )
    after, count = None, _count(call, query)
    if query.cursor:
        after, count = read_cursor(secret, walk, query.cursor, None if query.count is None else count, now)
    listed = await list_by_cursor(
        call.front.pool, tenant_id, parts, after=after, count=count, scim_url=settings.scim_url, order=order
    )
    return listed, make_cursor(secret, walk, listed.next, count, now) if listed.next else None


async def _write(call: Call, choices: Sequence[_Choice], listed: Listed) -> list[bytes]:
    """Return the resources of a page as JSON, in its order."""
    found = listed.resources
    for number, choice in enumerate(choices):
        if choice.rows and choice.kind.complete is not None:
            mine = [stored for part, stored in found if part == number]
            whole = iter(await choice.kind.complete(call, mine) if mine else [])
            found = [(part, next(whole) if part == number else stored) for part, stored in found]
    return [choices[part].write(stored) for part, stored in found]
