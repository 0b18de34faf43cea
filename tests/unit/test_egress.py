"""Which addresses streams may reach, where they go, and how their secrets are kept."""

from __future__ import annotations

import re
import socket
import time
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models.audit.stream_levels import check_levels, read_levels, split_levels, write_levels
from models.audit.stream_place import Place, read_place
from models.audit.stream_trouble import in_words
from models.audit.streaming import LONGEST_DELAY_SECONDS, retry_delay
from models.crypt import UnreadableSecretError, decrypt, encrypt
from models.egress import Gate, RefusedAddressError
from models.errors import UsageError
from worker.destinations.https import signature
from worker.destinations.s3 import object_name
from worker.destinations.syslog import message

REFUSED = (
    *("0.0.0.0", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.8.9.1", "169.254.169.254", "172.16.0.1"),  # noqa: S104
    *("192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.51.100.1", "203.0.113.9"),
    *("224.0.0.1", "239.255.255.250", "240.0.0.1", "255.255.255.255"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "fec0::1", "ff02::1", "ff0e::1"),
    *("2001:db8::1", "2001::1", "2001:2::1", "100::1", "2002:7f00:1::", "3fff::1"),
    *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:169.254.169.254", "::127.0.0.1", "::10.1.2.3"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::1"),
)
ADMITTED = ("8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e", "::ffff:8.8.8.8")


def info(address: str) -> tuple[Any, ...]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (address, 443)


@pytest.mark.parametrize("address", REFUSED)
def test_what_is_not_public_is_refused_before_there_is_a_socket(address: str) -> None:
    gate = Gate()
    with pytest.raises(RefusedAddressError):
        gate.socket(info(address))
    assert gate.refused


@pytest.mark.parametrize("address", ADMITTED)
def test_what_is_public_is_admitted(address: str) -> None:
    assert Gate().admits(address)


def test_a_network_that_is_named_is_admitted_and_no_other() -> None:
    gate = Gate([ip_network("10.20.0.0/16"), ip_network("fd00:1::/32")])
    assert [gate.admits(one) for one in ("10.20.3.4", "::ffff:10.20.3.4", "fd00:1::9")] == [True] * 3
    mapped = Gate([ip_network("::ffff:10.20.0.0/112")])
    assert [mapped.admits(one) for one in ("10.20.3.4", "::ffff:10.20.3.4", "10.21.0.1")] == [True, True, False]
    assert [gate.admits(one) for one in ("10.21.0.1", "127.0.0.1", "fd00:2::9")] == [False] * 3


@given(st.ip_addresses())
def test_every_address_is_either_admitted_or_refused(address: Any) -> None:
    mapped = f"::ffff:{address}" if address.version == 4 else str(address)
    assert Gate().admits(mapped) == Gate().admits(str(address))
    assert Gate([ip_network(f"{address}")]).admits(str(address))


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("https://siem.example.com/a/b", ("https", "siem.example.com", 443, "", "", "")),
        ("https://[2606:4700::1]:8443/", ("https", "2606:4700::1", 8443, "", "", "")),
        ("syslog+tls://siem.example.com", ("syslog", "siem.example.com", 6514, "", "", "")),
        ("syslog+tls://siem.example.com:601/", ("syslog", "siem.example.com", 601, "", "", "")),
        ("s3+https://s3.example.com/logs", ("s3", "s3.example.com", 443, "logs", "", "us-east-1")),
        (
            "s3+https://s3.example.com:9000/logs/a%20b/c/?region=eu-west-1",
            ("s3", "s3.example.com", 9000, "logs", "a b/c", "eu-west-1"),
        ),
    ],
)
def test_destinations_that_can_be_read(text: str, place: tuple[Any, ...]) -> None:
    kind, host, port, bucket, prefix, region = place
    assert read_place(text) == Place(kind, text, host, port, bucket, prefix, region)


@pytest.mark.parametrize(
    "text",
    [
        *("", "siem.example.com", "http://siem.example.com/", "ftp://siem.example.com", "https://", "https:///x"),
        *("https://u@siem.example.com/", "https://user:planted@siem.example.com/", "https://siem.example.com/#planted"),
        *(
            "https://siem.example.com/?token=planted",
            "https://siem.example.com:99999/",
            "https://a b/",
            "https://ä.example/",
        ),
        *("https://127.1/", "https://2130706433/", "https://0x7f.0.0.1/", "https://0x7f000001/", "https://1.2.3.4.5/"),
        *(
            "syslog+tls://siem.example.com/path",
            "syslog://siem.example.com",
            "s3+https://s3.example.com/",
            "s3://bucket/x",
        ),
        *(
            "s3+https://s3.example.com/logs?key=planted",
            "https://siem.example.com/\r\nX: y",
            "https://[::1",
            "x" * 2000,
        ),
    ],
)
def test_destinations_that_are_refused_are_not_repeated(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        read_place(text)
    assert "planted" not in caught.value.detail


@given(st.text(), st.text(min_size=1), st.text(min_size=1))
def test_a_secret_is_read_by_its_owner_with_its_key_only(text: str, key: str, owner: str) -> None:
    text, key, owner = (one.encode(errors="replace").decode() for one in (text, key, owner))
    stored = encrypt(key, owner, text)
    assert decrypt(key, owner, stored) == text
    assert stored != encrypt(key, owner, text), "equal secrets do not look equal"
    for other in ((key + "x", owner, stored), (key, owner + "x", stored), (key, owner, stored[:-1]), (key, owner, b"")):
        with pytest.raises(UnreadableSecretError):
            decrypt(*other)


def test_retries_come_later_and_later() -> None:
    delays = [[retry_delay(failures) for _ in range(50)] for failures in (0, 3, 40, 10_000)]
    assert all(0.5 <= one <= 1 for one in delays[0])
    assert all(4 <= one <= 8 for one in delays[1])
    assert all(LONGEST_DELAY_SECONDS / 2 <= one <= LONGEST_DELAY_SECONDS for one in [*delays[2], *delays[3]])
    assert len(set(delays[3])) > 1, "not all at the same moment"


@pytest.mark.parametrize(
    "levels", [{"password": "full"}, {"userName": "never"}, {"name": "all"}, {"a.b": "full"}, {"": "mask"}]
)
def test_levels_that_cannot_be(levels: dict[str, str]) -> None:
    with pytest.raises(UsageError):
        check_levels(levels)


def test_levels_are_written_as_they_are_read() -> None:
    read = read_levels(split_levels("name=hash,  displayName=full\n"))
    assert read == {"displayname": "full", "name": "hash"}
    assert write_levels(read) == "displayname=full, name=hash"
    assert read_levels(split_levels(write_levels(read))) == read
    assert read_levels([]) == {}
    with pytest.raises(UsageError, match="no level"):
        read_levels(["name"])


@pytest.mark.parametrize(
    ("code", "words"),
    [
        (None, ""),
        ("timeout", "It did not answer in time."),
        ("http_403", "The credentials were refused (HTTP 403 Forbidden)."),
        ("http_302", "It sends elsewhere, which is not followed (HTTP 302 Found)."),
        ("http_599", "It did not accept (HTTP 599)."),
        ("http", "The answer was no answer of HTTP."),
        ("new_code", "new_code"),
    ],
)
def test_trouble_is_told_in_words(code: str | None, words: str) -> None:
    assert in_words(code) == words


def test_every_code_that_a_destination_gives_has_words() -> None:
    root = Path(__file__).parents[2] / "worker"
    text = "".join(file.read_text() for file in [*(root / "destinations").glob("*.py"), root / "streamer.py"])
    given = set(re.findall(r'(?:DeliveryError\(|return |lease, )"([a-z_]+)"', text))
    given |= set(re.findall(r'\w+(?:Error|gaierror), "([a-z_]+)"\)', text))
    assert len(given) > 10
    assert {code for code in given if in_words(code) == code} == set()


def test_the_parts_of_what_is_sent() -> None:
    event = {
        "id": "01980000-0000-7000-8000-000000000001",
        "xid": "77",
        "occurred_at": "2026-06-01T12:00:00.123456Z",
        "severity": 3,
        "action": "scim.user.create",
    }
    assert object_name("a/b", "S", [event, event]) == (
        "a/b/S/2026/06/01/00000000000000000077-20260601T120000Z-01980000-0000-7000-8000-000000000001-2.jsonl.gz"
    )
    assert object_name("", "S", [event]).startswith("S/2026/")
    wanted = '<108>1 2026-06-01T12:00:00.123456Z usher.example.com usher - scim.user.create - {"a":"\u010d"}'.encode()
    assert message(event, {"a": "\u010d"}, "usher.example.com") == f"{len(wanted)} ".encode() + wanted


def test_the_receiver_in_the_documents_takes_what_is_signed_and_nothing_else() -> None:
    page = (Path(__file__).parents[2] / "docs" / "audit.md").read_text(encoding="utf-8")
    (script,) = re.findall(r"^```python\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    found: dict[str, Any] = {}
    exec(script, found)  # noqa: S102  the documents' own
    is_genuine = found["is_genuine"]
    body, now = '{"id":"ä"}\n'.encode(), 1_780_000_000
    header = signature("secret", now, body)
    assert is_genuine("secret", header, body, now + 299)
    assert is_genuine("secret", signature("secret", int(time.time()), body), body)
    wrong = (
        ("another", header, body, now),
        ("secret", header, body + b" ", now),
        ("secret", header, body, now + 301),
        ("secret", header.replace(f"t={now}", f"t={now + 1}"), body, now),
        ("secret", header[:-1], body, now),
        *(("secret", text, body, now) for text in ("", "t=,v1=", f"t={now}", "v1=ä,t=x", "nonsense")),
    )
    assert [is_genuine(*one) for one in wrong] == [False] * len(wrong)
