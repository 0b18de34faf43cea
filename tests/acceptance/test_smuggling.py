"""Requests that two servers could read differently are answered once, 400, and nothing after them is read."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.raw import everything

if TYPE_CHECKING:
    from tests.support.api import Api

pytestmark = pytest.mark.asyncio(loop_scope="module")

HIDDEN = b"GET /scim/v2/Schemas HTTP/1.1\r\nHost: scim.example\r\n\r\n"


def head(*lines: bytes, method: bytes = b"POST", target: bytes = b"/scim/v2/Users") -> bytes:
    return b"\r\n".join([method + b" " + target + b" HTTP/1.1", b"Host: scim.example", *lines]) + b"\r\n\r\n"


CHUNKED = b"Transfer-Encoding: chunked"
SHAPES = {
    "a length beside chunks": head(b"Content-Length: 5", CHUNKED) + b"0\r\n\r\n" + HIDDEN,
    "chunks beside a length": head(CHUNKED, b"Content-Length: 4") + b"0\r\n\r\n" + HIDDEN,
    "two lengths that differ": head(b"Content-Length: 0", b"Content-Length: 5") + HIDDEN,
    "two lengths that agree": head(b"Content-Length: 0", b"Content-Length: 0") + HIDDEN,
    "a list of lengths": head(b"Content-Length: 0, 0") + HIDDEN,
    "a signed length": head(b"Content-Length: +0") + HIDDEN,
    "a negative length": head(b"Content-Length: -1") + HIDDEN,
    "a hexadecimal length": head(b"Content-Length: 0x0") + HIDDEN,
    "a length with an underscore": head(b"Content-Length: 1_0") + HIDDEN,
    "an empty length": head(b"Content-Length:") + HIDDEN,
    "a length beyond every number": head(b"Content-Length: 99999999999999999999999") + HIDDEN,
    "digits of another script": head("Content-Length: \u0660".encode()) + HIDDEN,
    "a coding nobody knows": head(b"Transfer-Encoding: xchunked") + b"0\r\n\r\n" + HIDDEN,
    "chunked is not last": head(b"Transfer-Encoding: chunked, identity") + b"0\r\n\r\n" + HIDDEN,
    "chunked twice": head(b"Transfer-Encoding: chunked, chunked") + b"0\r\n\r\n" + HIDDEN,
    "two codings that differ": head(CHUNKED, b"Transfer-Encoding: identity") + b"0\r\n\r\n" + HIDDEN,
    "a coding behind a tab": head(b"Transfer-Encoding:\x0bchunked") + b"0\r\n\r\n" + HIDDEN,
    "a space before the colon": head(b"Transfer-Encoding : chunked") + b"0\r\n\r\n" + HIDDEN,
    "a length before a spaced colon": head(b"Content-Length : 0") + HIDDEN,
    "a folded header": head(b"X-Note: a\r\n b") + HIDDEN,
    "a folded coding": head(b"Transfer-Encoding:\r\n chunked") + b"0\r\n\r\n" + HIDDEN,
    "a space before the first header": b"POST /scim/v2/Users HTTP/1.1\r\n Host: a\r\nContent-Length: 0\r\n\r\n"
    + HIDDEN,
    "lines that end in LF": head(b"Content-Length: 0").replace(b"\r\n", b"\n") + HIDDEN,
    "one line that ends in LF": head(b"X-Note: a\nContent-Length: 0") + HIDDEN,
    "one line that ends in CR": head(b"X-Note: a\rContent-Length: 0") + HIDDEN,
    "NUL in a header": head(b"X-Note: a\x00b", b"Content-Length: 0") + HIDDEN,
    "a header without a name": head(b": a", b"Content-Length: 0") + HIDDEN,
    "a header without a colon": head(b"Content-Length 0") + HIDDEN,
    "two hosts": head(b"Host: other.example", b"Content-Length: 0") + HIDDEN,
    "no host": b"POST /scim/v2/Users HTTP/1.1\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "chunks under HTTP/1.0": b"POST /scim/v2/Users HTTP/1.0\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
    + HIDDEN,
    "a version nobody knows": b"POST /scim/v2/Users HTTP/1.9\r\nHost: a\r\nContent-Length: 0\r\n\r\n" + HIDDEN,
    "no version": b"GET /scim/v2/Schemas\r\n\r\n" + HIDDEN,
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + HIDDEN,
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + HIDDEN,
    "a method with a space before it": b" POST /scim/v2/Users HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n"
    + HIDDEN,
}
CHUNKS = {
    "a size that is no number": b"x\r\n\r\n0\r\n\r\n",
    "a size with a prefix": b"0x0\r\n\r\n",
    "a size with an underscore": b"1_0\r\n0123456789abcdef\r\n0\r\n\r\n",
    "a negative size": b"-1\r\n\r\n0\r\n\r\n",
    "a size beyond every number": b"fffffffffffffffff\r\na\r\n0\r\n\r\n",
    "a size that ends in LF": b"1\na\r\n0\r\n\r\n",
    "an extension that ends in LF": b"1;a\nb\r\n0\r\n\r\n",
    "data that go on": b"1\r\nab\r\n0\r\n\r\n",
    "data that end in LF": b"1\r\na\n0\r\n\r\n",
    "a size behind a space": b" 1\r\na\r\n0\r\n\r\n",
}


def statuses(answers: bytes) -> list[int]:
    return [int(status) for status in re.findall(rb"^HTTP/1\.[01] (\d{3}) ", answers, re.MULTILINE)]


@pytest.mark.parametrize("listener", ["public", "internal"])
@pytest.mark.parametrize("shape", SHAPES)
async def test_a_head_that_can_be_read_two_ways(api: Api, shape: str, listener: str) -> None:
    answers = await everything(api.internal_url if listener == "internal" else api.scim_url, SHAPES[shape])
    assert statuses(answers) == [400], answers


@pytest.mark.parametrize("shape", CHUNKS)
async def test_chunks_that_can_be_read_two_ways(api: Api, shape: str) -> None:
    answers = await everything(api.scim_url, head(CHUNKED) + CHUNKS[shape] + HIDDEN)
    assert statuses(answers) == [400], answers


async def test_a_refused_body_is_no_request(api: Api) -> None:
    """What follows the head of a request that is answered early is its body, not the next request."""
    length = b"Content-Length: %d" % len(HIDDEN)
    answers = await everything(api.scim_url, head(length, b"Connection: close") + HIDDEN)
    assert statuses(answers) == [401], answers
