"""What the applications of one api process share, by typed key."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import asyncpg
from aiohttp import web

from api.peers import Peers
from models.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from api.auth import TokenCache
    from api.denials import Denials
    from api.limits import Limits
    from api.request_log import RequestLog
    from api.ring import Ring
    from api.scim.asynchronous import Deferrals
    from models.cycle import Beginnings
    from models.directory.find import UserFinder
    from models.directory.write import UserWriter
    from models.gauges import Gauges
    from models.intake import Intake

    Handling = Callable[[Any], Awaitable[web.StreamResponse]]
    """What a request is handed to; aiohttp types it now as the one and now as the other of its two classes."""

LISTENER: web.AppKey[str] = web.AppKey("listener")
"""`public` or `internal`: which of the two this application is."""
STRAIGHT: web.AppKey[Callable[[Handling], Handling]] = web.AppKey("straight")
"""Makes a handler of the requests that need no router, out of that of all others; of the public application."""
SETTINGS = web.AppKey("settings", Settings)
POOL = web.AppKey("pool", asyncpg.Pool)
"""For what spans tenants: tokens, refusals, the request log, readiness."""
TENANT_POOL: web.AppKey[asyncpg.Pool] = web.AppKey("tenant_pool")
"""For what speaks for a tenant: its connections see the rows of the tenants that a transaction names."""
PAGES_POOL: web.AppKey[asyncpg.Pool] = web.AppKey("pages_pool")
"""Few connections with a short statement timeout: pages never take one that SCIM needs."""
AUDIT_POOL: web.AppKey[asyncpg.Pool] = web.AppKey("audit_pool")
"""The same for the audit API, as `TENANT_POOL`: its searches hold up neither SCIM nor pages."""
INTAKE: web.AppKey[Intake] = web.AppKey("intake")
WRITER: web.AppKey[UserWriter] = web.AppKey("writer")
FINDER: web.AppKey[UserFinder] = web.AppKey("finder")
TOKENS: web.AppKey[TokenCache] = web.AppKey("tokens")
DENIALS: web.AppKey[Denials] = web.AppKey("denials")
PEERS = web.AppKey("peers", Peers)
LIMITS: web.AppKey[Limits] = web.AppKey("limits")
REQUESTS: web.AppKey[RequestLog] = web.AppKey("requests")
LATER: web.AppKey[Deferrals] = web.AppKey("later")
RING: web.AppKey[Ring] = web.AppKey("ring")
GAUGES: web.AppKey[Gauges] = web.AppKey("gauges")
BEGINNINGS: web.AppKey[Beginnings] = web.AppKey("beginnings")
DRAINING = web.AppKey("draining", asyncio.Event)
"""Set when the process is about to stop: it is no longer ready, but answers what still comes."""
