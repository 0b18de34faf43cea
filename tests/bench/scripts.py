"""What the load generator sends, rendered to bytes beforehand, and how it knows a right answer."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote_plus

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterator

DOMAIN = "bench.example"
_KINDS = {"create": ("create",), "match": ("match",), "cycle": ("match before", "create", "match after")}


class Step(NamedTuple):
    """One request and its right answer; ``following`` is sent on the same connection when that came."""

    request: bytes
    status: bytes
    needle: bytes
    total: int | None
    kind: int
    following: Step | None


@dataclass(frozen=True, slots=True)
class Plan:
    """One round of load, as one process carries it out.

    Attributes:
        script: ``create``, ``match`` or ``cycle`` (match, create, match).
        group: keeps the names of one round apart from all others; ``match`` looks for names of this group.
        first: number of the first user.
        count: how many times the script runs.
        connections: each has one request in flight.
        population: ``match`` only: users to choose from, starting at ``first``.
        dice: ``match`` only: another number chooses other users.
    """

    host: str
    port: int
    token: str
    script: str
    group: str
    first: int
    count: int
    connections: int
    population: int = 0
    dice: int = 0

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the steps of the script, in order."""
        return _KINDS[self.script]


def user_name(group: str, number: int) -> str:
    """Return the userName of a user; all of a group have the same length."""
    return f"user{number:010d}@{group}.{DOMAIN}"


def document(name: str) -> dict[str, object]:
    """Return a create as Entra's default mapping sends it (entra-wire.md §4)."""
    return {
        "schemas": [
            "urn:ietf:params:scim:schemas:core:2.0:User",
            "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User",
        ],
        "externalId": name.partition("@")[0],
        "userName": name,
        "active": True,
        "displayName": "Ana Nováková",
        "emails": [{"primary": True, "type": "work", "value": name}],
        "meta": {"resourceType": "User"},
        "name": {"formatted": "Ana Nováková", "familyName": "Nováková", "givenName": "Ana"},
        "title": "Buyer",
        "preferredLanguage": "cs-CZ",
        "addresses": [{"type": "work", "primary": False, "locality": "Brno", "postalCode": "602 00"}],
        "phoneNumbers": [{"type": "mobile", "primary": False, "value": "420555123"}],
        "roles": [],
        "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User": {
            "department": "Procurement",
            "employeeNumber": "4711",
        },
    }


def render(plan: Plan) -> Iterator[Step]:
    """Yield the first step of each run of the plan's script."""
    if plan.script == "match":
        draw = random.Random(plan.dice)  # noqa: S311 - which user is looked for
        for _ in range(plan.count):
            name = user_name(plan.group, plan.first + draw.randrange(plan.population))
            yield _match(plan, name, found=True)
        return
    for number in range(plan.first, plan.first + plan.count):
        name = user_name(plan.group, number)
        if plan.script == "create":
            yield _create(plan, name)
        else:
            after = _match(plan, name, found=True, kind=2)
            yield _match(plan, name, found=False, following=_create(plan, name, kind=1, following=after))


def _create(plan: Plan, name: str, kind: int = 0, following: Step | None = None) -> Step:
    body = orjson.dumps(document(name))
    head = (
        f"POST /scim/v2/Users HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nAuthorization: Bearer {plan.token}\r\n"
        f"Content-Type: application/scim+json; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return Step(head.encode() + body, b"HTTP/1.1 201", name.encode(), None, kind, following)


def _match(plan: Plan, name: str, *, found: bool, kind: int = 0, following: Step | None = None) -> Step:
    question = quote_plus(f'userName eq "{name}"')
    head = (
        f"GET /scim/v2/Users?filter={question} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\n"
        f"Authorization: Bearer {plan.token}\r\n\r\n"
    )
    needle = name.encode() if found else b""
    return Step(head.encode(), b"HTTP/1.1 200", needle, int(found), kind, following)
