"""Thousands of mutated requests: none gets a 5xx, hangs, leaves a row that was not answered 201, or a foreign error.

Everything is drawn from a seeded generator, so a failure comes back; the request that caused it is in the message.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from models.scim.schema import USER_URN
from tests.support.api import LIST_URN
from tests.support.fuzzing import JSON, USERS, Fuzz
from tests.support.mutations import TEXTS, as_json, encoded, mutated_bytes, mutated_document, mutated_filter
from tests.support.raw import exchange, request_bytes
from tests.support.samples import sample

if TYPE_CHECKING:
    import random

    from tests.support.api import Api, Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def fuzz(api: Api, caller: Caller) -> Fuzz:
    return Fuzz(api, caller)


async def test_structures_and_types(fuzz: Fuzz) -> None:
    def make(dice: random.Random) -> bytes:
        return request_bytes(b"POST", USERS, [fuzz.bearer, JSON], as_json(mutated_document(dice), dice))

    await fuzz.run(800, make)
    await fuzz.check_rows()
    assert {201, 400} <= set(fuzz.statuses)
    for user_id in fuzz.created:  # what was taken can be read, alone and in a list
        assert (await fuzz.caller.get(f"/Users/{user_id}")).json["id"] == user_id
    listed = await fuzz.caller.get("/Users", count=1000)
    assert {one["id"] for one in listed.resources()} == fuzz.created


async def test_encodings_of_bodies(fuzz: Fuzz) -> None:
    await fuzz.run(500, lambda dice: request_bytes(b"POST", USERS, [fuzz.bearer, JSON], mutated_bytes(dice)))
    await fuzz.check_rows()
    assert 400 in fuzz.statuses


async def test_filters(fuzz: Fuzz) -> None:
    def make(dice: random.Random) -> bytes:
        path = dice.choice([USERS, USERS, USERS, b"/scim/v2/Groups"])
        return request_bytes(b"GET", path + b"?filter=" + encoded(mutated_filter(dice), dice), [fuzz.bearer])

    for name in ("userName", "title"):  # so that there is something to compare with
        fuzz.created.add((await fuzz.caller.create({**sample("rfc7643-8.2-user-full"), "userName": name}))["id"])
    await fuzz.run(700, make)
    await fuzz.check_rows()
    assert {200, 400} == set(fuzz.statuses)


async def test_queries(fuzz: Fuzz) -> None:
    names = [
        "startIndex",
        "count",
        "attributes",
        "excludedAttributes",
        "sortBy",
        "sortOrder",
        "filter",
        "cursor",
        "STARTINDEX",
        "",
    ]
    values = [
        *(text for text in TEXTS if len(text) < 1000),
        "1",
        "5",
        "-7",
        "1.0",
        "9" * 50,
        "userName",
        "emails.value,name",
        "members",
        "id,id",
        f"{USER_URN}:x",
        ",",
    ]

    def make(dice: random.Random) -> bytes:
        pairs = [(dice.choice(names), dice.choice(values)) for _ in range(dice.randrange(1, 5))]
        query = dice.choice([b"&", b"&", b"&&", b";"]).join(
            encoded(name, dice) + dice.choice([b"=", b"=", b"=", b"", b"=="]) + encoded(value, dice)
            for name, value in pairs
        )
        path = dice.choice([USERS, b"/scim/v2/Schemas", b"/scim/v2/ServiceProviderConfig", b"/scim/v2/Groups"])
        return request_bytes(b"GET", path + b"?" + query, [fuzz.bearer])

    await fuzz.run(400, make)
    await fuzz.check_rows()
    assert {200, 400} <= set(fuzz.statuses) <= {200, 400, 403}


async def test_paths_and_methods(fuzz: Fuzz) -> None:
    parts = [
        *(
            b"Users",
            b"users",
            b"Groups",
            b"Schemas",
            b"ResourceTypes",
            b"Me",
            b"Bulk",
            b".search",
            b"",
            b".",
            b"..",
            b"%2e%2e",
        ),
        *(
            b"%2f",
            b"%2F..%2F",
            b"%00",
            b"%0a",
            b"%0d%0aX:y",
            b"%FF",
            b"%",
            b"%zz",
            b"%u002f",
            b"caf%C3%A9",
            b"x" * 3000,
            b";a=b",
        ),
        *(
            b"00000000-0000-7000-8000-000000000000",
            USER_URN.encode(),
            b"User",
            b"*",
            b"~",
            b"|",
            b"\\",
            b"'",
            b"@",
            b":80",
        ),
    ]
    methods = [*([b"GET"] * 6), b"POST", b"PUT", b"PATCH", b"DELETE", b"OPTIONS", b"TRACE", b"PROPFIND", b"M-SEARCH"]

    def make(dice: random.Random) -> bytes:
        path = b"/scim/v2" + b"".join(b"/" + dice.choice(parts) for _ in range(dice.randrange(5)))
        path = (
            dice.choice([b"", b"", b"", b"/", b"//"]) + path + dice.choice([b"", b"", b"?", b"?aadOptscim062020", b"/"])
        )
        method = dice.choice(methods)
        return request_bytes(method, path, [fuzz.bearer, JSON], b"{}" if method not in (b"GET", b"TRACE") else None)

    await fuzz.run(500, make)
    await fuzz.check_rows()
    assert {200, 404, 405} <= set(fuzz.statuses)


async def test_headers(fuzz: Fuzz) -> None:
    body = json.dumps({"userName": 7}).encode()  # never good, so that only the headers decide how it is refused
    headers = {
        b"Content-Type": [
            b"",
            b";",
            b"text/plain",
            b"application/json; charset=",
            b"application/json;;;",
            b"a/b/c",
            b"\xe9",
            b'x; charset="',
        ],
        b"Authorization": [
            b"",
            b"Bearer",
            b"Bearer \xff\xfe",
            b"bearer  x",
            b"Basic eDp5",
            b"Bearer " + b"ush_" * 500,
            b"Digest a=b",
        ],
        b"Content-Encoding": [b"gzip", b"deflate", b"br", b"identity", b"x", b"", b"gzip, gzip"],
        b"Accept": [b"text/html", b"*/*;q=9", b"", b"application/xml", b"\xff"],
        b"Accept-Encoding": [b"gzip", b"*;q=0", b"\xff"],
        b"If-Match": [b"*", b'W/"1"', b"\xff", b'"'],
        b"If-None-Match": [b"*", b'W/"1"', b"x" * 2000],
        b"Range": [b"bytes=0-1", b"bytes=9-1,2-", b"x"],
        b"Expect": [b"100-continue", b"x", b""],
        b"X-Forwarded-Host": [b"evil.example\t", b"a,b"],
        b"X-HTTP-Method-Override": [b"DELETE"],
        b"Cookie": [b"a=b; c", b"=", b"\xff" * 100],
        b"Upgrade": [b"websocket", b"h2c"],
        b"Prefer": [b"respond-async"],
        b"X-Many": [b"x" * 4000],
    }

    def make(dice: random.Random) -> bytes:
        chosen = dice.sample(list(headers), dice.randrange(1, 5))
        given = [(name, dice.choice(headers[name])) for name in chosen]
        own = [pair for pair in (fuzz.bearer, JSON) if pair[0] not in chosen]
        return request_bytes(b"POST", USERS, [*own, *given], body)

    await fuzz.run(400, make)
    await fuzz.check_rows()
    assert set(fuzz.statuses) <= {202, 400, 401, 415}


async def test_what_is_hardly_http(fuzz: Fuzz) -> None:
    good = request_bytes(b"POST", USERS, [fuzz.bearer, JSON], b'{"userName": 7}')
    head, _, body = good.partition(b"\r\n\r\n")
    chunked = head.rpartition(b"\r\n")[0] + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    whole = [
        b"",
        b"\r\n" * 50,
        b"\x16\x03\x01\x02\x00\x01\x00",  # TLS to a plain port
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET\r\n\r\n",
        b"GET /scim/v2/Users\r\n\r\n",
        b"GET /scim/v2/Users HTTP/9.9\r\n\r\n",
        b"GET scim/v2/Users HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"CONNECT x:80 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 5000 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 100_000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n X: folded\r\nno colon\r\n\r\n",
        good.replace(b"Content-Length: 15", b"Content-Length: -1"),
        good.replace(b"Content-Length: 15", b"Content-Length: 1x"),
        good.replace(b"Content-Length: 15", b"Content-Length: 15\r\nContent-Length: 16"),
        good.replace(b"Content-Length: 15", b"Content-Length: 15\r\nTransfer-Encoding: chunked"),
        good.replace(b"Content-Length: 15", b"Content-Length: 99999999999999999999"),
        good.replace(b"Content-Length: 15", b"Content-Length: 500"),
        good.replace(b"HTTP/1.1", b"HTTP/1.0"),
        good.replace(b"\r\n", b"\n"),
        chunked + b"zz\r\nx\r\n0\r\n\r\n",
        chunked + b"fffffffffffffffff\r\n",
        chunked + b"5\r\n{}",
        chunked + b"-1\r\n\r\n",
        chunked + b"f\r\n" + body + b"\r\n0\r\nX-Trailer: \xff\r\n\r\n",
        chunked + (b"1;" + b"x" * 20_000 + b"\r\n{\r\n"),
    ]

    def make(dice: random.Random) -> bytes:
        if dice.random() < 0.3:
            return dice.choice(whole)
        broken = bytearray(dice.choice([good, good, chunked + b"f\r\n" + body + b"\r\n0\r\n\r\n"]))
        for _ in range(dice.choice([1, 2, 5, 30])):
            place = dice.randrange(len(broken))
            broken[place : place + dice.choice([0, 1, 1, 3])] = dice.choice(
                [b"", b"\x00", b"\r", b"\n", b"\r\n", b" ", b":", b"\xff", b"A", bytes([dice.randrange(256)])]
            )
        return bytes(broken)

    await fuzz.run(500, make, may_hang_up=True)
    await fuzz.check_rows()
    assert (await fuzz.caller.get("/Users")).json["totalResults"] == 0


async def test_two_requests_in_one_packet_are_two_requests(fuzz: Fuzz) -> None:
    first = request_bytes(b"GET", USERS, [fuzz.bearer]).replace(b"Connection: close\r\n", b"")
    answer = await exchange(fuzz.api.scim_url, first + request_bytes(b"GET", b"/scim/v2/Nothing", [fuzz.bearer]))
    assert answer is not None
    assert answer.json["schemas"] == [LIST_URN]
