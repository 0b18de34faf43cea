"""What cannot be taken is refused with the right status and scimType, in words that help, and leaves no row."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import pytest_asyncio

from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.api import serving, store, work_email

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

ANA = "ana.nov@contoso.example"
ROWS = (
    "SELECT (SELECT count(*) FROM job WHERE tenant_id = $1) + (SELECT count(*) FROM identifier WHERE tenant_id = $1)"
    " + (SELECT count(*) FROM users WHERE tenant_id = $1)"
)


@pytest_asyncio.fixture(loop_scope="module", autouse=True)
async def nothing_is_written(api: Api, caller: Caller) -> AsyncIterator[None]:
    yield
    async with store(api.settings) as connection:
        assert await connection.fetchval(ROWS, caller.tenant.id) == 0


def nested(levels: int) -> bytes:
    return b'{"userName":"x","roles":' + b"[" * levels + b"]" * levels + b"}"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"{",
        b'{"userName":"x"',
        b'{"userName":"x",}',
        b"{'userName':'x'}",
        b'{"userName":"x"}{}',
        b'{"userName":"x"} trailing',
        b"null",
        b"true",
        b"7",
        b'"userName"',
        b'[{"userName":"x"}]',
        b'{"userName":NaN}',
        b'{"userName":Infinity}',
        b'{"userName":01}',
        b'{"userName":"line\nbreak"}',
        b'{"userName":"\\x41"}',
        b'{"userName":"\\ud800"}',
        b'{"userName":"\\udc00\\ud800"}',
        b'{"\\ud800":1,"userName":"x"}',
        b'{"userName":"\xff"}',
        b'{"userName":"\xc0\xaf"}',
        b'{"userName":"\xed\xa0\x80"}',
        b'\xef\xbb\xbf{"userName":"x"}',
        '{"userName":"x"}'.encode("utf-16"),
        '{"userName":"x"}'.encode("utf-32"),
        b"\x00",
        b"userName=x&active=true",
        b"<user><userName>x</userName></user>",
        nested(40),
        nested(2_000),
        nested(100_000),
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
    ids=lambda body: repr(body[:24]),
)
async def test_malformed_json(caller: Caller, body: bytes) -> None:
    detail = (await caller.send("POST", "/Users", body=body)).error(400, "invalidSyntax")
    assert "body" in detail.lower()


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ('"title": "nul \\u0000"', "U+0000"),
        ('"na\\u0000me": 1', "U+0000"),
        ('"userName": "nul\\u0000"', "userName"),
        ('"x509Certificates": [{"value": "\\u0000"}]', "U+0000"),
        ('"unknown": 1e400', "range"),
        ('"unknown": -1e999', "range"),
        ('"unknown": 123456789012345678901234567890', "number"),
        ('"unknown": 0.12345678901234567890123', "number"),
    ],
)
async def test_what_the_store_cannot_hold_exactly(caller: Caller, value: str, named: str) -> None:
    body = f'{{"userName": "x", {value}}}'.encode()
    assert named in (await caller.send("POST", "/Users", body=body)).error(400, "invalidValue")


@pytest.mark.parametrize(
    ("attributes", "named"),
    [
        ({"userName": None}, "userName"),
        ({"userName": ""}, "userName"),
        ({"userName": "  \u3000 "}, "userName"),
        ({"userName": 7}, "userName"),
        ({"userName": True}, "userName"),
        ({"userName": ["x"]}, "userName"),
        ({"userName": {"value": "x"}}, "userName"),
        ({"userName": "two\nlines"}, "userName"),
        ({"userName": "x" * 513}, "userName"),
        ({"USERNAME": "other"}, "userName"),
        ({"schemas": "x"}, "schemas"),
        ({"schemas": [1]}, "schemas"),
        ({"schemas": {}, "active": "yes"}, "active"),
        ({"active": "yes"}, "active"),
        ({"active": 1}, "active"),
        ({"active": ""}, "active"),
        ({"active": "0"}, "active"),
        ({"active": [True]}, "active"),
        ({"externalId": 4711}, "externalId"),
        ({"externalId": "x" * 513}, "externalId"),
        ({"title": {"a": 1}}, "title"),
        ({"title": "x" * 70_000}, "title"),
        ({"name": "Ana"}, "name"),
        ({"name": ["Ana"]}, "name"),
        ({"name": {"familyName": 7}}, "name.familyName"),
        ({"emails": "ana@x.example"}, "emails"),
        ({"emails": ["ana@x.example"]}, "emails"),
        ({"emails": [[]]}, "emails"),
        ({"emails": [{"value": 7}]}, "emails.value"),
        ({"emails": [{"value": "a\r\nBcc: x@x.example"}]}, "emails.value"),
        ({"emails": [work_email(ANA), work_email("y" * 600)]}, "(value 2)"),
        ({"emails": [work_email(ANA, primary="maybe")]}, "emails.primary"),
        ({"emails": [work_email(ANA, type=1)]}, "emails.type"),
        ({"emails": [{"value": str(n)} for n in range(10_001)]}, "10000"),
        ({"x509Certificates": [{"value": "not base64!"}]}, "x509Certificates"),
        ({ENTERPRISE_URN: "Sales"}, ENTERPRISE_URN),
        ({ENTERPRISE_URN: [{"department": "Sales"}]}, ENTERPRISE_URN),
        ({ENTERPRISE_URN: {"department": 7}}, "department"),
        ({ENTERPRISE_URN: {"manager": 7}}, "manager"),
        ({ENTERPRISE_URN: {"manager": ["a", "b"]}}, "manager"),
        ({"roles": [{"value": '{"id": "broken'}]}, "roles"),
    ],
    ids=lambda case: json.dumps(case)[:60],
)
async def test_wrong_values(caller: Caller, attributes: dict[str, Any], named: str) -> None:
    detail = (await caller.post("/Users", {"userName": ANA, **attributes})).error(400, "invalidValue")
    assert named in detail
    assert "x" * 40 not in detail
    assert "not base64!" not in detail


async def test_a_missing_user_name(caller: Caller) -> None:
    for value in ({}, {"schemas": [USER_URN]}, {"emails": [work_email(ANA)]}):
        assert "userName is required" in (await caller.post("/Users", value)).error(400, "invalidValue")


@pytest.mark.parametrize(
    "path",
    [
        "/Nothing",
        "/Users/a/b",
        "/users.json",
        "/Bulk/x",
        "/Users/.search/x",
        "/Schemas/x/.search",
        "/Schemas/urn:nothing",
        "/ResourceTypes/Nothing",
        "/ServiceProviderConfig/x",
        "/Users/not-an-id",
        "/Users/00000000-0000-7000-8000-000000000000",
        "/Users/%00",
        "/Users/%0A",
        "/Users/%FF%FE",
        "/Users/%2e%2e%2fSchemas",
        "/%0d%0aSet-Cookie:x",
        "/../../etc/passwd",
        "/Users/" + "x" * 4000,
    ],
)
async def test_unknown_routes(caller: Caller, path: str) -> None:
    (await caller.send("GET", path)).error(404)


@pytest.mark.parametrize(
    ("method", "path", "allow"),
    [
        ("POST", "/Schemas", "GET"),
        ("PUT", "/ServiceProviderConfig", "GET"),
        ("PATCH", "/ResourceTypes/User", "GET"),
        ("POST", "/Schemas/x", "GET"),
        ("DELETE", "/Users", "GET, POST"),
        ("TRACE", "/Users", "GET, POST"),
        ("OPTIONS", "/Users", "GET, POST"),
        ("PROPFIND", "/Users", "GET, POST"),
        ("GET", "/Bulk", "POST"),
        ("POST", "/", "GET"),
        ("GET", "/.search", "POST"),
        ("PUT", "/Users/.search", "POST"),
    ],
)
async def test_wrong_methods(caller: Caller, method: str, path: str, allow: str) -> None:
    answer = await caller.send(method, path, body=b"{}")
    assert allow in answer.error(405)
    assert answer.headers["Allow"] == allow


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "userName",
        "userName eq",
        'eq "x"',
        'userName = "x"',
        'userName eqq "x"',
        'userName eq "x',
        'userName eq "x" and',
        'userName eq "x" xor active eq true',
        '(userName eq "x"',
        'userName eq "x")',
        'emails[type eq "work"',
        'emails[type eq "work"].value.more eq "x"',
        "emails[] pr",
        'emails[emails[type eq "work"]]',
        'userName eq "\\ud800"',
        'userName eq "\\u0000"',
        "active gt true",
        'active eq "perhaps"',
        "userName eq 7",
        'meta.created gt "yesterday"',
        'meta.created co "2020"',
        "name eq 7",
        "password pr",
        "unknown pr",
        f'{USER_URN}:unknown eq "x"',
        'urn:nobody:knows:userName eq "x"',
        "(" * 30 + 'userName eq "x"' + ")" * 30,
        "not (" * 30 + 'userName eq "x"' + ")" * 30,
        " and ".join(['(userName eq "x" or'] * 20),
        'userName eq "' + "x" * 5000 + '"',
        "'; DROP TABLE users; --",
        'userName eq "x" OR 1=1',
    ],
)
async def test_filters_that_cannot_be_read(caller: Caller, text: str) -> None:
    (await caller.get("/Users", filter=text)).error(400, "invalidFilter")


async def test_the_longest_filter_arrives(caller: Caller) -> None:
    longest = 'displayName eq "' + "李" * (4096 - 17) + '"'
    assert await caller.match(longest) == []
    (await caller.get("/Users", filter=f"{longest} ")).error(400, "invalidFilter")


async def test_nul_in_any_parameter(caller: Caller) -> None:
    for query in (
        "filter=userName+eq+%22%00%22",
        "count=%00",
        "startIndex=1%00",
        "attributes=%00",
        "excludedAttributes=%00",
    ):
        assert (await caller.send("GET", f"/Users?{query}")).status == 400


async def test_both_projections_at_once(caller: Caller) -> None:
    detail = (await caller.get("/Users", attributes="id", excludedAttributes="emails")).error(400, "invalidValue")
    assert "together" in detail


async def test_filters_are_not_allowed_on_discovery(caller: Caller) -> None:
    for path in ("/Schemas", "/ResourceTypes"):
        (await caller.get(path, filter='id eq "x"')).error(403)


async def test_groups_that_are_not_there(caller: Caller) -> None:
    (await caller.get("/Groups/x")).error(404)
    (await caller.get("/Groups", filter="(")).error(400, "invalidFilter")


async def test_refusals_are_audited_with_their_reason(api: Api) -> None:
    async with serving(api.settings) as served:
        caller = await served.caller()
        await caller.post("/Users", {"userName": 7})
        await caller.send("POST", "/Users", body=b"{")
        await caller.send("POST", "/Users", body=b"{}", headers={"Content-Type": "text/plain"})
        await caller.get("/Users", filter="(")
        await caller.get("/Users/unknown")
    async with store(api.settings) as connection:
        rows = await connection.fetch(
            "SELECT reason, context FROM audit_event WHERE action = 'scim.request.deny' AND tenant_id = $1"
            " ORDER BY occurred_at, id",
            caller.tenant.id,
        )
    assert [row["reason"] for row in rows] == ["invalidValue", "invalidSyntax", "http_415", "invalidFilter"]
    assert [row["context"]["status"] for row in rows] == [400, 400, 415, 400]
