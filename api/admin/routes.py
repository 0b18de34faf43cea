"""Every page under `/admin`; a new one is a module with `routes()` and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.admin import audit, audit_export, operators, streams, tokens

if TYPE_CHECKING:
    from types import ModuleType

    from aiohttp import web

_PAGES: tuple[ModuleType, ...] = (audit_export, audit, operators, streams, tokens)


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of all of them."""
    return [route for page in _PAGES for route in page.routes()]
