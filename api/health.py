"""/livez and /readyz, on the internal listener."""

from __future__ import annotations

from typing import TYPE_CHECKING

from aiohttp import web

from api.keys import DRAINING, POOL, RING
from models.migrations.run import current, head

if TYPE_CHECKING:
    from collections.abc import Iterable


async def livez(_: web.Request) -> web.Response:
    """Say that the event loop turns; asks nobody else."""
    return web.json_response({"status": "alive"})


async def readyz(request: web.Request) -> web.Response:
    """Say whether creates can be accepted: PostgreSQL writable and migrated, and not about to stop.

    Redis is told but not needed: without it creates are still accepted, and applied later.
    """
    checks = {"postgresql": await _postgresql(request), "draining": request.config_dict[DRAINING].is_set()}
    ready = checks["postgresql"] == "ok" and not checks["draining"]
    checks["redis"] = (
        "ok" if await request.config_dict[RING].ping() else "unreachable (creates are accepted, not applied)"
    )
    return web.json_response({"status": "ready" if ready else "not ready", **checks}, status=200 if ready else 503)


async def _postgresql(request: web.Request) -> str:
    try:
        async with request.config_dict[POOL].acquire(timeout=2) as connection:
            if await connection.fetchval("SELECT pg_is_in_recovery()", timeout=2):
                return "read-only"
            revision = await current(connection)
    except Exception as error:  # noqa: BLE001  however it fails, it is not ready
        return f"unreachable ({type(error).__name__})"
    # A newer schema is fine: migrations come before the code that needs them, and old processes go on meanwhile.
    return "ok" if revision is not None and revision >= head() else f"at migration {revision}: run `usher migrate`"


def routes() -> Iterable[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [web.get("/livez", livez), web.get("/readyz", readyz)]
