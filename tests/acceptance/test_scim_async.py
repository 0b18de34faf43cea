"""Asynchronous requests (RFC 9967): only when asked for, never lost, with an outcome that can be fetched."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from api.keys import LATER
from models import deferred
from models.deferred import without_passwords
from models.errors import UnavailableError
from models.scim.discovery import ASYNC_EVENT
from models.scim.schema import USER_URN
from tests.support.api import Caller, document, fresh_settings, make_tenant, store, until
from tests.support.processes import processes
from tests.support.writing import PATCH_URN, audited

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.api import Answer, Api
    from tests.support.servers import Servers

pytestmark = pytest.mark.asyncio(loop_scope="module")

ASYNC = {"Prefer": "respond-async"}
PASSWORD = "correct horse battery staple"


async def write(caller: Caller, method: str, path: str, value: Any = None, prefer: str = "respond-async") -> Answer:
    body = None if value is None else json.dumps(value).encode()
    return await caller.send(method, path, body=body, headers={"Prefer": prefer})


def location(accepted: Answer) -> str:
    """Return where the outcome will be, after checking the form of a 202 (RFC 9967)."""
    assert accepted.status == 202, accepted
    assert accepted.content == b""
    assert accepted.headers["Preference-Applied"] == "respond-async"
    assert accepted.headers["Location"].endswith(f"/AsyncRequests/{accepted.headers['Set-Txn']}")
    return accepted.headers["Location"]


async def outcome(caller: Caller, accepted: Answer) -> Any:
    """Wait for what became of a request and return it."""
    where = location(accepted)
    last: list[Answer] = []

    async def ended() -> bool:
        last[:] = [await caller.send("GET", where)]
        assert last[0].status in (200, 202), last
        return last[0].status == 200

    await until(ended, "the outcome of an asynchronous request", 20)
    return last[0].json


async def test_every_write_can_be_asked_for(api: Api, caller: Caller) -> None:
    accepted = await write(caller, "POST", "/Users", document("ana@contoso.example"))
    event = await outcome(caller, accepted)
    txn = accepted.headers["Set-Txn"]
    [(kind, payload)] = event["events"].items()
    assert kind == ASYNC_EVENT
    assert (payload["method"], payload["status"], payload["version"]) == ("POST", "201", 'W/"1"')
    user_id = payload["location"].rpartition("/")[2]
    assert event["sub_id"] == {"format": "scim", "uri": f"/Users/{user_id}", "id": user_id}
    assert (event["txn"], event["iss"]) == (txn, api.settings.base_url)
    assert event["aud"] == f"urn:uuid:{caller.tenant.id}"
    assert uuid.UUID(event["jti"])
    assert isinstance(event["iat"], int)
    change = {"schemas": [PATCH_URN], "Operations": [{"op": "add", "path": "title", "value": "Chief"}]}
    for method, value, status in (
        ("PATCH", change, "200"),
        ("PUT", document("ana@contoso.example"), "200"),
        ("DELETE", None, "204"),
        ("DELETE", None, "404"),
    ):
        [payload] = (await outcome(caller, await write(caller, method, f"/Users/{user_id}", value)))["events"].values()
        assert (payload["method"], payload["status"]) == (method, status)
        assert payload["location"] == f"{caller.scim_url}/Users/{user_id}"
        assert ("response" in payload) is (status == "404")
    assert (await caller.get(f"/Users/{user_id}")).status == 404
    events = await audited(api.settings, caller.tenant.id, "scim.user.create")
    assert {str(each["correlation_id"]) for each in events} == {txn}


async def test_a_refusal_is_an_outcome_too(caller: Caller) -> None:
    await caller.create(document("ana@contoso.example"))
    event = await outcome(caller, await write(caller, "POST", "/Users", document("ANA@contoso.example")))
    [payload] = event["events"].values()
    assert (payload["status"], payload["response"]["scimType"]) == ("409", "uniqueness")
    assert "location" not in payload


async def test_conditions_and_queries_hold_later_too(caller: Caller) -> None:
    user = await caller.create(document("ana@contoso.example"))
    headers = {**ASYNC, "If-Match": 'W/"7"'}
    accepted = await caller.send("DELETE", f"/Users/{user['id']}", headers=headers)
    [payload] = (await outcome(caller, accepted))["events"].values()
    assert payload["status"] == "412"
    waited = await write(
        caller, "POST", "/Users?attributes=userName", document("bo@contoso.example"), "respond-async, wait=20"
    )
    assert waited.status == 201, waited
    assert set(waited.json) == {"id", "schemas", "userName"}


async def test_a_bulk_request_has_an_outcome_for_each_operation(caller: Caller) -> None:
    operations = [
        {"method": "POST", "bulkId": "b", "path": "/Users", "data": document("bo@contoso.example")},
        {"method": "POST", "bulkId": "c", "path": "/Users", "data": {}},
    ]
    accepted = await write(caller, "POST", "/Bulk", {"Operations": operations})
    sets = (await outcome(caller, accepted))["sets"]
    assert all(key == each["jti"] for key, each in sets.items())
    found = [(each["txn"], *map(each["events"][ASYNC_EVENT].get, ("bulkId", "status"))) for each in sets.values()]
    txn = accepted.headers["Set-Txn"]
    assert found == [(f"{txn}:0", "b", "201"), (f"{txn}:1", "c", "400")]


@pytest.mark.parametrize("prefer", ["", "wait=5", "return=minimal", "handling=lenient; respond-async"])
async def test_nobody_is_answered_so_who_did_not_ask(prefer: str, caller: Caller) -> None:
    answer = await write(caller, "POST", "/Users", document("ana@contoso.example"), prefer)
    assert answer.status == 201
    assert "Set-Txn" not in answer.headers


async def test_it_is_announced_to_those_who_want_to_know(caller: Caller) -> None:
    asked = (await caller.get("/ServiceProviderConfig", attributes="bulk, SecurityEvents")).json
    plain = (await caller.get("/ServiceProviderConfig")).json
    assert asked == {**plain, "securityEvents": {"asyncRequest": "request", "eventUris": [ASYNC_EVENT]}}
    assert "securityEvents" not in plain


async def test_reads_are_never_put_off(caller: Caller) -> None:
    assert (await caller.send("GET", "/Users", headers=ASYNC)).status == 200


async def test_what_cannot_be_read_is_refused_at_once(caller: Caller) -> None:
    (await caller.send("POST", "/Users", body=b"{", headers=ASYNC)).error(400, "invalidSyntax")
    assert (await caller.bearing(None).send("POST", "/Users", body=b"{}", headers=ASYNC)).status == 401
    (await caller.send("PATCH", "/Nothing/1", body=b"{}", headers=ASYNC)).error(404)


async def test_only_the_tenant_sees_the_outcome(api: Api, caller: Caller) -> None:
    accepted = await write(caller, "POST", "/Users", document("ana@contoso.example"))
    await outcome(caller, accepted)
    stranger = await api.caller()
    (await stranger.send("GET", location(accepted))).error(404)
    assert (await caller.bearing(None).send("GET", location(accepted))).status == 401
    for wrong in (uuid.uuid4(), "x"):
        (await caller.get(f"/AsyncRequests/{wrong}")).error(404)


async def left_behind(api: Api, caller: Caller, value: Any, path: str = "/Users", method: str = "POST") -> uuid.UUID:
    """Put a request into the store as a process does that dies right after."""
    request_id = uuid.uuid4()
    kept = {
        "method": method,
        "tail": path,
        "query": "",
        "headers": {},
        "body": json.dumps(value),
        "actor": ["token", caller.tenant.token_id, ""],
        "ip": "127.0.0.1",
    }
    later = api.faces.public[LATER]
    await deferred.accept(later._pool, request_id, caller.tenant.id, kept)
    await deferred.put_off(later._pool, [request_id], now=True)
    return request_id


async def result(api: Api, request_id: uuid.UUID) -> dict[str, Any]:
    """Have the front end look for what was left behind, and return the outcomes of one request."""
    later = api.faces.public[LATER]

    async def ended() -> Any:
        await later.look()
        async with store(api.settings) as connection:
            return await connection.fetchval("SELECT result FROM deferred_request WHERE id = $1", request_id)

    found: list[Any] = []

    async def kept() -> bool:
        found[:] = [await ended()]
        return found[0] is not None

    await until(kept, "an outcome in the store", 20)
    return dict(found[0])


async def test_what_a_dead_process_left_is_carried_out_by_another(api: Api, caller: Caller) -> None:
    request_id = await left_behind(api, caller, document("ana@contoso.example"))
    [outcome] = (await result(api, request_id)).values()
    assert outcome["status"] == "201"
    assert len(await caller.match('userName eq "ana@contoso.example"')) == 1
    async with store(api.settings) as connection:
        kept = await connection.fetchval("SELECT request FROM deferred_request WHERE id = $1", request_id)
    assert kept is None, "who was asked for is forgotten when it is done"


async def test_what_was_done_before_the_process_died_is_not_done_again(api: Api, caller: Caller) -> None:
    """The outcome was not stored, but the effects were: creates, a PATCH and a DELETE, alone and in a bulk."""
    operations = [
        {"method": "POST", "bulkId": "a", "path": "/Users", "data": document("ana@contoso.example")},
        {
            "method": "POST",
            "bulkId": "g",
            "path": "/Groups",
            "data": {"displayName": "G", "members": [{"value": "bulkId:a"}]},
        },
        {
            "method": "PATCH",
            "path": "/Users/bulkId:a",
            "data": {"Operations": [{"op": "add", "path": "phoneNumbers", "value": [{"value": "1"}]}]},
        },
        {"method": "POST", "bulkId": "x", "path": "/Users", "data": document("x@contoso.example")},
        {"method": "DELETE", "path": "/Users/bulkId:x"},
    ]
    bulk_id = await left_behind(api, caller, {"Operations": operations}, "/Bulk")
    first = await result(api, bulk_id)
    before = await audited(api.settings, caller.tenant.id, "scim.")
    async with store(api.settings) as connection:
        await connection.execute(
            "UPDATE deferred_request SET result = NULL, finished_at = NULL, lease_until = now(), request = $2"
            " WHERE id = $1",
            bulk_id,
            {
                "method": "POST",
                "tail": "/Bulk",
                "query": "",
                "headers": {},
                "body": json.dumps({"Operations": operations}),
                "actor": ["token", caller.tenant.token_id, ""],
                "ip": None,
            },
        )
    again = await result(api, bulk_id)
    assert [each["status"][0] for each in again.values()] == ["2"] * 5
    assert [each["location"] for each in again.values()] == [each["location"] for each in first.values()]
    assert await audited(api.settings, caller.tenant.id, "scim.") == before


async def test_what_the_store_could_not_do_is_tried_again(
    api: Api, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    later = api.faces.public[LATER]
    perform, tried = later._perform, []
    assert perform is not None

    async def failing_once(*arguments: Any) -> Any:
        tried.append(1)
        if len(tried) == 1:
            arguments[0].refused = UnavailableError()
        return await perform(*arguments)

    monkeypatch.setattr(later, "_perform", failing_once)
    accepted = await write(caller, "POST", "/Users", document("ana@contoso.example"), "respond-async, wait=1")
    assert accepted.status == 202
    [outcome] = (await result(api, uuid.UUID(accepted.headers["Set-Txn"]))).values()
    assert (outcome["status"], len(tried)) == ("201", 2)


async def test_passwords_are_not_kept() -> None:
    for value in (
        {"userName": "a", "password": PASSWORD},
        {f"{USER_URN}:PassWord": PASSWORD},
        {"Operations": [{"op": "replace", "path": "password", "value": PASSWORD}]},
        {"Operations": [{"op": "replace", "Path": f"{USER_URN}:password", "Value": PASSWORD}]},
        {"Operations": [{"op": "replace", "value": {"Password": PASSWORD, "title": "x"}}]},
        {"Operations": [{"method": "POST", "path": "/Users", "data": {"password": PASSWORD}}]},
    ):
        assert PASSWORD not in json.dumps(without_passwords(value))
    kept = {"userName": "password", "Operations": [{"path": "title", "value": "password"}]}
    assert without_passwords(kept) == kept


async def test_an_accepted_request_outlives_kill_9(servers: Servers, tmp_path: Path) -> None:
    operations = [
        {"method": "POST", "bulkId": str(n), "path": "/Users", "data": document(f"u{n}@contoso.example")}
        for n in range(300)
    ]
    async with (
        fresh_settings(servers) as settings,
        processes(settings, tmp_path) as fleet,
        aiohttp.ClientSession() as session,
    ):
        [front] = fleet.apis
        tenant = await make_tenant(settings)
        caller = Caller(session, front.scim_url, tenant, tenant.token)
        accepted = await write(caller, "POST", "/Bulk", {"Operations": operations})
        where = location(accepted)
        await front.kill()
        await front.start()
        last: list[Answer] = []

        async def ended() -> bool:
            last[:] = [await caller.send("GET", where)]
            return last[0].status == 200

        await until(ended, "the outcome of what was accepted before the kill", 40)
        outcomes = [event["events"][ASYNC_EVENT] for event in last[0].json["sets"].values()]
        assert [(each["bulkId"], each["status"]) for each in outcomes] == [(str(n), "201") for n in range(300)]
        stored = {one["id"] for one in (await caller.get("/Users", count=1000)).resources()}
        assert {each["location"].rpartition("/")[2] for each in outcomes} == stored
        assert len(stored) == 300
