"""Sorting, walks by cursor, and searches as clients see them: RFC 7644 §3.4.2 and §3.4.3, RFC 9865."""

from __future__ import annotations

import re
import time
from typing import TYPE_CHECKING, Any

import pytest
from scim2_models import Context, ListResponse, SearchRequest, User

from api.scim import lists
from models.scim.cursor import CURSOR_SECONDS
from tests.support.api import LIST_URN, altered, document, serving, store

if TYPE_CHECKING:
    from tests.support.api import Answer, Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

SEARCH_URN = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"
GROUP_URN = "urn:ietf:params:scim:schemas:core:2.0:Group"
# By userName without its case: Ana, bea, Cyd, dan.
NAMES = ["dan", "Ana", "Cyd", "bea"]


def names(resources: list[Any]) -> list[str]:
    return [one["userName"] for one in resources]


async def people(caller: Caller) -> list[dict[str, Any]]:
    titles = {"dan": "x", "Ana": "y"}
    return [
        await caller.create(document(name, **({"title": titles[name]} if name in titles else {}))) for name in NAMES
    ]


async def group(caller: Caller, name: str, *members: str) -> dict[str, Any]:
    answer = await caller.post(
        "/Groups", {"schemas": [GROUP_URN], "displayName": name, "members": [{"value": one} for one in members]}
    )
    assert answer.status == 201, answer
    return dict(answer.json)


def page_of(answer: Answer) -> tuple[list[Any], str | None]:
    """Return a page by cursor and what leads to the next, after checking their form."""
    assert answer.status == 200, answer
    body = answer.json
    assert body["schemas"] == [LIST_URN]
    assert body["itemsPerPage"] == len(body["Resources"]) <= body["totalResults"]
    assert "startIndex" not in body
    assert "previousCursor" not in body
    cursor = body.get("nextCursor")
    assert cursor is None or re.fullmatch(r"[A-Za-z0-9._~-]+", cursor)
    ListResponse[User[Any]].model_validate(body, scim_ctx=Context.RESOURCE_QUERY_RESPONSE)
    return body["Resources"], cursor


async def test_a_list_is_sorted(caller: Caller) -> None:
    await people(caller)

    async def by(**query: str) -> list[str]:
        return names((await caller.get("/Users", **query)).resources())

    assert await by() == NAMES
    assert await by(sortOrder="descending") == NAMES
    assert await by(sortBy="userName") == ["Ana", "bea", "Cyd", "dan"]
    assert await by(sortby="USERNAME", sortorder="Descending") == ["dan", "Cyd", "bea", "Ana"]
    # Who has no title comes last, or first when descending; those who are equal come in the order of their coming.
    assert await by(sortBy="title") == ["dan", "Ana", "Cyd", "bea"]
    assert await by(sortBy="title", sortOrder="descending") == ["Cyd", "bea", "Ana", "dan"]
    assert await by(sortBy="userName", filter="title pr") == ["Ana", "dan"]
    assert await by(sortBy="userName", startIndex="2", count="2") == ["bea", "Cyd"]
    assert await by(sortBy="userName", filter='userName eq "ANA"') == ["Ana"]
    await group(caller, "b")
    await group(caller, "A")
    groups = (await caller.get("/Groups", sortBy="displayName")).resources()
    assert [one["displayName"] for one in groups] == ["A", "b"]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ({"sortBy": "shoeSize"}, "shoeSize"),
        ({"sortBy": "name"}, "sub-attributes"),
        ({"sortBy": "password"}, "never returned"),
        ({"sortBy": "userName", "sortOrder": "up"}, "sortOrder"),
        ({"sortBy": "id'; DROP TABLE users; --"}, "cannot be sorted"),
    ],
)
async def test_an_order_that_there_is_not(caller: Caller, query: dict[str, str], words: str) -> None:
    await caller.create(document("ana"))
    assert words in (await caller.get("/Users", **query)).error(400, "invalidValue")
    assert words in (await caller.post("/Users/.search", query)).error(400, "invalidValue")


@pytest.mark.parametrize("query", [{}, {"sortBy": "userName"}, {"sortBy": "title", "sortOrder": "descending"}])
async def test_a_walk_by_cursor_goes_through_everybody_once(caller: Caller, query: dict[str, str]) -> None:
    await people(caller)
    whole = (await caller.get("/Users", **query)).resources()
    for size in (1, 3, 4, 100):
        seen, cursor = page_of(await caller.get("/Users", cursor="", count=size, **query))
        pages = 1
        while cursor:
            found, cursor = page_of(await caller.get("/Users", cursor=cursor, count=size, **query))
            seen += found
            pages += 1
        assert seen == whole
        assert pages == -(-len(whole) // size)
        assert cursor is None


async def test_a_walk_by_cursor_goes_on_where_it_was_whoever_comes_and_goes(caller: Caller) -> None:
    first = await people(caller)
    seen, cursor = page_of(await caller.get("/Users", cursor="", count=2))
    assert names(seen) == NAMES[:2]
    assert (await caller.send("DELETE", f"/Users/{first[0]['id']}")).status == 204
    assert (await caller.send("DELETE", f"/Users/{first[1]['id']}")).status == 204
    await caller.create(document("eve"))
    seen, cursor = page_of(await caller.get("/Users", cursor=cursor))  # without a count, as on the page before
    assert names(seen) == NAMES[2:]
    seen, cursor = page_of(await caller.get("/Users", cursor=cursor, count=2))
    assert (names(seen), cursor) == (["eve"], None)


async def test_a_cursor_is_for_one_walk_of_one_token(caller: Caller, api: Api) -> None:
    await people(caller)
    asked = {"filter": "userName pr", "sortBy": "userName", "count": 2}
    _, cursor = page_of(await caller.get("/Users", cursor="", **asked))
    assert cursor
    stranger = await api.caller()
    refused = [
        await stranger.get("/Users", **asked, cursor=cursor),
        await caller.get("/Users", cursor=cursor, count=2),
        await caller.get("/Users", **(asked | {"filter": 'userName co "a"'}), cursor=cursor),
        await caller.get("/Users", **(asked | {"sortBy": "title"}), cursor=cursor),
        await caller.get("/Users", **asked, sortOrder="descending", cursor=cursor),
        await caller.get("/Groups", cursor=cursor, count=2),
        await caller.get("/Users", **asked, cursor=cursor[:-1]),
        await caller.get("/Users", **asked, cursor="x" + cursor),
        await caller.get("/Users", **asked, cursor="nonsense"),
        await caller.get("/Users", **asked, cursor="é"),
    ]
    details = {answer.error(400, "invalidCursor") for answer in refused}
    assert len(details) == 1  # none says whether there is such a page for somebody else
    for count in (3, "two"):
        (await caller.get("/Users", **(asked | {"count": count}), cursor=cursor)).error(400, "invalidCount")
    (await caller.post("/Users/.search", asked | {"count": "2", "cursor": cursor})).error(400, "invalidCount")
    assert names(page_of(await caller.get("/Users", **asked, cursor=cursor))[0]) == ["Cyd", "dan"]


async def test_a_cursor_expires(caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    await people(caller)
    config = (await caller.get("/ServiceProviderConfig")).json
    assert config["pagination"]["cursorTimeout"] == CURSOR_SECONDS
    _, cursor = page_of(await caller.get("/Users", cursor="", count=2))

    class Later:
        @staticmethod
        def time() -> float:
            return time.time() + CURSOR_SECONDS

    monkeypatch.setattr(lists, "time", Later)
    (await caller.get("/Users", cursor=cursor, count=2)).error(400, "expiredCursor")


async def test_totals_by_cursor(caller: Caller) -> None:
    await people(caller)
    answer = await caller.get("/Users", cursor="", count=0)
    assert (answer.json["totalResults"], answer.json["Resources"]) == (4, [])
    assert "nextCursor" not in answer.json
    assert page_of(await caller.get("/Users", cursor="", filter='userName eq "nobody"')) == ([], None)


async def test_paging_and_sorting_are_announced(caller: Caller, api: Api) -> None:
    config = (await caller.get("/ServiceProviderConfig")).json
    assert config["sort"] == {"supported": True}
    assert config["pagination"] == {
        "cursor": True,
        "index": True,
        "defaultPaginationMethod": "index",
        "defaultPageSize": api.settings.page_size,
        "maxPageSize": api.settings.max_page_size,
        "cursorTimeout": CURSOR_SECONDS,
    }
    await people(caller)
    async with serving(altered(api.settings, page_size=1, max_page_size=3)) as small:
        there = caller.at(small.scim_url)
        assert len(page_of(await there.get("/Users", cursor=""))[0]) == 1
        found, cursor = page_of(await there.get("/Users", cursor="", count=1000))
        assert len(found) == 3
        assert len(page_of(await there.get("/Users", cursor=cursor, count=1000))[0]) == 1


async def test_search_answers_as_get_does(caller: Caller) -> None:
    created = await people(caller)
    await group(caller, "Team", created[0]["id"])
    searches: list[tuple[str, dict[str, Any]]] = [
        ("/Users", {}),
        ("/Users", {"filter": 'userName eq "ana"'}),
        ("/Users", {"filter": f'id eq "{created[0]["id"]}"', "attributes": "groups"}),
        ("/Users", {"filter": "title pr", "attributes": "userName,name.givenName"}),
        ("/Users", {"sortBy": "userName", "sortOrder": "descending", "startIndex": 2, "count": 2}),
        ("/Users", {"excludedAttributes": "title,meta", "count": 0}),
        ("/Groups", {"filter": 'displayName eq "team"', "excludedAttributes": "members"}),
        ("/Groups", {"attributes": "members"}),
        ("", {"filter": 'displayName eq "team" or userName eq "dan"', "sortBy": "userName"}),
    ]
    for endpoint, query in searches:
        body = {
            name: value.split(",") if name in ("attributes", "excludedAttributes") else value
            for name, value in query.items()
        }
        answer = await caller.post(f"{endpoint}/.search", {"schemas": [SEARCH_URN], **body})
        assert answer.resources() or query.get("count") == 0
        assert answer.json == (await caller.get(endpoint, **query)).json, query


async def test_search_as_scim2_models_writes_it(caller: Caller) -> None:
    await people(caller)
    request: SearchRequest[Any] = SearchRequest(
        filter='userName co "a"',
        sort_by="userName",
        sort_order="descending",
        attributes=["userName"],
        count=1,
        cursor="",
    )
    body = request.model_dump(scim_ctx=Context.SEARCH_REQUEST)
    found, cursor = page_of(await caller.post("/Users/.search", body))
    assert names(found) == ["dan"]
    assert set(found[0]) == {"schemas", "id", "userName"}
    found, cursor = page_of(await caller.post("/Users/.search", body | {"cursor": cursor}))
    assert names(found) == ["bea"]


async def test_search_reads_names_in_any_case_and_null_as_absent(caller: Caller) -> None:
    await people(caller)
    body = {"SORTBY": "userName", "filter": None, "count": None, "startIndex": -5, "cursor": None, "unknown": 1}
    assert names((await caller.post("/users/.Search/", body)).resources()) == ["Ana", "bea", "Cyd", "dan"]
    assert (await caller.post("/Users/.search", {"count": -1})).json["totalResults"] == 4


@pytest.mark.parametrize(
    ("body", "scim_type"),
    [
        ({"filter": 7}, "invalidValue"),
        ({"filter": "userName"}, "invalidFilter"),
        ({"filter": ""}, "invalidFilter"),
        ({"count": "5"}, "invalidValue"),
        ({"count": 1.5}, "invalidValue"),
        ({"count": True}, "invalidValue"),
        ({"startIndex": "1"}, "invalidValue"),
        ({"sortBy": ["userName"]}, "invalidValue"),
        ({"attributes": [1]}, "invalidValue"),
        ({"attributes": ["userName"], "excludedAttributes": ["title"]}, "invalidValue"),
        ({"cursor": 1}, "invalidValue"),
        ({"cursor": "x"}, "invalidCursor"),
        ({"cursor": "", "count": "5"}, "invalidCount"),
        ({"schemas": "x"}, "invalidSyntax"),
        ([], "invalidSyntax"),
    ],
)
async def test_search_refuses_what_it_cannot_read(caller: Caller, body: Any, scim_type: str) -> None:
    for endpoint in ("/Users", "/Groups", ""):
        (await caller.post(f"{endpoint}/.search", body)).error(400, scim_type)


async def test_a_search_is_no_create_and_needs_a_token(caller: Caller, api: Api) -> None:
    (await caller.bearing(None).post("/.search", {})).error(401)
    (await caller.bearing(None).get("/")).error(401)
    await caller.post("/Users/.search", document("ana"))
    async with store(api.settings) as connection:
        assert await connection.fetchval("SELECT count(*) FROM job WHERE tenant_id = $1", caller.tenant.id) == 0


async def test_the_root_lists_every_type(caller: Caller, api: Api) -> None:
    created = await people(caller)
    team = await group(caller, "Team", created[1]["id"])
    await (await api.caller()).create(document("stranger"))

    async def root(**query: Any) -> list[str]:
        return [one["id"] for one in (await caller.get("/", **query)).resources()]

    users, everybody = [one["id"] for one in created], [one["id"] for one in (*created, team)]
    assert await root() == everybody
    assert await root(startIndex=4, count=5) == everybody[3:]
    assert await root(filter='meta.resourceType eq "User"') == users
    assert await root(filter='meta.resourceType eq "Group"') == [team["id"]]
    # What a type lacks has no value there.
    assert await root(filter="userName pr") == users
    assert await root(filter="not (userName pr)") == [team["id"]]
    assert await root(filter=f'members eq "{users[1]}"') == [team["id"]]
    assert await root(filter='userName ne "dan"') == [*users[1:], team["id"]]
    assert await root(filter='userName eq null or userName eq "dan"') == [users[0], team["id"]]
    assert await root(filter="userName ne null") == users
    assert await root(filter='emails[type eq "work"] or displayName eq "team"') == [team["id"]]
    assert await root(filter='displayName eq "TEAM"') == [team["id"]]
    assert "shoeSize" in (await caller.get("/", filter="shoeSize eq 1")).error(400, "invalidFilter")
    # Sorted by what one of the types has, the others come last.
    by_name = [users[NAMES.index(name)] for name in ("Ana", "bea", "Cyd", "dan")]
    assert await root(sortBy="userName") == [*by_name, team["id"]]
    assert await root(sortBy="userName", sortOrder="descending") == [team["id"], *by_name[::-1]]
    whole = {one["id"]: one for one in (await caller.get("/")).resources()}
    assert whole[team["id"]] == (await caller.get(f"/Groups/{team['id']}")).json
    assert whole[users[1]] == (await caller.get(f"/Users/{users[1]}")).json
    assert whole[users[1]]["groups"]
    seen, cursor = page_of_any(await caller.get("/", cursor="", count=2, attributes="displayName"))
    while cursor:
        found, cursor = page_of_any(await caller.get("/", cursor=cursor, count=2, attributes="displayName"))
        seen += found
    assert [one["id"] for one in seen] == everybody
    assert set(seen[-1]) == {"schemas", "id", "displayName"}


def page_of_any(answer: Answer) -> tuple[list[Any], str | None]:
    assert answer.status == 200, answer
    return answer.json["Resources"], answer.json.get("nextCursor")
