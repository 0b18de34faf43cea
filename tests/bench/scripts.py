"""What the load generator sends, rendered to bytes beforehand, and how it knows a right answer."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote_plus

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DOMAIN = "bench.example"
RARE = 100
"""How many users of a filled directory have a value of their own."""
SPARE = 1_000
"""How many users beyond the population are there to become members."""

_KINDS = {
    "create": ("create",),
    "match": ("match",),
    "cycle": ("match before", "create", "match after"),
    "patch": ("patch",),
    "member": ("add", "remove"),
    "filter": ("filter",),
    "page": ("page",),
}
_DRAWN = frozenset({"match", "filter"})
_USER_ID = "01990000-0000-7000-8000-{:012x}"  # as `store.fill` numbers them
_PATCH = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"]}


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
        script: ``create``, ``match``, ``cycle`` (match, create, match), ``patch`` (of one attribute), ``member`` (add,
            remove), ``filter`` (by a rare value) or ``page``.
        group: keeps the names of one round apart from all others; ``match`` looks for names of this group.
        first: number of the first user.
        count: how many times the script runs.
        connections: each has one request in flight.
        population: all but ``create`` and ``cycle``: users of the filled directory, or those to choose from.
        dice: of those that choose: another number chooses other users. Of ``patch``: other values.
        target: ``member``: id of the group; ``filter``: path of the attribute; ``page``: the query, a space, and the
            userName of the last on the page.
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
    target: str = ""

    @property
    def kinds(self) -> tuple[str, ...]:
        """Names of the steps of the script, in order."""
        return _KINDS[self.script]

    @property
    def draws(self) -> bool:
        """Whether every run chooses anew, so that several processes may choose from the same users."""
        return self.script in _DRAWN


def user_id(number: int) -> str:
    """Return the id of a user of a filled directory."""
    return _USER_ID.format(number)


def rare(number: int) -> str:
    """Return a value that one user of a filled directory has, as title, family name and department."""
    return f"Rare {number:03d}"


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
    draw = random.Random(plan.dice)  # noqa: S311 - which user is looked for
    for number in range(plan.first, plan.first + plan.count):
        yield _STEPS[plan.script](plan, number, draw)


def _step_create(plan: Plan, number: int, _: random.Random) -> Step:
    return _create(plan, user_name(plan.group, number))


def _step_match(plan: Plan, _: int, draw: random.Random) -> Step:
    return _match(plan, user_name(plan.group, plan.first + draw.randrange(plan.population)), found=True)


def _step_cycle(plan: Plan, number: int, _: random.Random) -> Step:
    name = user_name(plan.group, number)
    after = _match(plan, name, found=True, kind=2)
    return _match(plan, name, found=False, following=_create(plan, name, kind=1, following=after))


def _step_patch(plan: Plan, number: int, _: random.Random) -> Step:
    title = f"Title {plan.connections}-{plan.dice}-{number}"  # new in every round of every workload
    operation: dict[str, object] = {"op": "Replace", "path": "title", "value": title}
    request = _change(plan, f"Users/{user_id(number % plan.population)}", operation)
    return Step(request, b"HTTP/1.1 200", title.encode(), None, 0, None)


def _step_member(plan: Plan, number: int, _: random.Random) -> Step:
    members = [{"$ref": None, "value": user_id(plan.population + number % SPARE)}]
    add, remove = (
        _change(plan, f"Groups/{plan.target}", {"op": op, "path": "members", "value": members})
        for op in ("Add", "Remove")
    )
    return Step(add, b"HTTP/1.1 204", b"", None, 0, Step(remove, b"HTTP/1.1 204", b"", None, 1, None))


def _step_filter(plan: Plan, _: int, draw: random.Random) -> Step:
    value = rare(draw.randrange(RARE))
    question = quote_plus(f'{plan.target} eq "{value}"')
    return Step(_get(plan, f"Users?filter={question}"), b"HTTP/1.1 200", value.encode(), 1, 0, None)


def _step_page(plan: Plan, _: int, __: random.Random) -> Step:
    query, last = plan.target.split(" ")
    return Step(_get(plan, f"Users?{query}"), b"HTTP/1.1 200", last.encode(), None, 0, None)


_STEPS: dict[str, Callable[[Plan, int, random.Random], Step]] = {
    "create": _step_create,
    "match": _step_match,
    "cycle": _step_cycle,
    "patch": _step_patch,
    "member": _step_member,
    "filter": _step_filter,
    "page": _step_page,
}


def _create(plan: Plan, name: str, kind: int = 0, following: Step | None = None) -> Step:
    request = _send(plan, "POST", "Users", orjson.dumps(document(name)))
    return Step(request, b"HTTP/1.1 201", name.encode(), None, kind, following)


def _match(plan: Plan, name: str, *, found: bool, kind: int = 0, following: Step | None = None) -> Step:
    question = quote_plus(f'userName eq "{name}"')
    needle = name.encode() if found else b""
    return Step(_get(plan, f"Users?filter={question}"), b"HTTP/1.1 200", needle, int(found), kind, following)


def _change(plan: Plan, path: str, operation: dict[str, object]) -> bytes:
    return _send(plan, "PATCH", path, orjson.dumps(_PATCH | {"Operations": [operation]}))


def _get(plan: Plan, path: str) -> bytes:
    return (
        f"GET /scim/v2/{path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nAuthorization: Bearer {plan.token}\r\n\r\n"
    ).encode()


def _send(plan: Plan, method: str, path: str, body: bytes) -> bytes:
    head = (
        f"{method} /scim/v2/{path} HTTP/1.1\r\nHost: {plan.host}:{plan.port}\r\nAuthorization: Bearer {plan.token}\r\n"
        f"Content-Type: application/scim+json; charset=utf-8\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body
