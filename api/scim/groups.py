"""/Groups: groups are not stored yet, so every query truly finds none.

Entra looks for groups as soon as their mapping is on, and quarantines the whole job when `/Groups` is
missing (entra-cases.md 2, 153).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.requests import query_integer, query_text
from api.scim.responses import LIST_SCHEMA, answer
from models.errors import NotFoundError, UnsupportedError
from models.scim.filter import parse_filter

if TYPE_CHECKING:
    from aiohttp import web

    from api.scim.call import Call


async def query_groups(call: Call) -> web.Response:
    """GET /Groups: a list without entries."""
    text = query_text(call.request, "filter")
    if text is not None:
        parse_filter(text)
    start_index = query_integer(call.request, "startIndex", 1, least=1)
    return answer(
        {"schemas": [LIST_SCHEMA], "totalResults": 0, "startIndex": start_index, "itemsPerPage": 0, "Resources": []}
    )


async def get_group(_: Call) -> web.Response:
    """GET /Groups/{id}: no id is a group's."""
    raise NotFoundError("There is no group with this id.")


async def create_group(_: Call) -> web.Response:
    """POST /Groups: said plainly rather than pretended."""
    raise UnsupportedError("Groups are not supported yet; switch off the group mapping in Entra.")
