"""The HTTP ceiling: the least that an aiohttp server can do with a create and still answer it.

It parses the body, answers 201 with it as JSON, and does nothing else: no routes beside, no log, no middleware.
Run as ``python -m tests.bench.bare``, it prints its port and serves until it is told to stop.
"""

from __future__ import annotations

import asyncio
import contextlib

import orjson
import uvloop
from aiohttp import web


async def _create(request: web.Request) -> web.Response:
    doc = orjson.loads(await request.read())
    return web.Response(status=201, body=orjson.dumps(doc), content_type="application/scim+json")


async def _serve() -> None:
    app = web.Application()
    app.router.add_post("/scim/v2/Users", _create)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    print(runner.addresses[0][1], flush=True)  # noqa: T201 - the parent reads it
    try:
        await asyncio.Event().wait()
    finally:
        await runner.cleanup()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        uvloop.run(_serve())
