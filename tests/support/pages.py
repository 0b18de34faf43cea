"""A browser without a screen for the tests of pages: keeps cookies, says where it comes from, follows nothing."""

from __future__ import annotations

import asyncio
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7
from yarl import URL

from api.pages.cookies import cookie_name
from api.pages.guard import SESSION_COOKIE
from models.audit.record import OPERATOR
from models.db import open_pool
from models.operators import Operator, add_operator
from models.sessions import begin_session
from tests.support.api import Answer

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    import aiohttp
    import asyncpg

    from models.settings import Settings
    from tests.support.api import Api

_ANSWER_SECONDS = 20.0


@dataclass
class Browser:
    """One browser; ``operator`` is who was signed in when it was made, if anybody was."""

    session: aiohttp.ClientSession
    url: str
    operator: Operator | None = None
    cookies: dict[str, str] = field(default_factory=dict)

    async def send(
        self,
        method: str,
        path: str,
        *,
        form: Mapping[str, str] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """Send a request as a page of the same site would, keep the cookies, and return the answer unfollowed."""
        sent = {"Accept": "text/html", "Sec-Fetch-Site": "same-origin"}
        if self.cookies:
            sent["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        async with (
            asyncio.timeout(_ANSWER_SECONDS),
            self.session.request(
                method,
                URL(self.url + path, encoded=True),
                data=dict(form) if form is not None else None,
                headers={**sent, **(headers or {})},
                allow_redirects=False,
            ) as response,
        ):
            answer = Answer(response.status, response.headers, await response.read())
            for line in response.headers.getall("Set-Cookie", []):
                for name, morsel in SimpleCookie(line).items():
                    if morsel["max-age"] == "0":
                        self.cookies.pop(name, None)
                    else:
                        self.cookies[name] = morsel.value
        return answer

    async def get(self, path: str, **headers: str) -> Answer:
        """Ask for a page."""
        return await self.send("GET", path, headers=headers)

    async def post(self, path: str, form: Mapping[str, str] | None = None, **headers: str) -> Answer:
        """Press a button."""
        return await self.send("POST", path, form=form or {}, headers=headers)

    async def read(self, path: str) -> str:
        """Return the text of a page that must be there."""
        answer = await self.get(path)
        assert answer.status == 200, (path, answer.status, answer.content[:500])
        return answer.content.decode()

    async def follow(self, answer: Answer) -> str:
        """Return the text of the page that a redirect leads to."""
        assert answer.status == 303, (answer.status, answer.content[:2000])
        return await self.read(answer.headers["Location"])


async def make_operator(pool: asyncpg.Pool, role: str = "admin", name: str | None = None) -> Operator:
    """Add an operator of a name of its own."""
    name = name or f"o-{uuid.uuid4().hex[:10]}"
    async with pool.acquire() as connection:
        return await add_operator(
            connection,
            name=name,
            email=f"{name}@example.com",
            role=role,
            actor=OPERATOR,
            correlation_id=uuid7(),
        )


@asynccontextmanager
async def operators_pool(settings: Settings) -> AsyncIterator[asyncpg.Pool]:
    """Connect to the test's database as the application does."""
    pool = await open_pool(settings, name="tests", size=4)
    try:
        yield pool
    finally:
        await pool.close()


async def browser(api: Api, role: str | None = "admin") -> Browser:
    """Return a browser in which a new operator with ``role`` is signed in; with None nobody is."""
    if role is None:
        return Browser(api.session, api.internal_url)
    async with operators_pool(api.settings) as pool:
        operator = await make_operator(pool, role)
        async with pool.acquire() as connection, connection.transaction():
            value = await begin_session(connection, operator.id)
    name = cookie_name(api.settings, SESSION_COOKIE)
    return Browser(api.session, api.internal_url, operator, {name: value})
