"""Requests that no connection brought: an operation of a bulk request, or one that was accepted to be done later.

They are real aiohttp requests, so that the handlers treat them as any other.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from aiohttp import HttpVersion11, StreamReader, web
from aiohttp.base_protocol import BaseProtocol
from aiohttp.http import RawRequestMessage
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

if TYPE_CHECKING:
    from collections.abc import Mapping


class _Nowhere:
    """Stands for the connection; a request asks it for nothing else."""

    ssl_context = None
    peername = None
    sockname = None


def make_request(
    method: str, target: str, *, headers: Mapping[str, str], body: bytes, remote: str | None
) -> web.Request:
    """Return a request whose body is there already.

    Args:
        method: the HTTP method.
        target: path and query, percent-encoded.
        headers: what the handlers may ask for.
        body: the body; empty for none.
        remote: whose address audit events tell.
    """
    loop = asyncio.get_running_loop()
    payload = StreamReader(BaseProtocol(loop), limit=len(body) + 1, loop=loop)
    if body:
        payload.feed_data(body)
    payload.feed_eof()
    message = RawRequestMessage(
        method=method,
        path=target,
        version=HttpVersion11,
        headers=CIMultiDictProxy(CIMultiDict(headers)),
        raw_headers=(),
        should_close=False,
        compression=None,
        upgrade=False,
        chunked=False,
        url=URL(target, encoded=True),
    )
    nothing: Any = None
    return web.Request(
        message, payload, cast("Any", _Nowhere()), nothing, nothing, loop, client_max_size=len(body) + 1, remote=remote
    )
