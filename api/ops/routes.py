"""Every page under `/ops`; a new one is a module with `routes()` and a line here."""

from __future__ import annotations

from typing import TYPE_CHECKING

from api.ops import (
    bulk,
    cycle,
    dead,
    emails,
    job,
    jobs,
    overview,
    queues,
    requests,
    schedules,
    suppressed,
    tenants,
    workers,
)

if TYPE_CHECKING:
    from types import ModuleType

    from aiohttp import web

_PAGES: tuple[ModuleType, ...] = (
    overview,
    jobs,
    job,
    dead,
    bulk,
    queues,
    workers,
    schedules,
    cycle,
    suppressed,
    emails,
    requests,
    tenants,
)


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of all of them."""
    return [route for page in _PAGES for route in page.routes()]
