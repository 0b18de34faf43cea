"""Putting the front end together: the public and the internal application of one process."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from aiohttp import web
from uuid_utils.compat import uuid7

from api import health, invitations, metrics, probes
from api.admin import routes as admin
from api.audit import routes as audit
from api.auth import TokenCache
from api.denials import Denials
from api.keys import (
    AUDIT_POOL,
    BEGINNINGS,
    DENIALS,
    DRAINING,
    FINDER,
    GAUGES,
    INTAKE,
    LATER,
    LIMITS,
    LISTENER,
    PAGES_POOL,
    PEERS,
    POOL,
    REQUESTS,
    RING,
    SETTINGS,
    TENANT_POOL,
    TOKENS,
    WRITER,
)
from api.limits import Limits
from api.metrics import count_page, count_request, counted
from api.ops import routes as ops
from api.pages import live
from api.pages import routes as pages
from api.pages.guard import frame
from api.pages.render import secure
from api.peers import Peers
from api.request_log import RequestLog
from api.ring import Ring
from api.scim.asynchronous import Deferrals
from api.scim.dispatch import add_routes
from api.scim.front import Front
from models.db import ACQUIRE_SECONDS, REQUEST_STATEMENT_SECONDS, TENANT_ROLE, open_pool
from models.directory.find import UserFinder
from models.directory.write import UserWriter
from models.gauges import Gauges
from models.intake import Intake

if TYPE_CHECKING:
    from uuid import UUID

    from models.settings import Settings

_LARGEST_FORM = 64 * 1024  # bytes
# A dashboard can never starve SCIM: it has these connections, each for this long, and no other.
_PAGES_CONNECTIONS = 3
_AUDIT_CONNECTIONS = 2
# Tokens, refusals and the request log are read and written for many requests at once.
_OWN_CONNECTIONS = 4
_PAGES_STATEMENT_SECONDS = 2


@dataclass(frozen=True, slots=True)
class Faces:
    """The two applications of a process, over the same servers."""

    public: web.Application
    internal: web.Application
    draining: asyncio.Event
    process_id: UUID
    """What the ledger, the pages and PostgreSQL call the process."""

    async def close(self) -> None:
        """Finish what was accepted, then let go of the servers; after the listeners have stopped."""
        await self.public[LATER].close()
        await self.public[INTAKE].close()
        await self.public[WRITER].close()
        await self.public[FINDER].close()
        await self.public[DENIALS].close()
        await self.public[REQUESTS].close()
        await self.public[TOKENS].close()
        await self.public[RING].close()
        await self.internal[GAUGES].close()
        await self.internal[PAGES_POOL].close()
        await self.public[AUDIT_POOL].close()
        await self.public[TENANT_POOL].close()
        await self.public[POOL].close()


async def make_apps(settings: Settings) -> Faces:
    """Return the applications; nothing is connected before the first request needs it."""
    process_id = uuid7()
    waits: dict[str, Any] = {
        "process_id": process_id,
        "statement_seconds": REQUEST_STATEMENT_SECONDS,
        "acquire_seconds": ACQUIRE_SECONDS,
    }
    pool = await open_pool(settings, name="api", size=_OWN_CONNECTIONS, **waits)
    tenant_pool = await open_pool(settings, name="scim", role=TENANT_ROLE, **waits)
    ring = Ring(settings)
    draining = asyncio.Event()
    public = web.Application(client_max_size=settings.max_body_bytes)
    internal = web.Application(client_max_size=_LARGEST_FORM, middlewares=[count_page, frame])
    public[LISTENER], internal[LISTENER] = "public", "internal"
    for app in (public, internal):
        app[PEERS] = Peers(settings)
        app[SETTINGS], app[POOL], app[RING], app[DRAINING] = settings, pool, ring, draining
    public[TENANT_POOL] = tenant_pool
    public[INTAKE] = Intake(tenant_pool, settings, ring.ring)
    public[WRITER] = UserWriter(tenant_pool, settings, ring.ring)
    public[FINDER] = UserFinder(tenant_pool, limit=settings.intake_batch, in_flight=settings.intake_in_flight)
    public[TOKENS] = TokenCache(pool, settings)
    public[DENIALS] = Denials(pool)
    public[LATER] = Deferrals(pool, settings)
    public.router.add_routes(counted(invitations.routes()))
    public[REQUESTS] = RequestLog(pool)
    limits = Limits(settings)
    front = Front.make(
        settings,
        tenant_pool,
        public[INTAKE],
        public[WRITER],
        public[FINDER],
        public[TOKENS],
        public[DENIALS],
        public[LATER],
        public[REQUESTS],
        limits,
    )
    searches = await open_pool(settings, name="audit", process_id=process_id, role=TENANT_ROLE, size=_AUDIT_CONNECTIONS)
    for app in (public, internal):
        app[AUDIT_POOL], app[TOKENS], app[DENIALS] = searches, public[TOKENS], public[DENIALS]
        app[LIMITS] = limits
    audit.add_routes(public, count=count_request)
    audit.add_routes(internal)  # whose every request is counted
    add_routes(public, front)
    internal[PAGES_POOL] = await open_pool(
        settings,
        name="pages",
        process_id=process_id,
        size=_PAGES_CONNECTIONS,
        statement_seconds=_PAGES_STATEMENT_SECONDS,
        acquire_seconds=ACQUIRE_SECONDS,
    )
    internal.on_response_prepare.append(secure)
    live.set_up(internal)
    probes.set_up(internal)
    internal[GAUGES] = Gauges(settings, ring.info)
    internal[BEGINNINGS] = {}
    for part in (health, metrics, pages, ops, admin):
        internal.router.add_routes(part.routes())
    return Faces(public, internal, draining, process_id)
