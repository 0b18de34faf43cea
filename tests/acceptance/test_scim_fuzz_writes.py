"""Mutated writes to what is there: PATCH, PUT, groups, bulk and searches. No 5xx, no hang, nobody lost or doubled."""

from __future__ import annotations

import copy
import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from models.scim.schema import ENTERPRISE_URN, GROUP_URN, USER_URN
from tests.support.api import apply_all, document, work_email
from tests.support.fuzzing import JSON, USERS, Fuzz
from tests.support.mutations import FILTERS, as_json, leaf, mutated_document, mutated_filter, places, tree
from tests.support.raw import request_bytes

if TYPE_CHECKING:
    import random

    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

PATCH_URN = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
BULK_URN = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
SEARCH_URN = "urn:ietf:params:scim:api:messages:2.0:SearchRequest"
GROUPS = b"/scim/v2/Groups"
PEOPLE = 12
PATHS = [
    *("userName", "displayName", "active", "title", "externalId", "name.givenName", "name", "emails", "addresses"),
    *('emails[type eq "work"].value', 'emails[type eq "work"]', 'addresses[type eq "home"].country', "roles", "id"),
    *(f"{ENTERPRISE_URN}:department", f"{ENTERPRISE_URN}:manager", ENTERPRISE_URN, f"{USER_URN}:title", "meta.version"),
    *("members", 'members[value eq "x"]', "groups", "password", "schemas", "nothing", "", "[", "emails[", "a.b.c.d"),
]


@pytest_asyncio.fixture(loop_scope="module")
async def people(api: Api, caller: Caller) -> list[str]:
    """Users of whom the later half waits to be applied."""
    ids = [
        (await caller.create(document(f"person{n}", title="Buyer", emails=[work_email(f"p{n}@x.test")])))["id"]
        for n in range(PEOPLE // 2)
    ]
    await apply_all(api.settings)
    return ids + [(await caller.create(document(f"person{n}")))["id"] for n in range(PEOPLE // 2, PEOPLE)]


@pytest.fixture
def fuzz(api: Api, caller: Caller) -> Fuzz:
    return Fuzz(api, caller)


def mutate(value: Any, dice: random.Random) -> Any:
    """Change a JSON value in a few places; most of the time it keeps its form."""
    value = copy.deepcopy(value)
    for _ in range(dice.choice([0, 1, 1, 2, 4])):
        found = places(value)
        if not found:
            break
        container, key = dice.choice(found)
        match dice.randrange(4):
            case 0:
                container[key] = leaf(dice)
            case 1:
                container[key] = tree(dice, 3)
            case 2:
                del container[key]
            case _:
                container[key] = [copy.deepcopy(container[key])] * dice.choice([1, 2, 50])
    return value


def operations(dice: random.Random, people: list[str]) -> dict[str, Any]:
    """Draw a PATCH message in either dialect, then spoil it."""
    made = []
    for _ in range(dice.choice([1, 1, 2, 5, 60])):
        value: Any = dice.choice(
            [
                *("x", True, "True", "False", None, 7, [], {}, {"value": dice.choice(people)}, [{"value": "x"}]),
                [{"value": dice.choice(people)}],
                {"title": "y", "active": "False", "name.givenName": "Z", f"{ENTERPRISE_URN}:department": "D"},
                {"emails": [{"type": "work", "value": "new@x.test", "primary": "true"}]},
                leaf(dice),
            ]
        )
        one = {"op": dice.choice(["add", "Add", "replace", "Replace", "remove", "Remove", "move"]), "value": value}
        if dice.random() < 0.8:
            one["path"] = dice.choice(PATHS)
        if dice.random() < 0.1:
            del one["value"]
        made.append(one)
    return mutate({"schemas": [PATCH_URN], "Operations": made}, dice)  # type: ignore[no-any-return]


async def all_are_there(caller: Caller, people: list[str], fuzz: Fuzz) -> None:
    """Nobody is lost, doubled or unreadable, whatever was sent."""
    listed = await caller.get("/Users", count=1000)
    ids = [one["id"] for one in listed.resources()]
    assert sorted(ids) == sorted({*people, *(one for one in fuzz.created if one in ids)})
    assert set(people) <= set(ids)
    names = [one["userName"].lower() for one in listed.resources()]
    assert len(names) == len(set(names))
    for user_id in people:
        assert (await caller.get(f"/Users/{user_id}")).json["id"] == user_id


async def test_patches_of_users(fuzz: Fuzz, caller: Caller, people: list[str]) -> None:
    def make(dice: random.Random) -> bytes:
        path = USERS + b"/" + dice.choice(people).encode()
        return request_bytes(b"PATCH", path, [fuzz.bearer, JSON], as_json(operations(dice, people), dice))

    await fuzz.run(500, make)
    assert {200, 400} <= set(fuzz.statuses) <= {200, 400, 409, 413}
    await all_are_there(caller, people, fuzz)


async def test_replacements_of_users(fuzz: Fuzz, caller: Caller, people: list[str]) -> None:
    def make(dice: random.Random) -> bytes:
        path = USERS + b"/" + dice.choice(people).encode()
        return request_bytes(b"PUT", path, [fuzz.bearer, JSON], as_json(mutated_document(dice), dice))

    await fuzz.run(250, make)
    assert {200, 400} <= set(fuzz.statuses) <= {200, 400, 409, 413}
    await all_are_there(caller, people, fuzz)


async def test_groups(fuzz: Fuzz, caller: Caller, people: list[str]) -> None:
    group = {"schemas": [GROUP_URN], "displayName": "Buyers", "members": [{"value": people[0]}]}
    standing = (await caller.send("POST", "/Groups", body=json.dumps(group).encode())).json["id"]

    def make(dice: random.Random) -> bytes:
        path, body = GROUPS + b"/" + standing.encode(), operations(dice, people)
        method = dice.choice([b"POST", b"PATCH", b"PATCH", b"PUT"])
        if method != b"PATCH":
            members = [{"value": dice.choice([*people, "x"])} for _ in range(dice.randrange(4))]
            named = {**group, "displayName": f"{dice.getrandbits(64):x}", "externalId": "e", "members": members}
            body = mutate(named, dice)
        return request_bytes(method, GROUPS if method == b"POST" else path, [fuzz.bearer, JSON], as_json(body, dice))

    await fuzz.run(450, make)
    assert {200, 201, 400} <= set(fuzz.statuses) | {200} <= {200, 201, 204, 400, 409, 413}
    listed = {one["id"] for one in (await caller.get("/Groups", count=1000)).resources()}
    assert listed == {standing, *fuzz.created}


async def test_bulk_requests(fuzz: Fuzz, caller: Caller, people: list[str]) -> None:
    def make(dice: random.Random) -> bytes:
        made: list[Any] = []
        for number in range(dice.choice([1, 2, 5])):
            path = dice.choice(
                ["/Users", "/Users", "/Groups", f"/Users/{dice.choice(people)}", "/Nothing", "/Bulk", ""]
            )
            method = dice.choice(["POST", "PATCH", "PUT"])
            data = (
                operations(dice, people)
                if method == "PATCH"
                else {"userName": f"{dice.getrandbits(64):x}", "manager": {"value": f"bulkId:{number}"}}
            )
            made.append({"method": method, "path": path, "bulkId": str(number), "data": data})
        body = {"schemas": [BULK_URN], "Operations": made, "failOnErrors": dice.choice([0, 1, 2, "x"])}
        return request_bytes(b"POST", b"/scim/v2/Bulk", [fuzz.bearer, JSON], as_json(mutate(body, dice), dice))

    await fuzz.run(250, make)
    assert {200, 400} <= set(fuzz.statuses) <= {200, 400, 413}
    names = [one["userName"].lower() for one in (await caller.get("/Users", count=1000)).resources()]
    assert len(names) == len(set(names))
    for user_id in people:
        assert (await caller.get(f"/Users/{user_id}")).json["id"] == user_id


async def test_searches(fuzz: Fuzz, caller: Caller, people: list[str]) -> None:
    def make(dice: random.Random) -> bytes:
        body = mutate(
            {
                "schemas": [SEARCH_URN],
                "filter": dice.choice([*FILTERS, mutated_filter(dice).encode("utf-8", "replace").decode()]),
                "attributes": ["userName", "emails.value"],
                "sortBy": dice.choice(["userName", "displayName", dice.choice(PATHS)]),
                "sortOrder": dice.choice(["ascending", "descending", "x"]),
                "startIndex": dice.choice([1, 0, -5, 10**12]),
                "count": dice.choice([1, 0, -5, 10**12]),
            },
            dice,
        )
        path = dice.choice([b"/scim/v2/.search", USERS + b"/.search", GROUPS + b"/.search"])
        return request_bytes(b"POST", path, [fuzz.bearer, JSON], as_json(body, dice))

    await fuzz.run(300, make)
    assert {200, 400} <= set(fuzz.statuses) <= {200, 400, 413}
    await all_are_there(caller, people, fuzz)
