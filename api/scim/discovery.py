"""What this server can do: /ServiceProviderConfig, /ResourceTypes, /Schemas (RFC 7644 §4)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from api.requests import query_text
from api.scim.bulk import MAX_OPERATIONS
from api.scim.responses import answer, everything
from models.errors import ForbiddenError, NotFoundError
from models.scim import discovery
from models.scim.cursor import CURSOR_SECONDS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from aiohttp import web

    from api.scim.call import Call


async def service_provider_config(call: Call) -> web.Response:
    """GET /ServiceProviderConfig.

    Its `securityEvents` (RFC 9967) are returned on request, with `attributes=securityEvents`: clients that hold it to
    the schema of RFC 7643 §5 refuse the whole document over an attribute that came later.
    """
    settings = call.front.settings
    asked = (query_text(call.request, "attributes") or "").lower().split(",")
    return answer(
        discovery.service_provider_config(
            settings.scim_url,
            max_results=settings.max_page_size,
            max_payload=settings.max_body_bytes,
            page_size=settings.page_size,
            patch=True,
            bulk=True,
            max_operations=MAX_OPERATIONS,
            sort=True,
            cursor_seconds=CURSOR_SECONDS,
            async_requests=any(name.strip() == "securityevents" for name in asked),
        )
    )


def _resource_types(call: Call) -> Sequence[dict[str, Any]]:
    url, own = call.front.settings.scim_url, call.schemas
    return discovery.resource_types(url, groups=True, user=own.user, group=own.group)


def _schemas(call: Call) -> Sequence[dict[str, Any]]:
    return discovery.schemas(call.front.settings.scim_url, [call.schemas.user, call.schemas.group])


async def _list(call: Call, make: Callable[[Call], Sequence[dict[str, Any]]]) -> web.Response:
    if query_text(call.request, "filter") is not None:
        raise ForbiddenError("Filters are not allowed here (RFC 7644 §4); leave the filter away.")
    return everything(make(call))


async def _one(call: Call, make: Callable[[Call], Sequence[dict[str, Any]]]) -> web.Response:
    wanted = call.resource_id.lower()
    for document in make(call):
        if document["id"].lower() == wanted:
            return answer(document)
    raise NotFoundError


async def resource_types(call: Call) -> web.Response:
    """GET /ResourceTypes."""
    return await _list(call, _resource_types)


async def resource_type(call: Call) -> web.Response:
    """GET /ResourceTypes/{name}."""
    return await _one(call, _resource_types)


async def schemas(call: Call) -> web.Response:
    """GET /Schemas."""
    return await _list(call, _schemas)


async def schema(call: Call) -> web.Response:
    """GET /Schemas/{urn}."""
    return await _one(call, _schemas)
