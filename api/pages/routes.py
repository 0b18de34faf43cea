"""What all pages share: files, colours, and the way in."""

from __future__ import annotations

from aiohttp import web

from api.pages import account, sign_in, static, theme


async def _home(_: web.Request) -> web.Response:
    return web.Response(status=303, headers={"Location": "/ops"})


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of all of them."""
    return [web.get("/", _home), *static.routes(), *theme.routes(), *sign_in.routes(), *account.routes()]
