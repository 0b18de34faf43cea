"""/Me (RFC 7644 §3.11): a bearer token speaks for a provisioning connection, and no user owns it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from models.errors import UnsupportedError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from aiohttp import web

    from api.scim.call import Call

    Handler = Callable[[Call], Awaitable[web.Response]]


async def me(_: Call) -> web.Response:
    """Answer any method on /Me, and below it: 501.

    Raises:
        UnsupportedError: always.
    """
    raise UnsupportedError(
        "There is no /Me here: the token belongs to a provisioning connection of a tenant and not to a user."
        ' Look a user up with GET /Users?filter=userName eq "…".'
    )


HANDLERS: dict[str, Handler] = dict.fromkeys(("GET", "POST", "PUT", "PATCH", "DELETE"), me)
