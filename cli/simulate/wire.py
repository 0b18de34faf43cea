"""How Entra speaks: its headers, its encoding of a query, its patience (entra-wire.md §1)."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import quote, quote_plus

import aiohttp
import orjson
from yarl import URL

from cli.simulate.changes import patch
from cli.simulate.findings import Answer, Finding
from models.errors import UsageError

if TYPE_CHECKING:
    from cli.simulate.report import Report

WITHOUT_MEMBERS = "excludedAttributes=members"

_ANSWER_SECONDS = 60  # an endpoint must answer within 60 seconds (entra-wire.md §1)
_TRIES = 6
_LONGEST_WAIT = 30.0
_BUSY = frozenset({429, 503})


class Wire:
    """A connection to one Tenant URL, used as an asynchronous context manager."""

    def __init__(self, url: str, token: str, concurrency: int, report: Report) -> None:
        """Take the Tenant URL as it is pasted into Entra: a slash at its end and a feature flag are allowed.

        Args:
            url: base of all requests; its query string is appended to each of them.
            token: the Secret Token.
            concurrency: most connections at once.
            report: where times, repeats and findings go.

        Raises:
            UsageError: the URL is none, or the token cannot be sent in a header.
        """
        try:
            parts = URL(url, encoded=True)
        except ValueError:
            parts = URL()
        if parts.scheme not in ("http", "https") or not parts.host:
            raise UsageError(f"--url must be an http or https address, such as https://HOST/scim/v2; it is {url!r}.")
        if not (token and token.isascii() and token.isprintable() and " " not in token):
            raise UsageError("--token must be the Secret Token: printable ASCII without spaces.")
        self._base = f"{parts.scheme}://{parts.raw_authority}{parts.raw_path.rstrip('/')}"
        self._flags = parts.raw_query_string
        self._headers = {"Authorization": f"Bearer {token}"}
        self._concurrency = concurrency
        self._report = report

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(
            headers=self._headers,
            # Entra sends no User-Agent; of the others nothing is known, so nothing is sent.
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding"),
            connector=aiohttp.TCPConnector(limit=self._concurrency),
            timeout=aiohttp.ClientTimeout(total=_ANSWER_SECONDS, sock_connect=10),
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._session.close()

    async def users(self, kind: str, filter_: str, more: str = "") -> tuple[str, Answer]:
        """Look for users, encoding the filter as Entra does.

        Args:
            kind: the row of the report that the request belongs to.
            filter_: not yet encoded.
            more: further parameters, encoded, such as ``&attributes=id``.

        Returns:
            The request line, for the report, and the answer.
        """
        return await self.send(kind, "GET", "/Users", query=f"filter={encode(filter_)}{more}")

    async def groups(self, kind: str, filter_: str, more: str = "") -> tuple[str, Answer]:
        """Look for groups without their members, as Entra does."""
        query = f"{WITHOUT_MEMBERS}&filter={encode(filter_)}{more}"
        return await self.send(kind, "GET", "/Groups", query=query)

    async def references(self, filter_: str) -> tuple[str, Answer]:
        """Ask which groups have a member; only their ids are asked for (entra-wire.md §3)."""
        return await self.send("reference check", "GET", "/Groups", query=f"filter={encode(filter_)}&attributes=id")

    async def get(self, kind: str, path: str, query: str | None = None) -> tuple[str, Answer]:
        """Read one address below the Tenant URL."""
        return await self.send(kind, "GET", path, query=query)

    async def read(self, kind: str, user_id: str) -> tuple[str, Answer]:
        """Read one user by id."""
        return await self.send(kind, "GET", user_path(user_id))

    async def create(self, kind: str, body: dict[str, Any], path: str = "/Users") -> tuple[str, Answer]:
        """Create a user, or with ``/Groups`` a group."""
        return await self.send(kind, "POST", path, body=body)

    async def patch(self, kind: str, path: str, operations: list[dict[str, Any]]) -> tuple[str, Answer]:
        """Change one resource."""
        return await self.send(kind, "PATCH", path, body=patch(operations))

    async def delete(self, kind: str, path: str) -> tuple[str, Answer]:
        """Delete one resource."""
        return await self.send(kind, "DELETE", path)

    async def send(
        self, kind: str, method: str, path: str, *, query: str | None = None, body: dict[str, Any] | None = None
    ) -> tuple[str, Answer]:
        """Send a request, again while the server is busy; return its line, for the report, and the answer."""
        line = f"{method} {path}{f'?{query}' if query else ''}"
        for attempt in range(1, _TRIES + 1):
            answer = await self._once(kind, method, self._url(path, query), body)
            if answer.status not in _BUSY or attempt == _TRIES:
                break
            wait = retry_after(answer)
            if wait is None:
                self._report.deviates(line, [Finding("Retry-After in seconds beside 429 or 503", str(answer.status))])
                break
            self._report.retries += 1
            await asyncio.sleep(wait)
        return line, answer

    async def _once(self, kind: str, method: str, url: URL, body: dict[str, Any] | None) -> Answer:
        headers = {"Content-Type": "application/scim+json; charset=utf-8"} if body is not None else {}
        data = orjson.dumps(body) if body is not None else None
        started = time.perf_counter()
        try:
            async with self._session.request(method, url, data=data, headers=headers, allow_redirects=False) as came:
                raw = await came.read()
                answer = Answer(came.status, {name.lower(): value for name, value in came.headers.items()}, raw)
        except TimeoutError:
            answer = Answer(None, {}, failure=f"no answer within {_ANSWER_SECONDS} seconds")
        except aiohttp.ClientError as error:
            answer = Answer(None, {}, failure=f"no answer ({error or type(error).__name__})")
        self._report.took(kind, time.perf_counter() - started)
        return answer

    def _url(self, path: str, query: str | None) -> URL:
        together = "&".join(part for part in (query, self._flags) if part)
        return URL(f"{self._base}{path}{f'?{together}' if together else ''}", encoded=True)


def user_path(user_id: str) -> str:
    """Return the address of a user below the Tenant URL."""
    return f"/Users/{quote(user_id, safe='')}"


def encode(filter_: str) -> str:
    """Encode a filter as Entra does: spaces as ``+``, quotes as ``%22``, ``@`` as ``%40`` (entra-wire.md §1)."""
    return quote_plus(filter_, safe="!*()")


def retry_after(answer: Answer) -> float | None:
    """Return the seconds to wait that an answer names, at most 30, or None if it names none."""
    value = answer.headers.get("retry-after", "")
    return min(float(value), _LONGEST_WAIT) if value.isascii() and value.isdigit() else None
