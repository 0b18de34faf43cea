"""Searches: POST to `.search` of an endpoint or of the root, and GET of the root (RFC 7644 §3.4.2.1, §3.4.3).

What stands in the body of a POST stands in no log of a proxy, which a filter in an address does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.requests import read_object
from api.scim.lists import GROUP_LIST, USER_LIST, answer_list
from api.scim.query import query_of, query_of_body

if TYPE_CHECKING:
    from collections.abc import Sequence

    from aiohttp import web

    from api.scim.call import Call
    from api.scim.lists import Kind


async def _search(call: Call, kinds: Sequence[Kind]) -> web.Response:
    body = await read_object(call.request, call.front.settings)
    return await answer_list(call, kinds, query_of_body(body))


async def search_users(call: Call) -> web.Response:
    """POST /Users/.search."""
    return await _search(call, [USER_LIST])


async def search_groups(call: Call) -> web.Response:
    """POST /Groups/.search."""
    return await _search(call, [GROUP_LIST])


async def search_everything(call: Call) -> web.Response:
    """POST /.search."""
    return await _search(call, [USER_LIST, GROUP_LIST])


async def query_everything(call: Call) -> web.Response:
    """GET /: users and groups in one list."""
    return await answer_list(call, [USER_LIST, GROUP_LIST], query_of(call.request))
