"""The HTTP face as tests use it: served in this process or by real ones, and a caller who trusts no answer."""

from __future__ import annotations

import asyncio
import json
import socket
import uuid
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import quote_plus

import aiohttp
import asyncpg
from aiohttp import web
from redis.asyncio import Redis
from uuid_utils.compat import uuid7
from yarl import URL

from api.app import Faces, make_apps
from api.main import make_runner
from models.audit.record import OPERATOR
from models.jobs import PROVISION, claim
from models.provision import apply_creates
from models.settings import Settings, load_settings
from models.tenants import add_tenant
from models.tokens import issue_token
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from tests.support.servers import Servers

SCIM_TYPE = "application/scim+json"
ERROR_URN = "urn:ietf:params:scim:api:messages:2.0:Error"
LIST_URN = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
# RFC 7644 §3.12, Table 9, and what `uniqueness` adds to 409; RFC 9865 §2.1 for cursors.
SCIM_TYPES = {
    *("invalidFilter", "tooMany", "uniqueness", "mutability", "invalidSyntax", "invalidPath", "noTarget"),
    *("invalidValue", "invalidVers", "sensitive"),
    *("invalidCursor", "expiredCursor", "invalidCount"),
}
SECRET_KEY = "a-secret-key-for-tests-of-enough-length"
_ANSWER_SECONDS = 30.0


@dataclass(frozen=True)
class Answer:
    """An answer, read whole."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    @cached_property
    def json(self) -> Any:
        return json.loads(self.content)

    def resources(self) -> list[Any]:
        """Return what a ListResponse holds, after checking its form (RFC 7644 §3.4.2)."""
        assert self.status == 200, self
        body = self.json
        assert body["schemas"] == [LIST_URN]
        assert isinstance(body["Resources"], list)
        assert body["itemsPerPage"] == len(body["Resources"]) <= body["totalResults"]
        assert body["startIndex"] >= 1
        return list(body["Resources"])

    def error(self, status: int, scim_type: str | None = None) -> str:
        """Return the detail of a SCIM Error, after checking that it is this one."""
        assert (self.status, self.json.get("scimType")) == (status, scim_type), self
        check_error(self)
        return str(self.json["detail"])


def check_error(answer: Answer) -> None:
    """Check that a failure is told as RFC 7644 §3.12 wants it."""
    assert answer.headers["Content-Type"] == SCIM_TYPE, answer
    body = answer.json
    assert body["schemas"] == [ERROR_URN]
    assert body["status"] == str(answer.status)
    assert isinstance(body["detail"], str)
    assert body["detail"]
    assert set(body) <= {"schemas", "status", "scimType", "detail"}
    assert body.get("scimType", "invalidValue") in SCIM_TYPES


@dataclass(frozen=True)
class Tenant:
    """A customer with one token of scope `scim`."""

    id: uuid.UUID
    name: str
    token_id: str
    token: str


@dataclass(frozen=True)
class Caller:
    """A SCIM client. Whatever it is answered must be a SCIM message."""

    session: aiohttp.ClientSession
    scim_url: str
    tenant: Tenant
    token: str | None
    applies: Settings | None = None
    """Where to apply what waits after each create; else a created user stays waiting, as there is no worker."""

    def bearing(self, token: str | None) -> Caller:
        """Return the same caller with another token, or none."""
        return replace(self, token=token)

    def at(self, scim_url: str) -> Caller:
        """Return the same caller at another address."""
        return replace(self, scim_url=scim_url)

    async def send(
        self,
        method: str,
        path: str,
        *,
        body: bytes | IO[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
        without: Sequence[str] = (),
    ) -> Answer:
        """Send a request and check the form of its answer.

        Args:
            method: any token.
            path: below the SCIM base URL, or from a slash-less `http`; percent-encoded already.
            body: as it is.
            headers: beside, or instead of, the Authorization header and the SCIM media type.
            without: headers that the client library would add by itself.
        """
        sent = {"Authorization": f"Bearer {self.token}"} if self.token is not None else {}
        if body is not None:
            sent["Content-Type"] = SCIM_TYPE
        url = path if path.startswith("http") else self.scim_url + path
        async with (
            asyncio.timeout(_ANSWER_SECONDS),
            self.session.request(
                method,
                URL(url, encoded=True),
                data=body,
                headers={**sent, **(headers or {})},
                skip_auto_headers=without,
                allow_redirects=False,
            ) as response,
        ):
            answer = Answer(response.status, response.headers, await response.read())
        assert answer.headers["Content-Type"] == SCIM_TYPE, answer
        assert uuid.UUID(answer.headers["X-Correlation-Id"]), answer
        if answer.status >= 400 and method != "HEAD":
            check_error(answer)
        return answer

    async def get(self, path: str, **query: Any) -> Answer:
        """GET with query parameters, encoded as Entra does: `+` for a space, `%40`, `%22` (entra-wire.md §1)."""
        text = "&".join(f"{name}={quote_plus(str(value))}" for name, value in query.items())
        return await self.send("GET", f"{path}?{text}" if text else path)

    async def post(self, path: str, value: Any, **headers: str) -> Answer:
        """POST a value as JSON."""
        return await self.send("POST", path, body=json.dumps(value).encode(), headers=headers)

    async def create(self, value: Any) -> dict[str, Any]:
        """Create a user and return the answer's resource."""
        answer = await self.post("/Users", value)
        assert answer.status == 201, answer
        if self.applies is not None:
            await apply_all(self.applies)
        return dict(answer.json)

    async def match(self, text: str, **query: Any) -> list[Any]:
        """Return the users that a filter finds."""
        return (await self.get("/Users", filter=text, **query)).resources()


@dataclass(frozen=True)
class Api:
    """A front end that answers on free ports."""

    settings: Settings
    scim_url: str
    internal_url: str
    session: aiohttp.ClientSession
    faces: Faces

    async def caller(self, **token: Any) -> Caller:
        """Return a caller for a new tenant; ``token`` is what `issue_token` takes."""
        tenant = await make_tenant(self.settings, **token)
        return Caller(self.session, self.scim_url, tenant, tenant.token)


def document(user_name: str, **attributes: Any) -> dict[str, Any]:
    """Return a small user as a create-only set-up sends it."""
    return {"schemas": ["urn:ietf:params:scim:schemas:core:2.0:User"], "userName": user_name, **attributes}


def work_email(value: str, **more: Any) -> dict[str, Any]:
    """Return an e-mail address of the type by which Entra matches."""
    return {"type": "work", "value": value, **more}


@asynccontextmanager
async def store(settings: Settings) -> AsyncIterator[asyncpg.Connection]:
    """Connect to the test's database with every right."""
    connection = await asyncpg.connect(settings.database_url.get_secret_value())
    await connection.set_type_codec("jsonb", schema="pg_catalog", encoder=json.dumps, decoder=json.loads)
    try:
        yield connection
    finally:
        await connection.close()


async def apply_all(settings: Settings) -> int:
    """Apply every create that waits, as a worker does, and return how many that were."""
    applied = 0
    async with store(settings) as connection:
        while True:
            lease = uuid7()
            jobs = await claim(connection, PROVISION, lease_token=lease, lease_seconds=30, limit=100)
            if not jobs:
                return applied
            done, _ = await apply_creates(connection, jobs, lease)
            applied += len(done)


async def make_tenant(settings: Settings, *, invitations: bool = False, **token: Any) -> Tenant:
    """Add a tenant with a token; without invitations unless they are what the test is about."""
    name = f"t-{uuid.uuid4().hex[:12]}"
    async with store(settings) as connection:
        row = await add_tenant(connection, name=name, actor=OPERATOR, correlation_id=uuid7(), invitations=invitations)
        issued = await issue_token(connection, tenant_id=row["id"], actor=OPERATOR, correlation_id=uuid7(), **token)
    return Tenant(row["id"], name, issued.id, issued.text)


@asynccontextmanager
async def fresh_settings(servers: Servers, **overrides: Any) -> AsyncIterator[Settings]:
    """Make settings for a new database and an empty Redis number; for fixtures that outlive one test."""
    redis_url = servers.next_redis_url()
    async with servers.databases.copy() as database_url, Redis.from_url(redis_url) as redis:
        await redis.flushdb()
        base = {"database_url": database_url, "redis_url": redis_url, "smtp_url": servers.smtp_url}
        yield load_settings(**{**base, "secret_key": SECRET_KEY, "port": 0, "admin_port": 0, **overrides})
        await redis.flushdb()


@asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Api]:
    """Serve both applications in this process, as `api.main` does."""
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    origin = f"http://127.0.0.1:{listener.getsockname()[1]}"
    settings = altered(settings, public_url=origin)
    faces = await make_apps(settings)
    public, internal = make_runner(faces.public, settings), make_runner(faces.internal, settings)
    connector = aiohttp.TCPConnector(limit=0)
    try:
        await public.setup()
        await internal.setup()
        await web.SockSite(public, listener).start()
        await web.TCPSite(internal, "127.0.0.1", 0).start()
        internal_url = f"http://127.0.0.1:{internal.addresses[0][1]}"
        async with aiohttp.ClientSession(connector=connector) as session:
            yield Api(settings, settings.scim_url, internal_url, session, faces)
    finally:
        await public.cleanup()
        await internal.cleanup()
        await faces.close()
        listener.close()


def altered(settings: Settings, **changes: Any) -> Settings:
    """Return settings with some values changed, checked anew."""
    given = {name: getattr(settings, name) for name in settings.model_fields_set}
    return load_settings(**{**given, **changes})


async def until(predicate: Callable[[], Awaitable[object]], what: str, seconds: float = 10) -> None:
    """Wait until an asynchronous predicate is truthy."""
    _: object = await wait_until(predicate, what, seconds)
