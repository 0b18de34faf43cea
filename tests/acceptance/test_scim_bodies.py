"""How a body arrives: its media type, its coding, its size and its pace; what is wrong with them leaves no row."""

from __future__ import annotations

import asyncio
import gzip
import io
import json
import zlib
from typing import TYPE_CHECKING

import pytest
import pytest_asyncio

from tests.support.api import SCIM_TYPE, altered, document, serving, store

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


@pytest.mark.parametrize(
    "header",
    [
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/xml"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data; boundary=x"},
        {"Content-Type": "application/scim"},
        {"Content-Type": "application/scim+json+gzip"},
        {"Content-Type": "application/scim+json, application/json"},
        {"Content-Type": ""},
        {"Content-Type": ";"},
        {"Content-Type": "application/json; charset=utf-16"},
        {"Content-Type": "application/json; charset=iso-8859-1"},
        {"Content-Encoding": "x-unknown"},
        {"Content-Encoding": "identity, br"},
    ],
    ids=repr,
)
async def test_another_media_type(caller: Caller, header: dict[str, str]) -> None:
    body = json.dumps(document(ANA)).encode()
    (await caller.send("POST", "/Users", body=body, headers=header)).error(415)


async def test_no_media_type(caller: Caller) -> None:
    answer = await caller.send("POST", "/Users", body=None, headers={"Content-Length": "0"}, without=["Content-Type"])
    assert "Content-Type is missing" in answer.error(415)


BOMB = b'{"userName":"x","title":"' + b" " * 20_000_000 + b'"}'


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzip.compress(BOMB, mtime=0)),
        ("GZIP", gzip.compress(b'{"userName":"x"}', mtime=0)),
        ("gzip", b"no such thing"),
        ("deflate", zlib.compress(BOMB)),
        ("deflate", b"no such thing"),
        ("br", b"no such thing"),
        ("zstd", b"no such thing"),
    ],
    ids=lambda case: repr(case[:6]),
)
async def test_compressed_bodies_are_refused_unread(caller: Caller, coding: str, body: bytes) -> None:
    for _ in range(2):  # the connection is as good as before
        answer = await caller.send("POST", "/Users", body=body, headers={"Content-Encoding": coding})
        assert "compressed" in answer.error(415)


async def test_a_body_over_the_limit(api: Api, caller: Caller) -> None:
    limit = api.settings.max_body_bytes
    for size in (limit + 1, limit * 3):
        body = io.BytesIO(json.dumps(document(ANA, unknown="x" * size)).encode())
        assert str(limit) in (await caller.send("POST", "/Users", body=body)).error(413)
    async with serving(altered(api.settings, max_body_bytes=2048)) as small:
        at = caller.at(small.scim_url)
        text = json.dumps({**document(ANA), "schemas": "wrong"})
        (await at.send("POST", "/Users", body=text.ljust(2048).encode())).error(
            400, "invalidValue"
        )  # the last that fits
        (await at.send("POST", "/Users", body=text.ljust(2049).encode())).error(413)


async def test_a_body_over_the_limit_that_does_not_say_so(api: Api, caller: Caller) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(3 * api.settings.max_body_bytes // 65_536):
            yield b" " * 65_536

    async with caller.session.post(
        f"{caller.scim_url}/Users",
        data=chunks(),
        headers={"Authorization": f"Bearer {caller.token}", "Content-Type": SCIM_TYPE},
    ) as response:
        assert response.status == 413
        assert (await response.json(content_type=SCIM_TYPE))["status"] == "413"


@pytest.mark.parametrize("head", [b"Content-Length: 100", b"Transfer-Encoding: chunked"])
async def test_a_body_that_does_not_come(api: Api, caller: Caller, head: bytes) -> None:
    async with serving(altered(api.settings, body_seconds=0.2)) as hasty:
        port = int(hasty.scim_url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            writer.write(
                b"POST /scim/v2/Users HTTP/1.1\r\nHost: x\r\nContent-Type: application/scim+json\r\n"
                + f"Authorization: Bearer {caller.token}\r\n".encode()
                + head
                + (b'\r\n\r\n{"userName":' if b"Length" in head else b'\r\n\r\n3\r\n{"u')
            )
            async with asyncio.timeout(5):
                answer = await reader.readuntil(b"}")
        finally:
            writer.close()
            await writer.wait_closed()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"\r\nContent-Type: application/scim+json\r\n" in answer
    assert b'"status":"408"' in answer


async def test_expectations(caller: Caller) -> None:
    refused = await caller.send("POST", "/Users", body=b"{}", headers={"Expect": "100-continue"})
    refused.error(400, "invalidValue")
    assert (await caller.send("GET", "/Users", headers={"Expect": "the impossible"})).status == 200
