"""Lists and paging: section H of Entra's cases, by number."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.support.api import altered, document, serving

if TYPE_CHECKING:
    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")


def ids(resources: list[Any]) -> list[str]:
    return [one["id"] for one in resources]


async def test_case_123_pages(caller: Caller) -> None:
    created = [(await caller.create(document(f"user{number}")))["id"] for number in range(12)]
    for start, size in ((1, 5), (6, 5), (11, 2), (13, 0)):
        answer = await caller.get("/Users", startIndex=start, count=5)
        assert (answer.json["startIndex"], answer.json["itemsPerPage"], answer.json["totalResults"]) == (
            start,
            size,
            12,
        )
        assert ids(answer.resources()) == created[start - 1 : start - 1 + size]
        filtered = await caller.get("/Users", startIndex=start, count=5, filter='userName sw "user"')
        assert filtered.json == answer.json


@pytest.mark.parametrize("text", [None, 'userName sw "user"', 'userName eq "user1"'])
async def test_case_124_odd_paging_values(caller: Caller, text: str | None) -> None:
    for number in range(3):
        await caller.create(document(f"user{number}"))
    query = {"filter": text} if text else {}
    whole = (await caller.get("/Users", **query)).json
    for start in ("0", "-3", "-99999999999999999999", ""):
        assert (await caller.get("/Users", **query, startIndex=start)).json == whole
    for count in ("0", "-1", "-99999999999999999999"):
        answer = await caller.get("/Users", **query, count=count)
        assert (answer.resources(), answer.json["totalResults"]) == ([], whole["totalResults"])
    assert (await caller.get("/Users", **query, count="9" * 30)).json == whole
    far = await caller.get("/Users", **query, startIndex="9" * 30)
    assert (far.resources(), far.json["totalResults"]) == ([], whole["totalResults"])
    for name in ("startIndex", "count"):
        for value in ("abc", "1.5", "1e3", "0x10", "\u0661", "1 2", "--1"):
            assert name in (await caller.get("/Users", **query, **{name: value})).error(400, "invalidValue")


async def test_case_126_account_discovery_without_paging_values(api: Api, caller: Caller) -> None:
    for number in range(7):
        await caller.create(document(f"user{number}"))
    async with serving(altered(api.settings, page_size=3, max_page_size=5)) as small:
        at_small = caller.at(small.scim_url)
        capped = await at_small.get("/Users")
        assert (len(capped.resources()), capped.json["totalResults"]) == (3, 7)
        most = await at_small.get("/Users", count=1000)
        assert (len(most.resources()), most.json["totalResults"]) == (5, 7)
        config = (await at_small.get("/ServiceProviderConfig")).json
        assert config["filter"]["maxResults"] == 5


async def test_case_127_pages_are_stable_while_users_come(caller: Caller) -> None:
    before = [(await caller.create(document(f"before{number}")))["id"] for number in range(10)]
    seen: list[str] = []
    for page in range(5):
        seen += ids((await caller.get("/Users", startIndex=1 + 2 * page, count=2)).resources())
        await caller.create(document(f"during{page}"))
    assert seen == before
