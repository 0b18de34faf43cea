"""The choice between light and dark, kept in a cookie so that it needs no script."""

from __future__ import annotations

from aiohttp import web

from api.pages.cookies import set_cookie
from api.pages.guard import safe_next
from api.pages.render import THEMES

_YEAR = 365 * 86400


async def _choose(request: web.Request) -> web.Response:
    form = await request.post()
    wanted, url = str(form.get("theme")), str(form.get("next", ""))
    # The pages that ask people to sign in have the choice too.
    target = url if url == "/sign-in" or url.startswith("/sign-in?") else safe_next(url)
    response = web.Response(status=303, headers={"Location": target})
    if wanted in THEMES:
        set_cookie(request, response, "usher-theme", wanted, max_age=_YEAR)
    return response


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [web.post("/theme", _choose)]
