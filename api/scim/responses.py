"""The one way in which resources, lists and errors are written, whatever method asked for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from aiohttp import web
from multidict import CIMultiDict

from api.headers import HEADERS
from api.scim.wire import Answer
from models.errors import HttpError, RateLimitError, UnauthenticatedError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime

    from models.directory.read import Stored
    from models.scim.project import Projection

MEDIA_TYPE = "application/scim+json"
LIST_SCHEMA = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
_HEADERS = CIMultiDict({**HEADERS, "Content-Type": MEDIA_TYPE})
_RETRY_AFTER_SECONDS = 5


def answer(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an answer of the SCIM media type; ``body`` is JSON bytes already or a value to write as JSON."""
    response = Answer(body=body if isinstance(body, bytes) else orjson.dumps(body), status=status, headers=_HEADERS)
    if headers:
        response.headers.update(headers)
    return response


def nothing(status: int = 204, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return an answer without a body: 204, or 304."""
    response = web.Response(status=status, headers=_HEADERS)
    if headers:
        response.headers.update(headers)
    return response


def error_answer(error: HttpError, headers: Mapping[str, str] | None = None) -> web.Response:
    """Return the SCIM Error message of ``error`` (RFC 7644 §3.12) with the headers that its status asks for."""
    extra = dict(headers or {})
    if isinstance(error, UnauthenticatedError):
        extra["WWW-Authenticate"] = 'Bearer realm="usher", error="invalid_token"'
    elif isinstance(error, UnavailableError):
        extra["Retry-After"] = str(_RETRY_AFTER_SECONDS)
    elif isinstance(error, RateLimitError):
        extra["Retry-After"] = str(error.retry_seconds)
    return answer(error.body(), error.status, extra)


def moment(value: datetime) -> str:
    """Return a time as xsd:dateTime in UTC (RFC 7643 §2.3.5); the pool keeps sessions in UTC."""
    return value.isoformat().replace("+00:00", "Z")


def etag(version: int) -> str:
    """Return the weak entity tag of a version (RFC 7644 §3.14)."""
    return f'W/"{version}"'


def _head(stored: Stored, kind: str, base: str) -> str:
    # Times, ids and versions need no escaping, and the base is the address from the settings.
    name, created = str(stored.id), moment(stored.created_at)
    modified = created if stored.version == 1 else moment(stored.last_modified)
    return (
        f'{{"id":"{name}","meta":{{"resourceType":"{kind}","created":"{created}","lastModified":"{modified}",'
        f'"location":"{base}{name}","version":"W/\\"{stored.version}\\""}}'
    )


class Resources:
    """Writes the resources of one type."""

    def __init__(self, scim_url: str, kind: str, endpoint: str) -> None:
        """Take the SCIM base URL, `User` or `Group`, and `/Users` or `/Groups`."""
        self._kind = kind
        self._base = scim_url + endpoint + "/"

    def location(self, stored: Stored) -> str:
        """Return the address of a resource, as `meta.location` and the Location header have it."""
        return self._base + str(stored.id)

    def write(self, stored: Stored, projection: Projection | None = None) -> bytes:
        """Return a resource as JSON; the stored document is not read unless a projection needs it."""
        rows = f"{stored.rows}," if stored.rows else ""
        text = f"{_head(stored, self._kind, self._base)},{rows}{stored.doc[1:]}".encode()
        return text if projection is None else orjson.dumps(projection.apply(orjson.loads(text)))

    def one(self, stored: Stored, *, status: int = 200, projection: Projection | None = None) -> web.Response:
        """Answer with one resource, its entity tag and its address."""
        return answer(self.write(stored, projection), status, self.head(stored))

    def head(self, stored: Stored) -> dict[str, str]:
        """Return the headers that go with one resource."""
        return {"ETag": etag(stored.version), "Location": self.location(stored)}


def list_answer(
    resources: Iterable[bytes], *, total: int | None, start_index: int | None = None, next_cursor: str | None = None
) -> web.Response:
    """Answer with part of a list (RFC 7644 §3.4.2, RFC 9865 §2).

    Args:
        resources: as `Resources.write` returns them.
        total: the number of all that match; None if it is not known.
        start_index: the number of the first, of a page by index.
        next_cursor: where the next page begins, of a page by cursor that is not the last.
    """
    items = list(resources)
    head: dict[str, Any] = {"schemas": [LIST_SCHEMA], "itemsPerPage": len(items)}
    if total is not None:
        head["totalResults"] = total
    if start_index is not None:
        head["startIndex"] = start_index
    if next_cursor is not None:
        head["nextCursor"] = next_cursor
    return answer(orjson.dumps(head)[:-1] + b',"Resources":[' + b",".join(items) + b"]}")


def everything(resources: Iterable[Mapping[str, Any]]) -> web.Response:
    """Answer with a whole list of ready documents, as the discovery endpoints do."""
    items = list(resources)
    return answer(
        {
            "schemas": [LIST_SCHEMA],
            "totalResults": len(items),
            "startIndex": 1,
            "itemsPerPage": len(items),
            "Resources": items,
        }
    )
