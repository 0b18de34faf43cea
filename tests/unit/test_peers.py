"""Whose address a request has: nobody but a trusted proxy can say that it is another's."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest
from multidict import CIMultiDict

from api.peers import Peers
from models.errors import UsageError
from models.settings import load_settings

if TYPE_CHECKING:
    from aiohttp import web

    from models.settings import Settings


def settings(trusted: str) -> Settings:
    return load_settings(
        database_url="postgresql://x@127.0.0.1/x",
        redis_url="redis://127.0.0.1/0",
        secret_key="a-secret-key-for-tests-of-enough-length",
        trusted_proxies=trusted,
    )


def told(trusted: str, remote: str | None, *headers: str) -> str | None:
    request = SimpleNamespace(remote=remote, headers=CIMultiDict(("X-Forwarded-For", header) for header in headers))
    return Peers(settings(trusted)).of(cast("web.Request", request))


OURS = "10.0.0.0/8,fd00::/8"


@pytest.mark.parametrize(
    ("remote", "headers", "expected"),
    [
        ("10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7, 10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7", "10.0.0.2"], "203.0.113.7"),
        ("10.0.0.1", ["10.0.0.3, 10.0.0.2"], "10.0.0.3"),
        ("10.0.0.1", [], "10.0.0.1"),
        ("10.0.0.1", [""], "10.0.0.1"),
        ("fd00::1", ["2001:db8::7"], "2001:db8::7"),
        ("::ffff:10.0.0.1", ["203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["::ffff:203.0.113.7"], "203.0.113.7"),
        ("10.0.0.1", ["203.0.113.7:51234"], "203.0.113.7"),
        ("10.0.0.1", ["[2001:db8::7]:51234"], "2001:db8::7"),
        ("10.0.0.1", ["[2001:db8::7]"], "2001:db8::7"),
    ],
)
def test_what_proxies_of_our_own_say(remote: str, headers: list[str], expected: str) -> None:
    assert told(OURS, remote, *headers) == expected


@pytest.mark.parametrize(
    ("trusted", "remote", "headers", "expected"),
    [
        # Nobody is trusted unless named.
        ("", "127.0.0.1", ["203.0.113.7"], "127.0.0.1"),
        (OURS, "198.51.100.9", ["203.0.113.7"], "198.51.100.9"),
        # The client wrote the beginning, our proxy the end.
        (OURS, "10.0.0.1", ["203.0.113.7, 198.51.100.9"], "198.51.100.9"),
        (OURS, "10.0.0.1", ["203.0.113.7", "198.51.100.9"], "198.51.100.9"),
        (OURS, "10.0.0.1", ["10.0.0.5, 198.51.100.9"], "198.51.100.9"),
        (OURS, "10.0.0.1", ["203.0.113.7, 198.51.100.9, 10.0.0.2"], "198.51.100.9"),
        # What is no address is not told as one, nor is what stands before it.
        (OURS, "10.0.0.1", ["203.0.113.7, unknown"], "10.0.0.1"),
        (OURS, "10.0.0.1", ["203.0.113.7, <script>"], "10.0.0.1"),
        (OURS, "10.0.0.1", ["203.0.113.7, 10.0.0.2, , "], "10.0.0.1"),
        (OURS, "10.0.0.1", ["203.0.113.7, 999.1.1.1"], "10.0.0.1"),
        (OURS, "10.0.0.1", ["203.0.113.7, fe80::1%eth0"], "10.0.0.1"),
        (OURS, "10.0.0.1", ["203.0.113.7, " + "9" * 5000], "10.0.0.1"),
        (OURS, None, ["203.0.113.7"], None),
    ],
)
def test_what_others_say_is_not_believed(
    trusted: str, remote: str | None, headers: list[str], expected: str | None
) -> None:
    assert told(trusted, remote, *headers) == expected


def test_networks_are_checked_at_the_start() -> None:
    with pytest.raises(UsageError, match="USHER_TRUSTED_PROXIES"):
        settings("10.0.0.1/8")
