"""P14: no tenant sees or changes anything of another, also when the application forgets to ask whose it is."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from api.audit.routes import ROUTES
from api.scim import dispatch
from models import deferred, provision
from models.directory import delete, find, group_write, groups, membership, read, write_sql
from models.scim.schema import ENTERPRISE_URN, GROUP_URN
from tests.support.api import Answer, Api, Caller, apply_all, document, fresh_settings, serving, store, work_email
from tests.support.first_wall import Breach, breached, has_tenant, without_tenant
from tests.support.groups import PATCH_URN, group
from tests.support.invariants import broken
from tests.support.promises import scale

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.faults.conftest import Measure
    from tests.support.servers import Servers

pytestmark = pytest.mark.promise("P14", quick=True)

ASYNC: Final = {"Prefer": "respond-async"}
BULK_URN: Final = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
SEARCH_URN: Final = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"


@dataclass(frozen=True)
class World:
    """What a tenant has: all of it bears the tenant's mark."""

    caller: Caller
    mark: str
    user: str
    waiting: str
    group: str
    later: str
    """A request that was carried out after its answer."""
    event: str
    correlation: str


def person(mark: str, number: int) -> dict[str, Any]:
    name = f"{mark}{number}@x.example"
    return document(
        name,
        externalId=f"{mark}-e{number}",
        title=mark,
        emails=[work_email(name), work_email(f"second-{name}", primary=False)],
    )


async def populate(api: Api) -> World:
    """Make a tenant with an applied user, one who waits, a group of both, a deferred request and its history."""
    caller = await api.caller(scopes=("scim", "audit"))
    mark = f"mark{caller.tenant.id.hex}"
    user = await caller.create(person(mark, 1))
    await apply_all(api.settings)
    waiting = await caller.create(person(mark, 2))
    made = (await caller.post("/Groups", group(mark, user["id"], waiting["id"], externalId=mark))).json
    answer = await caller.post("/Users", person(mark, 3), **ASYNC)
    assert answer.status == 202, answer
    async with store(api.settings) as connection:
        event = await connection.fetchrow(
            "SELECT id, correlation_id FROM audit_event WHERE tenant_id = $1 AND targets -> 0 ->> 'id' = $2 LIMIT 1",
            caller.tenant.id,
            user["id"],
        )
    assert event is not None
    later = answer.headers["X-Correlation-Id"]
    return World(
        caller, mark, user["id"], waiting["id"], made["id"], later, str(event["id"]), str(event["correlation_id"])
    )


def bodies(world: World) -> dict[tuple[str, str], Any]:
    """Return what is sent to a resource, by type and method; all of it is valid."""
    change = {"schemas": [PATCH_URN], "Operations": [{"op": "replace", "path": "externalId", "value": "taken"}]}
    return {
        ("Users", "PATCH"): change,
        ("Users", "PUT"): document("taken@x.example"),
        ("Groups", "PATCH"): change,
        ("Groups", "PUT"): {"schemas": [GROUP_URN], "displayName": "taken", "members": [{"value": world.user}]},
    }


class Intruder:
    """A tenant that tries to reach another's things in every way, and notes of each whether it was barred."""

    def __init__(self, mine: World, other: World) -> None:
        self.mine, self.other = mine, other
        self.tried: list[tuple[str, bool, Answer]] = []
        self.ids = {"Users": [other.user, other.waiting], "Groups": [other.group], "AsyncRequests": [other.later]}

    async def attempt(self, method: str, path: str, body: Any = None, *, status: int) -> Answer:
        """Send what must be answered with ``status``."""
        content = None if body is None else json.dumps(body).encode()
        answer = await self.mine.caller.send(method, path, body=content)
        self.tried.append((f"{method} {path}", answer.status == status, answer))
        return answer

    async def search(self, path: str, text: str | None = None, **query: Any) -> None:
        """Ask in both ways for what must not be in the answer."""
        given = {} if text is None else {"filter": text}
        answer = await self.mine.caller.get(path, **given, **query)
        self.tried.append((f"GET {path} {text} {query}", answer.status == 200, answer))
        answer = await self.mine.caller.post(f"{path.rstrip('/')}/.search", {"schemas": [SEARCH_URN], **given, **query})
        self.tried.append((f"POST {path}/.search {text} {query}", answer.status == 200, answer))

    async def by_id(self, *methods: str) -> None:
        """Every method that there is for one resource."""
        for name, resources in self.ids.items():
            for method in methods:
                if method in dispatch._ENDPOINTS[name.lower()].one:
                    for resource in resources:
                        body = bodies(self.mine).get((name, method))
                        await self.attempt(method, f"/{name}/{resource}", body, status=404)

    async def by_search(self) -> None:
        """Lists and filters, those that have a statement of their own and those that have not."""
        other = self.other
        for path in ("/Users", "/Groups", "/"):
            await self.search(path)
            await self.search(path, count=1, cursor="")
            await self.search(path, startIndex=1, count=500, sortBy="externalId")
            await self.search(path, f'id eq "{other.user}" or id eq "{other.group}"')
        name = f"{other.mark}1@x.example"
        for text in (
            *(f'id eq "{one}"' for one in self.ids["Users"]),
            f'userName eq "{name}"',
            f'userName eq "{other.mark}2@x.example"',
            f'externalId eq "{other.mark}-e1"',
            f'externalId eq "{other.mark}-e2"',
            f'emails[type eq "work"].value eq "second-{name}"',
            f'title eq "{other.mark}"',
            f'userName sw "{other.mark}"',
            f'groups eq "{other.group}"',
            f'groups.display eq "{other.mark}"',
        ):
            await self.search("/Users", text)
        for text in (
            f'id eq "{other.group}"',
            f'displayName eq "{other.mark}"',
            f'externalId eq "{other.mark}"',
            f'members eq "{other.user}"',
            f'members[value eq "{other.waiting}"]',
        ):
            await self.search("/Groups", text)

    async def by_naming(self) -> None:
        """Another's people as one's own: managers, members."""
        mine, other = self.mine, self.other
        for one in (other.user, other.waiting):
            managed = {ENTERPRISE_URN: {"manager": {"value": one}}}
            await self.attempt("POST", "/Users", document(f"by-{one}@x.example", **managed), status=400)
            join = {"op": "add", "path": "members", "value": [{"value": one}]}
            patch = {"schemas": [PATCH_URN], "Operations": [join]}
            await self.attempt("PATCH", f"/Groups/{mine.group}", patch, status=400)
            await self.attempt("POST", "/Groups", group(f"with-{one}", one), status=400)
            leave = {"op": "remove", "path": f'members[value eq "{one}"]'}
            patch = {"schemas": [PATCH_URN], "Operations": [leave]}
            await self.attempt("PATCH", f"/Groups/{other.group}", patch, status=404)

    async def by_bulk(self) -> None:
        """Every write as an operation of one request."""
        operations = [
            {"method": method, "path": f"/{name}/{resource}", "data": bodies(self.mine).get((name, method))}
            for name in ("Users", "Groups")
            for resource in self.ids[name]
            for method in ("PATCH", "PUT", "DELETE")
        ]
        answer = await self.attempt("POST", "/Bulk", {"schemas": [BULK_URN], "Operations": operations}, status=200)
        outcomes = {one["status"] for one in answer.json["Operations"]}
        self.tried.append(("Bulk", outcomes == {"404"}, answer))

    async def by_audit(self) -> None:
        """Every address of the audit API."""
        other, caller = self.other, self.mine.caller
        for path, status in (
            ("/events?limit=500", 200),
            (f"/events?q=target%3A{other.user}", 200),
            (f"/events?q=target%3A{other.mark}1%40x.example", 200),
            (f"/events?q={other.mark}", 200),
            (f"/events?q=correlation%3A{other.correlation}", 200),
            (f"/events/{other.event}", 404),
            (f"/events/{other.event}?proof=true", 404),
            (f"/facets?q=target%3A{other.user}", 200),
        ):
            url = caller.scim_url.removesuffix("/scim/v2") + "/audit" + path
            async with caller.session.get(url, headers={"Authorization": f"Bearer {caller.token}"}) as response:
                answer = Answer(response.status, response.headers, await response.read())
            empty = "facets" not in path or answer.json["counted"] == 0
            self.tried.append((f"GET {path}", answer.status == status and empty, answer))


async def reach(mine: World, other: World) -> list[tuple[str, bool, Answer]]:
    """Try every way; those that would leave nothing to reach come last."""
    intruder = Intruder(mine, other)
    await intruder.by_id("GET", "PATCH", "PUT")
    await intruder.by_search()
    await intruder.by_naming()
    await intruder.by_bulk()
    await intruder.by_audit()
    await intruder.by_id("DELETE")
    return intruder.tried


def test_every_address_is_tried() -> None:
    walled = {name for name, endpoint in dispatch._ENDPOINTS.items() if not endpoint.open}
    assert walled == {"", "users", "groups", "bulk", "asyncrequests", "me"}  # the last has nothing of anybody's
    assert {method for name in walled - {"me"} for method in dispatch._ENDPOINTS[name].one} == {
        *("GET", "PATCH", "PUT", "DELETE")
    }
    assert set(ROUTES) == {"/audit/events", "/audit/events/{id}", "/audit/facets"}


def leaks(tried: list[tuple[str, bool, Answer]], other: World) -> list[str]:
    """Return the ways that were not barred, or whose answer shows something of the other tenant."""
    return [way for way, barred, answer in tried if not barred or other.mark.encode() in answer.content]


async def belongings(api: Api, world: World) -> Any:
    """Return all rows of a tenant that requests could change."""
    tables = ("users", "groups", "membership", "identifier", "job")
    queries = [f"SELECT * FROM {table} WHERE tenant_id = $1 ORDER BY 1, 2, 3" for table in tables]  # noqa: S608  constants
    async with store(api.settings) as connection:
        return [await connection.fetch(query, world.caller.tenant.id) for query in queries]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def sound(servers: Servers) -> AsyncIterator[Api]:
    """A front end as it is."""
    async with fresh_settings(servers) as settings, serving(settings) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def open_front(servers: Servers) -> AsyncIterator[tuple[Api, Breach]]:
    """A front end without the application's own wall."""
    with breached() as breach:
        async with fresh_settings(servers) as settings, serving(settings) as served:
            yield served, breach


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_of_another_tenant_is_reached(sound: Api, measure: Measure) -> None:
    mine, other = await populate(sound), await populate(sound)
    before = await belongings(sound, other)
    tried = await reach(mine, other)
    assert leaks(tried, other) == []
    assert await belongings(sound, other) == before
    measure(ways=len(tried))


def statements() -> set[str]:
    """Return the statements of the directory that say whose rows they mean, and the parts that they are made of."""
    found: set[str] = set()
    for module in (read, find, groups, membership, delete, group_write, write_sql, deferred, provision):
        for value in vars(module).values():
            kept = value.values() if isinstance(value, dict) else value if isinstance(value, tuple) else (value,)
            found.update(each for each in kept if isinstance(each, str) and has_tenant(each))
    return found


HOT: Final = (
    *(find._MANY["userName"], write_sql.READ, write_sql.LOCK, write_sql.WRITE, write_sql.KNOWN),
    *(read._BY_ID[0], read._BY_ID[1], read._BY_USER_NAME[1], read._BY_EXTERNAL_ID[1], read._BY_WORK_EMAIL[1]),
    *(groups._BY_ID, groups._BY_DISPLAY_NAME, groups._BY_EXTERNAL_ID, groups._MEMBERS),
    *(membership._CHANGE_NAMED, membership._REPLACE_ALL, membership._FORGET, membership._EXISTS),
    *(delete._LOCK_WAITING, delete._LOCK, delete._DELETE, delete._RELEASE, group_write._LOCK, group_write._DELETE),
    *(write_sql.RELEASE, deferred._STATUS),
)
"""What requests run again and again."""


def test_the_mutation_knows_every_statement() -> None:
    known = statements()
    assert len(known) > 40
    assert [statement for statement in known if has_tenant(without_tenant(statement))] == []
    assert [statement for statement in HOT if not has_tenant(statement)] == []


async def use(mine: World) -> None:
    """Do what a tenant does with its own, and see that it is done."""
    found = await asyncio.gather(
        *(mine.caller.match(f'userName eq "{mine.mark}{number}@x.example"') for number in (1, 2, 3) * 10)
    )
    assert [one["id"] for [one] in found[:2]] == [mine.user, mine.waiting]
    members = {"schemas": [GROUP_URN], "displayName": "replaced", "members": [{"value": mine.user}]}
    answer = await mine.caller.send("PUT", f"/Groups/{mine.group}", body=json.dumps(members).encode())
    assert [one["value"] for one in answer.json["members"]] == [mine.user]
    for one in (mine.user, mine.waiting):
        changes = [{"op": "replace", "value": {"title": one, "userName": f"{one}@x.example"}}]
        body = json.dumps({"schemas": [PATCH_URN], "Operations": changes}).encode()
        assert (await mine.caller.send("PATCH", f"/Users/{one}", body=body)).json["title"] == one
        assert (await mine.caller.get(f"/Users/{one}", excludedAttributes="groups")).json["title"] == one
        assert (await mine.caller.send("DELETE", f"/Users/{one}")).status == 204
    [late] = await mine.caller.match(f'userName eq "{mine.mark}3@x.example"')
    assert (await mine.caller.send("DELETE", f"/Users/{late['id']}")).status == 204
    assert (await mine.caller.send("DELETE", f"/Groups/{mine.group}")).status == 204


@pytest.mark.asyncio(loop_scope="module")
async def test_nothing_is_reached_when_no_statement_asks_whose_it_is(
    open_front: tuple[Api, Breach], measure: Measure
) -> None:
    api, breach = open_front
    mine, other = await populate(api), await populate(api)
    before = await belongings(api, other)
    tried = await reach(mine, other)
    assert leaks(tried, other) == []
    assert await belongings(api, other) == before
    # What one's own requests do is done as ever.
    assert leaks(await reach(other, mine), mine) == []
    await use(mine)
    assert breach.resisted == set()
    assert [statement for statement in HOT if not any(opened.startswith(statement) for opened in breach.opened)] == []
    async with store(api.settings) as connection:
        assert [name for name in await broken(connection) if name.startswith("I8")] == []
    measure(ways=len(tried), statements_opened=len(breach.opened))


@pytest.mark.asyncio(loop_scope="module")
async def test_without_both_walls_the_same_requests_reach_much(servers: Servers, measure: Measure) -> None:
    """Else the others would prove nothing."""
    with breached(second=False):
        async with fresh_settings(servers) as settings, serving(settings) as api:
            mine, other = await populate(api), await populate(api)
            before = await belongings(api, other)
            reached = leaks(await reach(mine, other), other)
            assert await belongings(api, other) != before
    kinds = ("/Users", "/Groups", "/events", "Bulk", "PATCH", "PUT", ".search")
    assert all(any(kind in way for way in reached) for kind in kinds), reached
    assert len(reached) > 40, reached
    measure(ways_reached=len(reached))


ACTS: Final = ("create", "match", "list", "get", "patch", "theirs", "their name")


@settings(
    max_examples=scale(4, 60),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(acts=st.lists(st.tuples(st.integers(0, 2), st.sampled_from(ACTS)), min_size=10, max_size=40))
@pytest.mark.asyncio(loop_scope="module")
async def test_tenants_that_ask_at_once_get_each_their_own(
    open_front: tuple[Api, Breach], acts: list[tuple[int, str]]
) -> None:
    api, breach = open_front
    worlds = [await populate(api) for _ in range(3)]

    async def act(number: int, tenant: int, what: str) -> None:
        mine, other = worlds[tenant], worlds[(tenant + 1 + number % 2) % 3]
        caller = mine.caller
        change = {
            "schemas": [PATCH_URN],
            "Operations": [{"op": "replace", "value": {"title": f"{mine.mark} {number}"}}],
        }
        if what == "create":
            answer = await caller.post("/Users", person(mine.mark, 100 + number))
            assert answer.status == 201
        elif what == "match":
            answer = await caller.get("/Users", filter=f'userName eq "{mine.mark}1@x.example"')
            assert [one["id"] for one in answer.resources()] == [mine.user]
        elif what == "list":
            answer = await caller.get("/Users", count=100)
            assert {mine.user, mine.waiting} <= {one["id"] for one in answer.resources()}
        elif what == "get":
            answer = await caller.get(f"/Users/{mine.waiting}")
            assert answer.json["id"] == mine.waiting
        elif what == "patch":
            answer = await caller.send("PATCH", f"/Users/{mine.user}", body=json.dumps(change).encode())
            assert answer.json["title"] == f"{mine.mark} {number}"
        elif what == "theirs":
            answer = await caller.send("PATCH", f"/Users/{other.user}", body=json.dumps(change).encode())
            answer.error(404)
        else:
            answer = await caller.get("/Users", filter=f'userName eq "{other.mark}1@x.example"')
            assert answer.resources() == []
        for world in worlds:
            assert world is mine or world.mark.encode() not in answer.content

    await asyncio.gather(*(act(number, tenant, what) for number, (tenant, what) in enumerate(acts)))
    assert breach.resisted == set()
