"""Connections that drip, stall or crowd are ended in time, with an answer where one is due; nobody else notices."""

from __future__ import annotations

import asyncio
import json
import socket
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest

from api import connections
from api.keys import LIMITS
from models import metrics
from tests.support.api import ERROR_URN, altered, document, serving, store
from tests.support.raw import exchange
from tests.support.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.api import Api

pytestmark = pytest.mark.asyncio(loop_scope="module")

HEAD = b"GET /scim/v2/Schemas HTTP/1.1\r\nHost: scim.example\r\n"
LISTENERS = pytest.mark.parametrize("listener", ["public", "internal"])

Pair = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def address(api: Api, listener: str = "public") -> str:
    return api.internal_url if listener == "internal" else api.scim_url


@asynccontextmanager
async def connected(url: str, count: int = 1) -> AsyncIterator[list[Pair]]:
    parts = urlsplit(url)
    made = [await asyncio.open_connection(parts.hostname, parts.port) for _ in range(count)]
    try:
        yield made
    finally:
        for _, writer in made:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for _, writer in made), return_exceptions=True)


def ended(listener: str, reason: str) -> float:
    return metrics.COUNTS.read().get((metrics.CONNECTIONS_ENDED.name, (listener, reason)), [0.0])[0]


def check(answer: bytes, status: int, listener: str) -> None:
    """Check that something was answered in the form of the listener, and with its headers."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.split(b" ")[1] == str(status).encode(), answer
    assert b"\r\nServer: usher\r\n" in head
    assert b"\r\nX-Content-Type-Options: nosniff\r\n" in head
    if listener == "public":
        assert json.loads(body)["schemas"] == [ERROR_URN]
        assert json.loads(body)["status"] == str(status)
    else:
        assert b"text/plain" in head


@LISTENERS
async def test_a_head_that_drips_is_answered_408(api: Api, listener: str) -> None:
    async with serving(altered(api.settings, head_seconds=0.5)) as served:
        before = ended(listener, "slow_head")
        async with connected(address(served, listener)) as [(reader, writer)]:
            answer = asyncio.create_task(reader.read())
            for byte in HEAD:
                writer.write(bytes([byte]))
                await asyncio.wait([answer], timeout=0.1)
                if answer.done():
                    break
            async with asyncio.timeout(10):
                check(await answer, 408, listener)
        assert ended(listener, "slow_head") == before + 1


@LISTENERS
async def test_a_connection_that_says_nothing_is_closed(api: Api, listener: str) -> None:
    async with (
        serving(altered(api.settings, head_seconds=0.5)) as served,
        connected(address(served, listener)) as [(reader, _)],
        asyncio.timeout(10),
    ):
        assert await reader.read() == b""


async def test_between_requests_a_connection_may_rest_longer(api: Api) -> None:
    async with (
        serving(altered(api.settings, head_seconds=0.2, idle_seconds=3)) as served,
        connected(served.scim_url) as [(reader, writer)],
        asyncio.timeout(20),
    ):
        for _ in range(2):
            writer.write(HEAD + b"\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            assert b" 200 " in head.splitlines()[0]
            await reader.readexactly(int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0]))
            await asyncio.sleep(1.5)  # more than the head has, less than the pause may last
        assert await reader.read() == b""


@LISTENERS
@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (HEAD + b"X-Note: a\r\n" * 200 + b"\r\n", 431),
        (HEAD + b"X-Note: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", 414),
    ],
    ids=["200 headers", "a header of 9 kB", "an address of 70 kB"],
)
async def test_heads_that_are_too_large(api: Api, listener: str, request_: bytes, status: int) -> None:
    answer = await exchange(address(api, listener), request_)
    assert answer is not None
    assert answer.status == status
    assert answer.headers["server"] == "usher"


async def test_a_head_that_never_ends_does_not_fill_the_memory(api: Api) -> None:
    async with connected(api.scim_url) as [(reader, writer)], asyncio.timeout(20):
        answer = asyncio.create_task(reader.read())
        writer.write(HEAD)
        for number in range(100):  # below the number of headers and the size of each
            writer.write(b"X-%d: " % number + b"a" * 8000 + b"\r\n")
            await asyncio.wait([answer], timeout=0.01)
            if answer.done():
                break
        check(await answer, 431, "public")


async def test_what_cannot_be_read_is_in_no_log(api: Api, capfd: pytest.CaptureFixture[str]) -> None:
    """A request is refused for one letter too many; the token in it is as good as ever."""
    caller = await api.caller()
    assert caller.token is not None
    header = f"Authorization : Bearer {caller.token}\r\n".encode()
    answer = await exchange(api.scim_url, HEAD + header + b"\r\n")
    assert answer is not None
    assert answer.status == 400
    assert caller.token.encode() not in answer.body
    said = "".join(capfd.readouterr())
    assert caller.token not in said
    assert "Traceback" not in said


@pytest.mark.parametrize("path", ["/sign-in", "/sign-in/link", "/ops/queues/pause", "/nowhere"])
async def test_a_form_that_does_not_arrive(api: Api, path: str) -> None:
    async with serving(altered(api.settings, body_seconds=0.5)) as served:
        request = (
            f"POST {path} HTTP/1.1\r\nHost: a\r\nSec-Fetch-Site: same-origin\r\nConnection: close\r\n"
            "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 30\r\n\r\nword=a"
        )
        answer = await exchange(served.internal_url, request.encode(), seconds=20)
        assert answer is not None
        assert answer.status == 408
        assert b"did not arrive in time" in answer.body


@pytest.mark.parametrize(
    ("kind", "body"),
    [("multipart/form-data", b"--a"), ("multipart/form-data; boundary=a", b"--a\r\n\r\n"), ("multipart/x", b"")],
)
async def test_a_form_that_cannot_be_read(api: Api, kind: str, body: bytes) -> None:
    headers = {"Content-Type": kind, "Sec-Fetch-Site": "same-origin"}
    async with api.session.post(f"{api.internal_url}/sign-in", data=body, headers=headers) as answer:
        assert answer.status < 500


async def test_a_body_that_nobody_reads_does_not_hold_its_connection(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """The handler is at work on something that lasts, and the body drips on."""
    monkeypatch.setattr(connections, "_GRACE_SECONDS", 0.1)
    async with serving(altered(api.settings, body_seconds=0.3)) as served, store(api.settings) as connection:
        caller = await served.caller()
        before = ended("public", "slow_body")
        async with connection.transaction():
            await connection.execute("LOCK TABLE users, identifier IN ACCESS EXCLUSIVE MODE")
            async with connected(served.scim_url) as [(reader, writer)], asyncio.timeout(10):
                writer.write(
                    f"GET /scim/v2/Users HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {caller.token}\r\n"
                    "Content-Length: 1000\r\n\r\n{".encode()
                )
                with suppress(ConnectionResetError):
                    assert await reader.read() == b""
        assert ended("public", "slow_body") == before + 1


async def test_an_answer_that_nobody_fetches(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", 0.5)
    async with serving(api.settings) as served:
        caller = await served.caller()
        before = ended("public", "slow_reader")
        people = [document(f"u{number}", title="x" * 60_000) for number in range(60)]
        await asyncio.gather(*map(caller.create, people))
        parts = urlsplit(served.scim_url)
        request = f"GET /scim/v2/Users HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {caller.token}\r\n\r\n".encode()
        with socket.socket() as greedy:
            greedy.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            greedy.connect((parts.hostname, parts.port))
            greedy.sendall(request * 4)
            await wait_until(lambda: ended("public", "slow_reader") == before + 1, "the connection is ended", 20)
        assert len(await caller.match("userName pr", count=5)) == 5


async def test_when_places_are_short_idle_strangers_go_first(api: Api) -> None:
    async with serving(altered(api.settings, max_connections=16, head_seconds=2)) as served:
        caller = await served.caller()
        assert (await caller.get("/Users")).status == 200  # over a connection that is kept
        async with connected(served.scim_url, 40) as strangers:
            waiting = [asyncio.create_task(reader.read()) for reader, _ in strangers]
            await wait_until(lambda: sum(one.done() for one in waiting) >= 25, "strangers are sent away")
            assert (await caller.create(document("ana")))["userName"] == "ana"
            assert not waiting[-1].done(), "the newest stays"
            await asyncio.wait(waiting, timeout=20)


async def test_when_everybody_is_busy_a_newcomer_is_answered_503(api: Api) -> None:
    async with serving(altered(api.settings, max_connections=16)) as served, store(api.settings) as connection:
        caller = await served.caller()
        assert (await caller.get("/Users")).status == 200
        async with connection.transaction():
            await connection.execute("LOCK TABLE identifier IN ACCESS EXCLUSIVE MODE")
            held = [asyncio.create_task(caller.post("/Users", document(f"u{number}"))) for number in range(16)]
            use = served.faces.internal[LIMITS]._uses[caller.tenant.token_id]
            await wait_until(lambda: use.in_flight == 16, "all places are taken by requests")
            before = ended("public", "refused")
            answer = await exchange(served.scim_url, HEAD + b"Connection: close\r\n\r\n")
            assert answer is not None
            assert (answer.status, answer.headers["retry-after"]) == (503, "5")
            assert ended("public", "refused") == before + 1
        assert [answer.status for answer in await asyncio.gather(*held)] == [201] * 16


@pytest.mark.parametrize(("trusted", "left"), [("", 5), ("127.0.0.0/8", 12)])
async def test_one_address_has_a_share_of_the_places(api: Api, trusted: str, left: int) -> None:
    async with (
        serving(altered(api.settings, peer_connections=5, trusted_proxies=trusted)) as served,
        connected(served.scim_url, 12) as made,
    ):
        waiting = [asyncio.create_task(reader.read()) for reader, _ in made]
        await wait_until(lambda: sum(not one.done() for one in waiting) == left, f"{left} connections are left")
        key = (metrics.CONNECTIONS.name, ("public",))
        await wait_until(lambda: metrics.COUNTS.read().get(key) == [float(left)], "the gauge says so")
        for one in waiting:
            one.cancel()
        await asyncio.gather(*waiting, return_exceptions=True)
