"""Requests that are nearly right, or not at all: drawn from a seeded generator, so that each comes back."""

from __future__ import annotations

import copy
import json
import string
from typing import TYPE_CHECKING, Any

from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.samples import sample

if TYPE_CHECKING:
    import random

SAMPLES = ("entra-wire-4-create", "entra-wire-4-oddities", "rfc7643-8.2-user-full", "rfc7643-8.3-user-enterprise")
TEXTS = [
    *(
        "",
        " ",
        "\x00",
        "\ud800",
        "\udfff\ud800",
        "\ufeff",
        "\u202e",
        "e\u0301",
        "\U0010ffff",
        "ẞ",
        "\u2028",
        "\r\n",
        "\x1b",
    ),
    *(
        "'; DROP TABLE users; --",
        "${jndi:x}",
        "{{7*7}}",
        "../../x",
        "%00",
        "True",
        "null",
        "0",
        "-1",
        "1e400",
        "{",
        "[1",
    ),
    "x" * 513,
    "x" * 70_000,
    USER_URN,
    ENTERPRISE_URN,
]
NUMBERS = [0, -1, 1, 2**31, 2**53 + 1, 2**63, -(2**63), 2**64, 10**40, 0.1, -0.0, 1e308, 5e-324, 1.0000000000000000001]


def leaf(dice: random.Random) -> Any:
    return dice.choice([None, True, False, dice.choice(NUMBERS), dice.choice(TEXTS), [], {}, [[]], [{}], {"": None}])


def tree(dice: random.Random, levels: int) -> Any:
    if levels == 0 or dice.random() < 0.3:
        return leaf(dice)
    if dice.random() < 0.5:
        return [tree(dice, levels - 1) for _ in range(dice.randrange(4))]
    names = [*TEXTS[:20], "value", "type", "primary", "userName", "$ref", "manager"]
    return {dice.choice(names): tree(dice, levels - 1) for _ in range(dice.randrange(4))}


def places(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) of a JSON value."""
    keys: list[Any] = (
        list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    )
    found = [(value, key) for key in keys]
    for key in keys:
        found += places(value[key])
    return found


def mutated_document(dice: random.Random) -> Any:
    value: Any = copy.deepcopy(sample(dice.choice(SAMPLES)))
    value["userName"] = f"{dice.getrandbits(64):x}@fuzz.example"
    for _ in range(dice.choice([1, 1, 1, 2, 4])):
        found = places(value)
        if not found:
            break
        container, key = dice.choice(found)
        match dice.randrange(6):
            case 0:
                container[key] = leaf(dice)
            case 1:
                container[key] = tree(dice, 4)
            case 2:
                del container[key]
            case 3:
                container[key] = [copy.deepcopy(container[key])] * dice.choice([1, 2, 300])
            case 4 if isinstance(container, dict):
                container[dice.choice([str(key).upper(), str(key).title(), str(key) + " ", *TEXTS[:12]])] = container[
                    key
                ]
            case _:
                for _ in range(dice.choice([1, 3, 40])):
                    container[key] = {"value": container[key]}
    return value if dice.random() > 0.03 else tree(dice, 5)


def as_json(value: Any, dice: random.Random) -> bytes:
    # Infinity and lone surrogates go out as they are: the server is to refuse them, not this side.
    text = json.dumps(value, ensure_ascii=dice.random() < 0.5, indent=dice.choice([None, None, 2]))
    return text.encode("utf-8", "surrogatepass")


def mutated_bytes(dice: random.Random) -> bytes:
    body = bytearray(as_json(mutated_document(dice), dice))
    for _ in range(dice.choice([1, 1, 2, 5, 20])):
        place = dice.randrange(len(body) + 1)
        match dice.randrange(5):
            case 0:
                body[place:place] = bytes([dice.randrange(256)])
            case 1:
                del body[place : place + dice.choice([1, 2, 50])]
            case 2:
                body[place : place + 1] = dice.choice(
                    [b"\xff", b"\x00", b"\xc0\xaf", b"\xed\xa0\x80", b'"', b"{", b"\\"]
                )
            case 3:
                body[place:place] = dice.choice(
                    [b"[" * 300, b'{"a":' * 300, b"9" * 400, b"\\u0000", b"\\ud800", b"-", b"e9"]
                )
            case _:
                del body[place:]
    encoding = dice.choice([None] * 6 + ["utf-16", "utf-32", "utf-8-sig"])
    return bytes(body) if encoding is None else bytes(body).decode("utf-8", "replace").encode(encoding)


FILTER_WORDS = [
    *("userName", "externalId", "id", "active", "emails", "emails.value", 'emails[type eq "work"]', "name.familyName"),
    *(
        "meta.created",
        "meta.version",
        "password",
        "nothing",
        "manager",
        f"{ENTERPRISE_URN}:department",
        f"{USER_URN}:title",
    ),
    *(
        "eq",
        "ne",
        "co",
        "sw",
        "ew",
        "gt",
        "ge",
        "lt",
        "le",
        "pr",
        "and",
        "or",
        "not",
        "AND",
        "Eq",
        "(",
        ")",
        "[",
        "]",
        ".",
    ),
    *(
        '"x"',
        '"x',
        '"\\ud800"',
        '"\\u0000"',
        '"%"',
        "'x'",
        "true",
        "false",
        "null",
        "1",
        "-1.5e3",
        "9" * 400,
        '""',
        "*",
        ";",
    ),
    *(
        '"2020-01-01T00:00:00Z"',
        '"2020-02-31T00:00:00Z"',
        '"9999-99-99T99:99:99Z"',
        "\x00",
        "\n",
        "é",
        "\U0001f469",
        "--",
    ),
]
FILTERS = [
    'userName eq "x"',
    'emails[type eq "work"].value eq "x"',
    'not (active eq true) and (title pr or name.familyName sw "a")',
    'meta.lastModified ge "2020-01-01T00:00:00Z"',
    f'{ENTERPRISE_URN}:employeeNumber eq "4711"',
    'id eq "00000000-0000-7000-8000-000000000000"',
]


def mutated_filter(dice: random.Random) -> str:
    if dice.random() < 0.5:
        return dice.choice([" ", " ", ""]).join(dice.choice(FILTER_WORDS) for _ in range(dice.randrange(1, 12)))
    text = dice.choice(FILTERS)
    for _ in range(dice.choice([1, 2, 3])):
        place = dice.randrange(len(text) + 1)
        inserted = dice.choice([*FILTER_WORDS, "(" * 30, " and " + text, dice.choice(string.printable)])
        text = text[:place] + inserted + text[place + dice.choice([0, 1, 5]) :]
    return text


def encoded(text: str, dice: random.Random) -> bytes:
    """Percent-encode a text, well or badly."""
    odd = dice.random() < 0.15
    out = b""
    for byte in text.encode("utf-8", "surrogatepass"):
        if odd and dice.random() < 0.1:
            out += dice.choice([b"%", b"%zz", b"%u0041", b"%FF", b"%C3", b"%E2%82", b"%00", b"%0A", b"+", b"%25"])
        elif chr(byte) in string.ascii_letters + string.digits or (dice.random() < 0.3 and chr(byte) in "()[].:,'-_"):
            out += bytes([byte])
        else:
            out += b"+" if byte == 32 else b"%%%02X" % byte
    return out
