"""Requests that go the short way through aiohttp are answered as those that go the long one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.raw import everything

if TYPE_CHECKING:
    from tests.support.api import Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

_DIFFERS = ("X-Correlation-Id:", "Date:")


def request(caller: Caller, target: str, *, method: str = "GET", version: str = "1.1", close: bool = False) -> bytes:
    lines = [f"{method} {target} HTTP/{version}", "Host: scim.example", f"Authorization: Bearer {caller.token}"]
    return "\r\n".join([*lines, *(["Connection: close"] if close else []), "", ""]).encode()


async def answers(caller: Caller, *requests: bytes) -> list[tuple[str, set[str], bytes]]:
    """Return status line, headers and body of each answer on one connection."""
    received, found = await everything(caller.scim_url, b"".join(requests)), []
    while received:
        head, _, received = received.partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        length = next((int(line.split()[1]) for line in lines if line.startswith("Content-Length:")), 0)
        found.append((status, set(lines), received[:length]))
        received = received[length:]
    return found


@pytest.mark.parametrize("target", ["/Users?count=1", "/Users/unknown", "/Nothing", "/ServiceProviderConfig", ""])
async def test_a_path_that_needs_no_router_is_answered_like_one_that_does(caller: Caller, target: str) -> None:
    plain, routed = await answers(
        caller, request(caller, f"/scim/v2{target}"), request(caller, f"//scim/v2{target}", close=True)
    )
    assert plain[0] == routed[0]
    assert "Connection: close" in routed[1]
    for line in plain[1] ^ (routed[1] - {"Connection: close"}):
        assert line.startswith(_DIFFERS), line
    assert [line.partition(":")[0] for line in plain[1]].count("X-Correlation-Id") == 1
    assert plain[2] == routed[2]


async def test_older_clients_get_their_answer_and_the_end_of_the_connection(caller: Caller) -> None:
    [(status, headers, body)] = await answers(caller, request(caller, "/scim/v2/Users?count=0", version="1.0"))
    assert status == "HTTP/1.0 200 OK"
    assert f"Content-Length: {len(body)}" in headers
    assert body.startswith(b"{")


async def test_an_answer_to_head_has_no_body(caller: Caller) -> None:
    received = await everything(caller.scim_url, request(caller, "/scim/v2/Users", method="HEAD", close=True))
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 405 ")
    assert body == b""
