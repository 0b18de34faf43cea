"""The whole life of a tenant against a SCIM server in memory that answers rightly, or wrongly in one way."""

from __future__ import annotations

from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp.test_utils import TestServer

from cli.simulate import tenant
from cli.simulate.body import ENTERPRISE
from cli.simulate.report import Report
from cli.simulate.wire import Wire
from models.errors import UsageError
from tests.support.scim_double import TOKEN, Alter, Doc, Reply, ScimDouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import web

    from cli.simulate.body import Dialect


@asynccontextmanager
async def served(double: ScimDouble) -> AsyncIterator[str]:
    async with TestServer(double.app, host="127.0.0.1") as server:
        yield str(server.make_url("/scim/v2"))


def quiet(_: str, __: int) -> Callable[[], None]:
    return lambda: None


async def play(double: ScimDouble, users: int = 60, groups: int = 9, dialect: Dialect = "mixed") -> Report:
    async with served(double) as url:
        report = Report(url=url, seed=5, dialect=dialect, users=users, groups=groups, concurrency=4)
        async with Wire(url, TOKEN, 4, report) as wire:
            await tenant.run(wire, report, dialect, quiet)
    return report


@pytest.mark.parametrize("dialect", ["legacy", "compliant", "mixed"])
async def test_a_right_server_shows_no_deviation(dialect: Dialect) -> None:
    double = ScimDouble(groups=True)
    report = await play(double, users=100, groups=21, dialect=dialect)
    assert report.deviations == []
    assert report.happened >= Counter(
        {
            "updated": 25,
            "managers set": 25,
            "disabled": 12,
            "enabled": 6,
            "renamed": 10,
            "deleted softly": 7,
            "restored": 3,
            "deleted": 4,
            "created anew": 2,
            "groups created": 21,
            "groups renamed": 5,
            "groups deleted": 2,
            "memberships added": 300,
            "memberships removed": 80,
            "on-demand runs": 19,
        }
    )
    assert len(double.users) == 100 - 4 + 2
    assert len(double.groups) == 21 + 1 - 2
    assert any(not doc["active"] for doc in double.users.values())
    assert any(members for members in double.members.values())


def patches(double: ScimDouble) -> list[tuple[str, Doc]]:
    """Return every operation that was sent, with the kind of resource that it was for."""
    return [
        (request.path.split("/")[3], operation)
        for request, body in zip(double.requests, double.bodies, strict=True)
        if request.method == "PATCH"
        for operation in body["Operations"]
    ]


async def test_a_legacy_run_speaks_legacy_only() -> None:
    double = ScimDouble(groups=True)
    await play(double, dialect="legacy")
    sent = patches(double)
    assert {operation["op"] for _, operation in sent} == {"Add", "Replace", "Remove"}
    assert all("path" in operation and "members[" not in operation["path"] for _, operation in sent)
    switched = {operation["value"] for _, operation in sent if operation["path"] == "active"}
    assert switched == {"True", "False"}
    managers = [operation for _, operation in sent if operation["path"].lower().endswith("manager")]
    assert {type(operation["value"]) for operation in managers if operation["op"] != "Remove"} == {str, list}
    assert any(operation.get("value") == "" or operation["op"] == "Remove" for operation in managers)
    removed = [operation["value"] for _, operation in sent if operation["path"] == "members"]
    assert all(set(item) == {"$ref", "value"} for items in removed for item in items)


async def test_a_compliant_run_speaks_legacy_only_on_demand() -> None:
    double = ScimDouble(groups=True)
    await play(double, dialect="compliant")
    sent = patches(double)
    legacy = [(kind, operation) for kind, operation in sent if operation["op"][0].isupper()]
    # A DELETE is followed by an update of what is gone, which is sent as an on-demand run would.
    assert {(kind, operation["path"]) for kind, operation in legacy} == {
        ("Users", "title"),
        ("Users", "active"),
        ("Groups", "members"),
    }
    rest = [operation for _, operation in sent if operation["op"][0].islower()]
    flat = [operation["value"] for operation in rest if "path" not in operation]
    assert any("name.familyName" in value and f"{ENTERPRISE}:department" in value for value in flat)
    assert not any("[" in key for value in flat for key in value)
    assert {operation["value"] for operation in rest if operation.get("path") == "active"} == {True, False}
    removals = [operation for operation in rest if operation["op"] == "remove"]
    assert removals
    assert all("value" not in operation for operation in removals)
    assert any(operation["path"].startswith('members[value eq "') for operation in removals)


async def test_members_come_in_large_patches_and_in_concurrent_ones_of_one() -> None:
    double = ScimDouble(groups=True)
    await play(double, users=130, groups=2)
    sizes = Counter(
        len(operation["value"])
        for kind, operation in patches(double)
        if kind == "Groups" and operation["op"] in ("add", "Add")
    )
    assert sizes[130] == 1
    assert sizes[1] >= 60


async def test_reference_checks_come_in_both_orders() -> None:
    double = ScimDouble(groups=True)
    await play(double)
    asked = [request.query["filter"] for request in double.requests if request.query.get("attributes") == "id"]
    for start, end in (
        ("id eq", "manager eq"),
        ("manager eq", "id eq"),
        ("id eq", "members eq"),
        ("members eq", "id eq"),
    ):
        assert any(filter_.startswith(start) and f" and {end}" in filter_ for filter_ in asked), (start, end)


async def test_whom_a_run_with_groups_finds_there_it_does_not_touch() -> None:
    double = ScimDouble(groups=True)
    await play(double, users=10, groups=1)
    count = len(double.requests)
    with pytest.raises(UsageError, match="leave --seed away"):
        await play(double, users=10, groups=1)
    assert {request.method for request in double.requests[count:]} == {"GET"}


def member_patch(request: web.Request) -> bool:
    return request.method == "PATCH" and "/Groups/" in request.path


def user_patch(request: web.Request, reply: Reply) -> bool:
    return request.method == "PATCH" and "/Users/" in request.path and reply.status == 200


def empties_the_patch_answer(request: web.Request, reply: Reply) -> None:
    if user_patch(request, reply):
        reply.doc = {}


def shows_the_value_before(request: web.Request, reply: Reply) -> None:
    if user_patch(request, reply) and reply.doc["title"] == "Head of Účetní":
        reply.doc["title"] = "Buyer"


def touches_when_nothing_changes(request: web.Request, reply: Reply) -> None:
    if user_patch(request, reply):
        reply.doc["meta"]["lastModified"] = "2027-01-01T00:00:00Z"


def keeps_the_version(request: web.Request, reply: Reply) -> None:
    if user_patch(request, reply):
        reply.doc["meta"]["version"] = reply.headers["ETag"] = 'W/"1"'


def leaks_members(request: web.Request, reply: Reply) -> None:
    if request.method == "GET" and "/Groups/" in request.path:
        reply.doc["members"] = []


def leaks_members_in_lists(request: web.Request, reply: Reply) -> None:
    if (
        request.path.endswith("/Groups")
        and request.method == "GET"
        and "displayName" in request.query.get("filter", "")
    ):
        for doc in reply.doc["Resources"]:
            doc["members"] = []


def creates_groups_with_200(request: web.Request, reply: Reply) -> None:
    if request.path.endswith("/Groups") and reply.status == 201:
        reply.status = 200


def answers_members_with_the_whole_group(request: web.Request, reply: Reply) -> None:
    if member_patch(request) and reply.status == 204:
        reply.status, reply.doc = 200, {"members": [{"value": "1"}]}


def takes_no_conflict(request: web.Request, reply: Reply) -> None:
    if request.method == "PATCH" and reply.status == 409:
        reply.status = 400


def does_not_name_the_unknown(request: web.Request, reply: Reply) -> None:
    if member_patch(request) and reply.status == 400:
        reply.doc["detail"] = "A member is unknown."


def swallows_the_unknown(request: web.Request, reply: Reply) -> None:
    if member_patch(request) and reply.status == 400:
        reply.status, reply.doc = 204, None


def takes_any_manager(request: web.Request, reply: Reply) -> None:
    if request.method == "PATCH" and "/Users/" in request.path and reply.status == 400:
        reply.status = 200


def deletes_with_200(request: web.Request, reply: Reply) -> None:
    if request.method == "DELETE" and reply.status == 204:
        reply.status, reply.doc = 200, {}


def deletes_twice(request: web.Request, reply: Reply) -> None:
    if request.method == "DELETE" and reply.status == 404:
        reply.status, reply.doc = 204, None


def reads_the_deleted(request: web.Request, reply: Reply) -> None:
    if request.method == "GET" and reply.status == 404:
        reply.status, reply.doc = 200, {}


def does_not_patch(request: web.Request, reply: Reply) -> None:
    if request.path.endswith("/ServiceProviderConfig"):
        reply.doc["patch"]["supported"] = False


def knows_no_references(request: web.Request, reply: Reply) -> None:
    if request.query.get("attributes") == "id":
        reply.doc |= {"Resources": [], "totalResults": 0, "itemsPerPage": 0}


def forgets_groups_of_users(request: web.Request, reply: Reply) -> None:
    if request.method == "GET" and "/Users/" in request.path and reply.status == 200:
        reply.doc.pop("groups", None)


class LosesOneOfAPage:
    """Leaves the first resource out of the first page of users, or groups."""

    def __init__(self, kind: str) -> None:
        self.kind = kind

    def __call__(self, request: web.Request, reply: Reply) -> None:
        if (
            request.path.endswith(self.kind)
            and request.query.get("startIndex") == "1"
            and "filter" not in request.query
        ):
            reply.doc["Resources"].pop(0)
            reply.doc["itemsPerPage"] -= 1


def repeats_one_on_a_page(request: web.Request, reply: Reply) -> None:
    if "startIndex" in request.query and reply.doc["Resources"]:
        reply.doc["Resources"][0] = reply.doc["Resources"][-1]


def begins_every_page_at_one(request: web.Request, reply: Reply) -> None:
    if request.query.get("startIndex", "1") != "1":
        reply.doc["startIndex"] = 1


@pytest.mark.parametrize(
    ("alter", "request_line", "expected"),
    [
        (empties_the_patch_answer, "PATCH /Users/", "meta.resourceType"),
        (shows_the_value_before, "PATCH /Users/", "title = Head of"),
        (touches_when_nothing_changes, "PATCH /Users/", "meta (nothing changed)"),
        (keeps_the_version, "PATCH /Users/", "meta.version is new"),
        (leaks_members, "GET /Groups/", "no members, which are excluded"),
        (leaks_members_in_lists, "GET /Groups?excludedAttributes=members&filter=displayName", "no members"),
        (creates_groups_with_200, "POST /Groups", "status 201"),
        (answers_members_with_the_whole_group, "PATCH /Groups/", "no members in the answer to a PATCH"),
        (takes_no_conflict, "PATCH /", "status 409"),
        (does_not_name_the_unknown, "PATCH /Groups/", "detail names"),
        (swallows_the_unknown, "PATCH /Groups/", "status 400"),
        (takes_any_manager, "PATCH /Users/", "status 400"),
        (deletes_with_200, "DELETE /", "status 204"),
        (deletes_twice, "DELETE /", "status 404"),
        (reads_the_deleted, "GET /Users/", "status 404"),
        (does_not_patch, "GET /ServiceProviderConfig", "patch.supported = true"),
        (knows_no_references, "GET /Groups?filter=", "groups with this member: 1"),
        (forgets_groups_of_users, "GET /Users/", "groups = "),
        (LosesOneOfAPage("/Users"), "GET /Users, page by page", "on one page"),
        (LosesOneOfAPage("/Groups"), "GET /Groups, page by page", "on one page"),
        (repeats_one_on_a_page, "GET /Users, page by page", "on one page"),
        (begins_every_page_at_one, "GET /Users?startIndex=101", "startIndex = 101"),
    ],
)
async def test_a_wrong_answer_is_reported_at_its_request(alter: Alter, request_line: str, expected: str) -> None:
    report = await play(ScimDouble(alter=alter, groups=True), users=104 if "101" in request_line else 27, groups=4)
    found = [item for item in report.deviations if item.request.startswith(request_line)]
    assert any(expected in item.expected for item in found), [
        (item.request[:80], item.expected, item.came[:80]) for item in report.deviations[:20]
    ]
