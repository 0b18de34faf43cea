"""Bulk requests (RFC 7644 §3.7): each operation by the rules of a single request, references among them resolved."""

from __future__ import annotations

import asyncio
import io
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from api.scim import bulk
from models.scim.schema import ENTERPRISE_URN
from tests.support.api import document, store
from tests.support.writing import PATCH_URN, audited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.support.api import Answer, Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

REQUEST = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
RESPONSE = "urn:ietf:params:scim:api:messages:2.0:BulkResponse"

NOBODY = "00000000-0000-7000-8000-000000000000"


def post(bulk_id: str | None, endpoint: str, data: Any) -> dict[str, Any]:
    named = {} if bulk_id is None else {"bulkId": bulk_id}
    return {"method": "POST", **named, "path": endpoint, "data": data}


def user(name: str, manager: str | None = None) -> dict[str, Any]:
    attributes = {} if manager is None else {ENTERPRISE_URN: {"manager": {"value": manager}}}
    return document(f"{name}@contoso.example", **attributes)


def group(name: str, *members: str) -> dict[str, Any]:
    return {"displayName": name, "members": [{"value": member} for member in members]}


def patching(path: str, *operations: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"method": "PATCH", "path": path, "data": {"schemas": [PATCH_URN], "Operations": operations}, **more}


async def send(caller: Caller, *operations: Any, **more: Any) -> Answer:
    return await caller.post("/Bulk", {"schemas": [REQUEST], "Operations": operations, **more})


async def done(caller: Caller, *operations: Any, **more: Any) -> list[dict[str, Any]]:
    """Send operations and return their outcomes, after checking the form of each (RFC 7644 §3.7.3)."""
    answer = await send(caller, *operations, **more)
    assert answer.status == 200, answer
    assert answer.json["schemas"] == [RESPONSE]
    outcomes: list[dict[str, Any]] = answer.json["Operations"]
    for outcome in outcomes:
        failed = not outcome["status"].startswith("2")
        assert failed is ("response" in outcome), outcome
        assert failed or "location" in outcome, outcome
        if failed:
            assert outcome["response"]["status"] == outcome["status"]
            assert outcome["response"]["detail"]
    return outcomes


def identifier(outcome: dict[str, Any]) -> str:
    return str(outcome["location"]).rpartition("/")[2]


def statuses(outcomes: Sequence[dict[str, Any]]) -> list[str]:
    return [outcome["status"] for outcome in outcomes]


async def test_every_method_in_one_request(api: Api, caller: Caller) -> None:
    old = await caller.create(user("old"))
    gone = await caller.create(user("gone"))
    outcomes = await done(
        caller,
        post("new", "/Users", user("new")),
        {"method": "put", "path": f"/Users/{old['id']}", "data": {**user("old"), "title": "Chief"}},
        patching(f"/Users/{old['id']}", {"op": "add", "path": "nickName", "value": "Oldie"}, version='W/"2"'),
        {"method": "DELETE", "path": f"/Users/{gone['id']}"},
    )
    assert statuses(outcomes) == ["201", "200", "200", "204"]
    assert [outcome["method"] for outcome in outcomes] == ["POST", "PUT", "PATCH", "DELETE"]
    assert [outcome.get("bulkId") for outcome in outcomes] == ["new", None, None, None]
    assert [outcome.get("version") for outcome in outcomes] == ['W/"1"', 'W/"2"', 'W/"3"', None]
    now = (await caller.get(f"/Users/{old['id']}")).json
    assert (now["title"], now["nickName"]) == ("Chief", "Oldie")
    assert (await caller.get(f"/Users/{identifier(outcomes[0])}")).json["userName"] == "new@contoso.example"
    assert (await caller.get(f"/Users/{gone['id']}")).status == 404


async def test_an_operation_is_refused_as_its_own_request_would_be_and_the_others_go_on(caller: Caller) -> None:
    old = await caller.create(user("old"))
    outcomes = await done(
        caller,
        post("taken", "/Users", user("OLD")),
        post("nameless", "/Users", {"title": "nobody"}),
        {"method": "PUT", "path": f"/Users/{NOBODY}", "data": user("who")},
        patching(f"/Users/{old['id']}", {"op": "add", "path": "active", "value": "perhaps"}),
        patching(f"/Users/{old['id']}", {"op": "add", "path": "title", "value": "x"}, version='W/"9"'),
        post(None, "/Users", user("idless")),
        post("nested", "/Bulk", {}),
        post("id", "/Users/1", user("x")),
        {"method": "DELETE", "path": "/Groups"},
        {"method": "DELETE"},
        {"method": "POST", "bulkId": "dataless", "path": "/Users"},
        post("fine", "/Users", user("fine")),
        post("fine", "/Users", user("finer")),
    )
    assert statuses(outcomes) == [
        *("409", "400", "404", "400", "412", "400", "400", "400", "400", "400", "400", "201", "400")
    ]
    types = [outcome.get("response", {}).get("scimType") for outcome in outcomes]
    assert types[:5] == ["uniqueness", "invalidValue", None, "invalidValue", None]
    located = [outcome.get("location", "").removeprefix(caller.scim_url) for outcome in outcomes]
    assert located[:5] == ["", "", f"/Users/{NOBODY}", f"/Users/{old['id']}", f"/Users/{old['id']}"]
    assert (await caller.get(f"/Users/{old['id']}")).json["meta"]["version"] == 'W/"1"'
    assert sorted(one["userName"][:4] for one in (await caller.get("/Users")).resources()) == ["fine", "old@"]


async def test_references_are_resolved_wherever_they_stand(caller: Caller) -> None:
    outcomes = await done(
        caller,
        {
            "method": "PATCH",
            "path": "/Users/bulkId:bo",
            "data": {"Operations": [{"op": "add", "path": "manager", "value": "bulkId:ana"}]},
        },
        post("team", "/Groups", group("Team", "bulkId:ana", "bulkId:bo")),
        post("ana", "/Users", user("ana")),
        post("bo", "/Users", user("bo")),
        patching("/Groups/bulkId:team", {"op": "remove", "path": 'members[value eq "bulkId:ana"]'}),
        {"method": "DELETE", "path": "/Users/bulkId:ana"},
    )
    assert statuses(outcomes) == ["200", "201", "201", "201", "204", "204"]
    assert [outcome.get("bulkId") for outcome in outcomes] == [None, "team", "ana", "bo", None, None]
    team = (await caller.get(f"/Groups/{identifier(outcomes[1])}")).json
    assert [member["value"] for member in team["members"]] == [identifier(outcomes[3])]
    assert outcomes[0]["location"].endswith(identifier(outcomes[3]))


async def test_circles_of_references_are_closed(caller: Caller) -> None:
    """RFC 7644 §3.7.1, with its example of two groups, and with managers: of each other, and of oneself."""
    outcomes = await done(
        caller,
        post("watcher", "/Groups", group("Watchers", "bulkId:a")),
        post("a", "/Groups", group("A", "bulkId:b")),
        post("b", "/Groups", group("B", "bulkId:a", "bulkId:cy")),
        post("ana", "/Users", user("ana", "bulkId:bo")),
        post("bo", "/Users", user("bo", "bulkId:ana")),
        post("cy", "/Users", user("cy", "bulkId:cy")),
    )
    assert statuses(outcomes) == ["201"] * 6
    ids = {outcome["bulkId"]: identifier(outcome) for outcome in outcomes}
    for name, members in (("watcher", "a"), ("a", "b"), ("b", "a cy")):
        found = (await caller.get(f"/Groups/{ids[name]}")).json
        assert {member["value"] for member in found["members"]} == {ids[each] for each in members.split()}
    for name, manager in (("ana", "bo"), ("bo", "ana"), ("cy", "cy")):
        found = (await caller.get(f"/Users/{ids[name]}")).json
        assert found[ENTERPRISE_URN]["manager"]["value"] == ids[manager]
        assert [outcome["version"] for outcome in outcomes if outcome["bulkId"] == name] == [found["meta"]["version"]]


async def test_what_cannot_be_resolved_is_a_conflict_and_leaves_nothing_behind(caller: Caller) -> None:
    outcomes = await done(
        caller,
        post("lost", "/Users", user("lost", "bulkId:nobody")),
        post("bad", "/Users", {"title": "without a name"}),
        post("heir", "/Users", user("heir", "bulkId:bad")),
        post("left", "/Groups", group("Left", "bulkId:right")),
        post("right", "/Groups", {"members": [{"value": "bulkId:left"}]}),
        patching("/Groups/bulkId:left", {"op": "add", "path": "externalId", "value": "x"}),
    )
    assert statuses(outcomes) == ["409", "400", "409", "409", "400", "204"]
    assert "bulkId:nobody" in outcomes[0]["response"]["detail"]
    assert "circle" in outcomes[3]["response"]["detail"]
    assert (await caller.get("/Users", count=0)).json["totalResults"] == 0
    assert (await caller.get("/Groups", count=0)).json["totalResults"] == 0


@pytest.mark.parametrize("limit", [1, 2])
async def test_fail_on_errors_ends_the_request(limit: int, caller: Caller) -> None:
    operations = [
        post("1", "/Users", user("one")),
        post("2", "/Users", user("One")),
        post("3", "/Users", user("three")),
        post("4", "/Users", {}),
        post("5", "/Users", user("five")),
    ]
    outcomes = await done(caller, *operations, failOnErrors=limit)
    assert statuses(outcomes) == ["201", "409", "201", "400"][: 2 * limit]
    created = {one["userName"].split("@")[0] for one in (await caller.get("/Users")).resources()}
    assert created == ({"one"} if limit == 1 else {"one", "three"})


async def test_neighbouring_creates_share_commits(api: Api, caller: Caller) -> None:
    outcomes = await done(caller, *(post(f"{n}", "/Users", user(f"u{n}")) for n in range(200)))
    assert statuses(outcomes) == ["201"] * 200
    async with store(api.settings) as connection:
        rows = await connection.fetch("SELECT xmin::text FROM identifier WHERE tenant_id = $1", caller.tenant.id)
    assert len(rows) == 200
    assert len({row["xmin"] for row in rows}) == 1


async def test_each_operation_is_audited_under_its_own_id_and_names_the_request(api: Api, caller: Caller) -> None:
    answer = await send(caller, post("a", "/Users", user("ana")), post("b", "/Users", user("ANA")))
    events = await audited(api.settings, caller.tenant.id, "scim.")
    assert [(event["action"], event["phase"]) for event in events] == [
        ("scim.user.create", "requested"),
        ("scim.user.create", "denied"),
    ]
    assert {event["context"]["bulk"] for event in events} == {answer.headers["X-Correlation-Id"]}
    assert [event["context"]["operation"] for event in events] == [0, 1]
    assert len({event["correlation_id"] for event in events} | {uuid.UUID(answer.headers["X-Correlation-Id"])}) == 3


async def test_limits_are_announced_and_named(api: Api, caller: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    announced = (await caller.get("/ServiceProviderConfig")).json["bulk"]
    assert announced == {"supported": True, "maxOperations": 1000, "maxPayloadSize": api.settings.max_body_bytes}
    too_many = await send(caller, *({"method": "DELETE", "path": "/Users/x"} for _ in range(1001)))
    assert "maxOperations is 1000" in too_many.error(413)
    large = b'{"Operations": [' + b" " * api.settings.max_body_bytes + b"]}"
    assert "maxPayloadSize" in (await caller.send("POST", "/Bulk", body=io.BytesIO(large))).error(413)
    monkeypatch.setattr(bulk, "_SECONDS", -1.0)
    assert statuses(await done(caller, post("a", "/Users", user("ana")))) == ["503"]


@pytest.mark.parametrize(
    ("body", "scim_type"),
    [
        ({}, "invalidSyntax"),
        ({"Operations": {}}, "invalidSyntax"),
        ({"Operations": []}, "invalidSyntax"),
        ({"Operations": ["x"]}, "invalidSyntax"),
        ({"Operations": [{"method": "GET", "path": "/Users"}]}, "invalidSyntax"),
        ({"Operations": [{"method": "DELETE"}], "failOnErrors": 0}, "invalidValue"),
        ({"Operations": [{"method": "DELETE"}], "failOnErrors": True}, "invalidValue"),
    ],
)
async def test_what_is_no_bulk_request_is_refused_whole(body: Any, scim_type: str, caller: Caller) -> None:
    (await caller.post("/Bulk", body)).error(400, scim_type)


async def test_a_bulk_request_needs_a_token_and_reaches_one_tenant_only(api: Api, caller: Caller) -> None:
    mine = await caller.create(user("ana"))
    assert (await caller.bearing(None).post("/Bulk", {})).status == 401
    stranger = await api.caller()
    assert statuses(await done(stranger, {"method": "DELETE", "path": f"/Users/{mine['id']}"})) == ["404"]
    assert (await caller.get(f"/Users/{mine['id']}")).status == 200


async def test_a_thousand_operations_beside_other_requests(caller: Caller) -> None:
    operations = [post(f"u{n}", "/Users", user(f"u{n}")) for n in range(499)]
    operations += [post("all", "/Groups", group("All", *(f"bulkId:u{n}" for n in range(499))))]
    operations += [patching(f"/Users/bulkId:u{n}", {"op": "add", "path": "title", "value": "x"}) for n in range(499)]
    outcomes, other = await asyncio.gather(done(caller, *operations), caller.create(user("beside")))
    assert statuses(outcomes) == ["201"] * 500 + ["200"] * 499
    assert other["userName"] == "beside@contoso.example"
    team = (await caller.get(f"/Groups/{identifier(outcomes[499])}")).json
    assert len(team["members"]) == 499


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "PATCH", "DELETE"])
async def test_there_is_no_me(method: str, caller: Caller) -> None:
    assert "not to a user" in (await caller.send(method, "/Me", body=b"{}")).error(501)
    assert (await caller.bearing(None).send(method, "/Me")).status == 401
