"""scim2-client over plain HTTP, for scim2-tester."""

from __future__ import annotations

import json
from dataclasses import dataclass
from http.client import HTTPConnection
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode, urlsplit

from scim2_client import BaseSyncSCIMClient

if TYPE_CHECKING:
    from http.client import HTTPMessage

    from scim2_client.client import RawResponse


@dataclass(frozen=True)
class Response:
    """What scim2-client reads of an answer."""

    status_code: int
    headers: HTTPMessage
    text: str

    def json(self) -> Any:
        return json.loads(self.text)


class JudgeClient(BaseSyncSCIMClient):
    """A client of one token."""

    def __init__(self, scim_url: str, token: str) -> None:
        super().__init__()
        parts = urlsplit(scim_url)
        self._base = parts.path
        self._token = token
        self._connection = HTTPConnection(parts.hostname or "", parts.port, timeout=30)

    def _stays_under_base_url(self, endpoint: str) -> bool:
        return "://" not in endpoint and ".." not in endpoint

    def _parse_json(self, response: RawResponse) -> Any:
        return json.loads(response.text)

    def request(self, method: str, url: str, **kwargs: Any) -> Response:
        """Send a request with the arguments that httpx would take."""
        query = urlencode(kwargs.get("params") or {})
        path = quote(f"{self._base}/{url.lstrip('/')}", safe="/:.~?&=%")
        body = json.dumps(kwargs["json"]).encode() if kwargs.get("json") is not None else None
        headers = {"Authorization": f"Bearer {self._token}", **(kwargs.get("headers") or {})}
        if body is not None:
            headers.setdefault("Content-Type", "application/json")
        self._connection.request(method, f"{path}?{query}" if query else path, body, headers)
        with self._connection.getresponse() as response:
            return Response(response.status, response.headers, response.read().decode())

    def close(self) -> None:
        self._connection.close()
