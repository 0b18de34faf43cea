from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from cli.simulate.findings import Answer
from cli.simulate.report import Report
from cli.simulate.wire import Wire, encode, retry_after
from models.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

OK = b"HTTP/1.1 200 OK\r\nContent-Type: application/scim+json\r\nContent-Length: 2\r\n\r\n{}"


class Tap:
    """A server that keeps every byte it gets, so that a test sees what is really sent."""

    def __init__(self, reply: bytes = OK) -> None:
        self.reply = reply
        self.heads: list[str] = []
        self.bodies: list[bytes] = []

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("ascii")
                self.heads.append(head)
                length = next(
                    (line.partition(":")[2] for line in head.split("\r\n") if line.startswith("Content-Length")), "0"
                )
                self.bodies.append(await reader.readexactly(int(length)))
                writer.write(self.reply)
                await writer.drain()
        except asyncio.IncompleteReadError:
            pass
        finally:
            writer.close()


@asynccontextmanager
async def tapped(tap: Tap) -> AsyncIterator[str]:
    server = await asyncio.start_server(tap.handle, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


def report() -> Report:
    return Report(url="", seed=0, dialect="mixed", users=0, concurrency=1)


async def head_of(path: str, send: Callable[[Wire], Awaitable[object]]) -> tuple[str, bytes]:
    tap = Tap()
    async with tapped(tap) as url, Wire(url + path, "ush_1", 1, report()) as wire:
        await send(wire)
    return tap.heads[0], tap.bodies[0]


async def test_a_match_is_encoded_as_entra_encodes_it() -> None:
    head, _ = await head_of("/scim/v2/", lambda wire: wire.users("match", 'userName eq "ana+b#EXT#@x.example"'))
    assert head.startswith("GET /scim/v2/Users?filter=userName+eq+%22ana%2Bb%23EXT%23%40x.example%22 HTTP/1.1\r\n")


async def test_only_the_headers_that_entra_sends_are_sent() -> None:
    head, _ = await head_of("/scim/v2", lambda wire: wire.read("read", "7"))
    names = {line.partition(":")[0] for line in head.split("\r\n")[1:] if line}
    assert names == {"Host", "Authorization"}
    assert "\r\nAuthorization: Bearer ush_1\r\n" in head


async def test_a_create_is_scim_json_with_its_charset_and_unescaped_letters() -> None:
    head, body = await head_of("/scim/v2", lambda wire: wire.create("create", {"displayName": "Žofie 🚀"}))
    assert "\r\nContent-Type: application/scim+json; charset=utf-8\r\n" in head
    assert body == '{"displayName":"Žofie 🚀"}'.encode()


@pytest.mark.parametrize("flag", ["aadOptscim062020", "aadOptscim062020=true"])
async def test_a_flag_in_the_tenant_url_goes_with_every_request(flag: str) -> None:
    head, _ = await head_of(f"/scim/v2?{flag}", lambda wire: wire.users("match", 'id eq "1"'))
    assert head.startswith(f"GET /scim/v2/Users?filter=id+eq+%221%22&{flag} HTTP/1.1")
    head, _ = await head_of(f"/scim/v2/?{flag}", lambda wire: wire.create("create", {}))
    assert head.startswith(f"POST /scim/v2/Users?{flag} HTTP/1.1")


async def test_a_redirect_is_an_answer_and_not_followed() -> None:
    tap = Tap(b"HTTP/1.1 308 Permanent Redirect\r\nLocation: /elsewhere\r\nContent-Length: 0\r\n\r\n")
    async with tapped(tap) as url, Wire(url, "t", 1, report()) as wire:
        _, answer = await wire.get("discovery", "/Schemas")
    assert answer.status == 308
    assert len(tap.heads) == 1


async def test_a_connection_that_ends_early_is_no_answer() -> None:
    tap = Tap(b"HTTP/1.1 200 OK\r\nContent-Length: nonsense\r\n\r\n")
    async with tapped(tap) as url, Wire(url, "t", 1, report()) as wire:
        _, answer = await wire.create("create", {})
    assert answer.status is None
    assert answer.failure.startswith("no answer (")


def test_brackets_and_letters_beyond_ascii_are_percent_encoded() -> None:
    assert encode('emails[type eq "work"].value eq "ž"') == "emails%5Btype+eq+%22work%22%5D.value+eq+%22%C5%BE%22"


@pytest.mark.parametrize("url", ["", "localhost:8080", "ftp://x.example/scim", "https:///scim/v2", "http://[::1"])
def test_what_is_no_web_address_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="--url"):
        Wire(url, "t", 1, report())


@pytest.mark.parametrize("token", ["", "a b", "a\r\nX: y", "žeton"])
def test_a_token_that_no_header_can_carry_is_refused(token: str) -> None:
    with pytest.raises(UsageError, match="--token"):
        Wire("http://127.0.0.1", token, 1, report())


@pytest.mark.parametrize(
    ("value", "seconds"),
    [("0", 0.0), ("7", 7.0), ("3600", 30.0), ("", None), ("soon", None), ("-1", None), ("²", None)],
)
def test_the_wait_is_what_the_server_names_within_reason(value: str, seconds: float | None) -> None:
    assert retry_after(Answer(503, {"retry-after": value})) == seconds


async def test_a_busy_server_is_given_the_time_it_names(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    tap = Tap(b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n")
    async with tapped(tap) as url, Wire(url, "t", 1, report()) as wire:
        monkeypatch.setattr("cli.simulate.wire.asyncio.sleep", sleep)
        await wire.get("discovery", "/Schemas")
        monkeypatch.undo()
    assert waits == [7.0] * 5
