"""Whole runs against a SCIM server in memory that answers rightly, or wrongly in one way."""

from __future__ import annotations

import json
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest
from aiohttp.test_utils import TestServer

from cli.simulate.cycle import Cycle
from cli.simulate.people import people
from cli.simulate.report import Report
from cli.simulate.wire import Wire
from models.errors import UsageError
from tests.support.scim_double import TOKEN, Alter, Reply, ScimDouble

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp import web

    from cli.simulate.body import Dialect


@asynccontextmanager
async def served(double: ScimDouble) -> AsyncIterator[str]:
    async with TestServer(double.app, host="127.0.0.1") as server:
        yield str(server.make_url("/scim/v2"))


async def provision(url: str, users: int = 40, dialect: Dialect = "mixed", token: str = TOKEN, seed: int = 5) -> Report:
    report = Report(url=url, seed=seed, dialect=dialect, users=users, concurrency=4)
    async with Wire(url, token, 4, report) as wire:
        await Cycle(wire, report, dialect, lambda: None).run(people(seed, users), 4)
    return report


@pytest.mark.parametrize("dialect", ["legacy", "compliant", "mixed"])
async def test_a_right_server_shows_no_deviation(dialect: Dialect) -> None:
    double = ScimDouble(groups=True)
    async with served(double) as url:
        report = await provision(url, users=120, dialect=dialect)
    assert report.deviations == []
    assert report.created == len(double.users) == 120
    assert report.active == sum(doc["active"] for doc in double.users.values())
    assert report.invitable == sum(bool(doc["active"] and doc.get("emails")) for doc in double.users.values())
    assert 0 < report.invitable < report.active < 120
    counts = {kind: len(seconds) for kind, seconds in report.latencies.items()}
    assert counts == {
        "probe": 5,
        "discovery": 3,
        "match": 120,
        "create": 120,
        "match again": 120,
        "match other case": 40,
        "create twice": 24,
        "read": 120,
    }


async def test_a_second_run_of_a_seed_finds_everyone_and_creates_nobody() -> None:
    double = ScimDouble()
    async with served(double) as url:
        await provision(url, dialect="legacy")
        again = await provision(url, dialect="compliant")
        larger = await provision(url, users=50)
        other = await provision(url, seed=6)
    assert (again.deviations, again.created, again.found) == ([], 0, 40)
    assert (larger.deviations, larger.created, larger.found) == ([], 10, 40)
    assert (other.deviations, other.created, other.found) == ([], 40, 0)


def creating(request: web.Request, reply: Reply) -> bool:
    return request.method == "POST" and reply.status == 201


def matching(request: web.Request, reply: Reply) -> bool:
    return request.path.endswith("/Users") and request.method == "GET" and bool(reply.doc["Resources"])


def reading(request: web.Request) -> bool:
    return "/Users/" in request.path


def accepts_202(request: web.Request, reply: Reply) -> None:
    if creating(request, reply):
        reply.status = 202


def keeps_strings(request: web.Request, reply: Reply) -> None:
    if creating(request, reply):
        reply.doc["active"] = str(reply.doc["active"])


def forgets_inactive(request: web.Request, reply: Reply) -> None:
    if matching(request, reply) and not reply.doc["Resources"][0]["active"]:
        reply.doc |= {"totalResults": 0, "itemsPerPage": 0, "Resources": []}


def finds_two(request: web.Request, reply: Reply) -> None:
    if matching(request, reply):
        reply.doc |= {"totalResults": 2, "itemsPerPage": 2, "Resources": reply.doc["Resources"] * 2}


def answers_sparsely(request: web.Request, reply: Reply) -> None:
    if matching(request, reply):
        reply.doc["Resources"] = [{"id": item["id"], "schemas": item["schemas"]} for item in reply.doc["Resources"]]


class IgnoresCaseOfExternalId:
    """Finds a user also by an externalId in another letter case."""

    def __init__(self) -> None:
        self.swapped: set[str] = set()

    def __call__(self, request: web.Request, reply: Reply) -> None:
        path, _, value = request.query.get("filter", "").rpartition(" eq ")
        if creating(request, reply):
            self.swapped.add(reply.doc.get("externalId", "").swapcase())
        elif path == "externalId" and value.strip('"') in self.swapped:
            reply.doc |= {"totalResults": 1, "itemsPerPage": 1, "Resources": [{"id": "1"}]}


def minds_case(request: web.Request, reply: Reply) -> None:
    value = request.query.get("filter", "").rpartition(" eq ")[2].strip('"')
    if matching(request, reply) and value not in json.dumps(reply.doc, ensure_ascii=False):
        reply.doc |= {"totalResults": 0, "itemsPerPage": 0, "Resources": []}


def reads_404(request: web.Request, reply: Reply) -> None:
    if reading(request):
        reply.status = 404


def touches_on_read(request: web.Request, reply: Reply) -> None:
    if reading(request):
        reply.doc["meta"]["lastModified"] = "2027-01-01T00:00:00Z"


def conflicts_without_type(_: web.Request, reply: Reply) -> None:
    if reply.status == 409:
        del reply.doc["scimType"]


def copies_the_flag(request: web.Request, reply: Reply) -> None:
    if creating(request, reply):
        reply.headers["Location"] = reply.doc["meta"]["location"] = f"{reply.headers['Location']}?aadOptscim062020"


def lacks_schemas(request: web.Request, reply: Reply) -> None:
    if request.path.endswith("/Schemas"):
        reply.status = 404


def fails_groups(request: web.Request, reply: Reply) -> None:
    if request.path.endswith("/Groups"):
        reply.status = 501


@pytest.mark.parametrize(
    ("alter", "request_line"),
    [
        (accepts_202, "POST /Users (person"),
        (keeps_strings, "POST /Users (person"),
        (forgets_inactive, "GET /Users?filter="),
        (finds_two, "GET /Users?filter="),
        (answers_sparsely, "GET /Users?filter="),
        (IgnoresCaseOfExternalId(), "GET /Users?filter=externalId"),
        (minds_case, "GET /Users?filter="),
        (reads_404, "GET /Users/"),
        (touches_on_read, "GET /Users/"),
        (conflicts_without_type, "POST /Users again (person"),
        (copies_the_flag, "POST /Users (person"),
        (lacks_schemas, "GET /Schemas"),
        (fails_groups, "GET /Groups?excludedAttributes=members&filter=displayName+eq"),
    ],
)
async def test_a_wrong_answer_is_reported_at_its_request(alter: Alter, request_line: str) -> None:
    async with served(ScimDouble(alter=alter, groups=True)) as url:
        report = await provision(url)
    assert report.deviations
    assert report.deviations[0].request.startswith(request_line), report.deviations


async def test_a_user_who_exists_but_was_not_found_shows_as_a_conflict() -> None:
    def finds_nobody(request: web.Request, reply: Reply) -> None:
        if matching(request, reply):
            reply.doc |= {"totalResults": 0, "itemsPerPage": 0, "Resources": []}

    double = ScimDouble()
    async with served(double) as url:
        await provision(url, users=1)
        double.alter = finds_nobody
        report = await provision(url, users=1)
    assert [item.expected for item in report.deviations] == ["status 201"]


async def test_a_probe_that_fails_ends_the_run_before_anyone_is_created() -> None:
    def no_users(request: web.Request, reply: Reply) -> None:
        if request.path.endswith("/Users"):
            reply.status = 404

    double = ScimDouble(alter=no_users)
    async with served(double) as url:
        report = await provision(url)
    assert len(report.deviations) == 4
    assert len(double.requests) == 4


async def test_a_refused_token_and_an_unreachable_address_are_the_callers_mistake() -> None:
    async with served(ScimDouble()) as url:
        with pytest.raises(UsageError, match="token is refused"):
            await provision(url, token="other")
    with pytest.raises(UsageError, match="cannot be reached"):
        await provision(url)


def first_requests(count: int, status: int, headers: dict[str, str]) -> Callable[[web.Request, Reply], None]:
    """Answer the first creates with a status, as a server under load does."""
    left = [count]

    def busy(request: web.Request, reply: Reply) -> None:
        if request.method == "POST" and left[0]:
            left[0] -= 1
            reply.status, reply.doc, reply.headers = status, {}, headers

    return busy


@pytest.mark.parametrize("status", [429, 503])
async def test_a_busy_server_is_asked_again_after_the_time_it_names(status: int) -> None:
    double = ScimDouble(alter=first_requests(3, status, {"Retry-After": "0"}))
    async with served(double) as url:
        report = await provision(url, users=0)
        async with Wire(url, TOKEN, 1, report) as wire:
            _, answer = await wire.create("create", {"schemas": [], "userName": "a"})
    # The double keeps what it answered 503, so the last try finds the name taken.
    assert answer.status == 409
    assert report.retries == 3


async def test_a_server_that_stays_busy_is_given_up_and_reported() -> None:
    async with served(ScimDouble(alter=first_requests(1000, 503, {"Retry-After": "0"}))) as url:
        report = await provision(url, users=1)
    assert report.retries == 5
    assert [item.expected for item in report.deviations] == ["status 201"]


async def test_busy_without_a_time_to_wait_is_reported() -> None:
    async with served(ScimDouble(alter=first_requests(1, 503, {}))) as url:
        report = await provision(url, users=1)
    assert report.retries == 0
    assert report.deviations[0].expected == "Retry-After in seconds beside 429 or 503"
