"""The benchmark would be worthless if its load generator took a wrong answer for a right one."""

from __future__ import annotations

import fcntl
import json
import re
import socket
import struct
import termios
import threading
import time
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
from rich.console import Console

from tests.bench.generator import Generator, WrongAnswerError, serving
from tests.bench.load import drive
from tests.bench.measure import Sample, Workload, measure_in_turn, quantiles, ratio, summary
from tests.bench.ops import FURTHER, addresses, page_routes
from tests.bench.scripts import Plan, document, render, user_id, user_name
from tests.bench.table import show

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.bench.load import Outcome


def plan(script: str = "create", count: int = 3, connections: int = 1, population: int = 0, port: int = 0) -> Plan:
    return Plan("127.0.0.1", port, "ush_x", script, "g", 0, count, connections, population)


def reply(status: int, body: object) -> bytes:
    data = json.dumps(body, separators=(",", ":")).encode()
    return b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n%b" % (status, len(data), data)


def right(request: bytes, known: set[str]) -> bytes:
    """Answer as a server does that remembers what was created."""
    head, _, body = request.partition(b"\r\n\r\n")
    if head.startswith(b"POST"):
        doc = json.loads(body)
        known.add(doc["userName"])
        return reply(201, doc)
    filter_ = parse_qs(urlsplit(head.split(b" ")[1].decode()).query)["filter"][0]
    name = filter_.partition('"')[2].rstrip('"')
    found = [document(name)] if name in known else []
    return reply(200, {"totalResults": len(found), "Resources": found})


def driven(a_plan: Plan, answer: Callable[[bytes], bytes], piece: int = 1 << 20) -> Outcome:
    """Drive a plan against a thread that answers each request in pieces, each sent when the last one was taken."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        while request := theirs.recv(1 << 16):
            whole = answer(request)
            for start in range(0, len(whole), piece):
                theirs.sendall(whole[start : start + piece])
                deadline = time.monotonic() + 10
                while struct.unpack("i", fcntl.ioctl(theirs, termios.TIOCOUTQ, b"\0" * 4))[0]:
                    assert time.monotonic() < deadline, "the generator takes what was sent"
                    time.sleep(0)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        ours.setblocking(False)
        return drive(a_plan, iter(list(render(a_plan))), [ours])
    finally:
        ours.close()
        thread.join()
        theirs.close()


@pytest.mark.parametrize("script", ["create", "cycle"])
@pytest.mark.parametrize("piece", [1, 50, 1 << 20])
def test_right_answers_are_right_in_whatever_pieces_they_come(script: str, piece: int) -> None:
    known: set[str] = set()
    outcome = driven(plan(script), lambda request: right(request, known), piece)
    assert (outcome.wrong, outcome.wrong_count) == ([], 0)
    assert [len(seconds) for seconds in outcome.latencies] == [3] * len(plan(script).kinds)
    assert known == {user_name("g", number) for number in range(3)}


@pytest.mark.parametrize(
    "answer",
    [
        lambda request: right(request, set()).replace(b"201", b"200", 1),
        lambda request: right(request, set()).replace(b"201", b"503", 1),
        lambda _: reply(201, {"userName": "someone else"}),
        lambda _: reply(201, {}),
    ],
)
def test_a_wrong_answer_to_a_create_is_counted(answer: Callable[[bytes], bytes]) -> None:
    outcome = driven(plan(count=7), answer)
    assert outcome.wrong_count == 7
    assert len(outcome.wrong) == 5
    assert outcome.wrong[0].startswith("POST /scim/v2/Users HTTP/1.1 → HTTP/1.1")


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: reply(200, {"totalResults": 0, "Resources": []}),
        lambda _: reply(200, {"totalResults": 2, "Resources": [document(user_name("g", 0))] * 2}),
        lambda _: reply(200, {"totalResults": 1, "Resources": [{"userName": "someone else"}]}),
        lambda _: reply(200, {"totalResults": 10, "Resources": [document(user_name("g", 0))]}),
        lambda _: reply(404, {"totalResults": 1, "Resources": [document(user_name("g", 0))]}),
    ],
)
def test_a_wrong_answer_to_a_match_is_counted(answer: Callable[[bytes], bytes]) -> None:
    assert driven(plan("match", population=1), answer).wrong_count == 3


def no_content(request: bytes) -> bytes:
    assert request.startswith(b"PATCH /scim/v2/Groups/g7 HTTP/1.1")
    return b"HTTP/1.1 204 No Content\r\nETag: x\r\n\r\n"


def member_plan() -> Plan:
    return replace(plan("member", population=10), target="g7")


@pytest.mark.parametrize("piece", [1, 1 << 20])
def test_members_come_and_go_and_are_answered_without_a_body(piece: int) -> None:
    asked: list[dict[str, Any]] = []

    def answer(request: bytes) -> bytes:
        asked.extend(json.loads(request.partition(b"\r\n\r\n")[2])["Operations"])
        return no_content(request)

    outcome = driven(member_plan(), answer, piece)
    assert outcome.wrong_count == 0
    assert [len(seconds) for seconds in outcome.latencies] == [3, 3]
    assert [operation["op"] for operation in asked] == ["Add", "Remove"] * 3
    ids = [operation["value"][0]["value"] for operation in asked]
    assert ids[::2] == ids[1::2] == [user_id(number) for number in (10, 11, 12)]


def test_a_wrong_answer_to_a_member_is_counted_and_the_removal_is_not_sent() -> None:
    outcome = driven(member_plan(), lambda _: reply(400, {}))
    assert outcome.wrong_count == 3
    assert [len(seconds) for seconds in outcome.latencies] == [3, 0]


def patched(request: bytes) -> dict[str, Any]:
    assert request.startswith(b"PATCH /scim/v2/Users/")
    [operation] = json.loads(request.partition(b"\r\n\r\n")[2])["Operations"]
    return {operation["path"]: operation["value"]}


def test_a_patch_is_right_when_the_new_value_is_answered() -> None:
    assert driven(plan("patch", population=2), lambda request: reply(200, patched(request))).wrong_count == 0
    assert driven(plan("patch", population=2), lambda _: reply(200, {"title": "Buyer"})).wrong_count == 3
    assert driven(plan("patch", population=2), lambda request: reply(204, patched(request))).wrong_count == 3


def test_a_filter_is_right_when_one_with_the_value_is_answered_and_a_page_when_its_last_user_is() -> None:
    def filtered(request: bytes) -> bytes:
        question = parse_qs(urlsplit(request.split(b" ")[1].decode()).query)["filter"][0]
        path, _, value = question.partition(" eq ")
        return reply(200, {"totalResults": 1, "Resources": [{path: value.strip('"')}]})

    a_filter = replace(plan("filter", population=9), target="title")
    assert driven(a_filter, filtered).wrong_count == 0
    assert driven(a_filter, lambda _: reply(200, {"totalResults": 1, "Resources": [{"title": "x"}]})).wrong_count == 3
    a_page = replace(plan("page", population=9), target=f"count=1&cursor=c {user_name('g', 4)}")
    assert driven(a_page, lambda _: reply(200, {"Resources": [document(user_name("g", 4))]})).wrong_count == 0
    assert driven(a_page, lambda _: reply(200, {"Resources": [document(user_name("g", 3))]})).wrong_count == 3


def test_sizes_are_compared_where_both_were_measured() -> None:
    def measured(name: str, kind: str, milliseconds: float) -> dict[str, Any]:
        times = {quantile: {"median": milliseconds} for quantile in ("p50", "p95", "p99")}
        return {"section": "s", "name": name, "times_ms": {kind: times}}

    results = [
        measured("title eq among 1000 @1", "filter", 2.0),
        measured("title eq among 1000000 @1", "filter", 2.5),
        measured("match among 1000 @16", "match", 2.0),
        measured("page 1 of 1000000 @1", "page", 1.0),
        measured("page 5000 of 1000000 @1", "page", 1.75),
    ]
    console = Console(width=200)
    with console.capture() as capture:
        show(results, console)
    shown = capture.get()
    assert re.search(r"title eq p95, users, 1,000,000 over 1,000 +at most 1.5 +1.25", shown)
    assert re.search(r"page by cursor, median, number of the page, 5,000 over 1 +at most 2 +1.75", shown)
    assert "match p95" not in shown


def test_a_list_may_be_spelled_with_spaces_and_its_total_last() -> None:
    found = {"Resources": [document(user_name("g", 0))], "totalResults": 1}
    data = json.dumps(found).encode()
    answer = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%b" % (len(data), data)
    assert driven(plan("match", population=1), lambda _: answer).wrong_count == 0


def test_a_cycle_ends_at_its_first_wrong_answer() -> None:
    known = {user_name("g", 0)}
    outcome = driven(plan("cycle"), lambda request: right(request, known))
    assert outcome.wrong_count == 1
    assert [len(seconds) for seconds in outcome.latencies] == [3, 2, 2]


async def test_processes_share_a_plan_and_leave_out_nobody() -> None:
    async with Generator(2) as generator, serving("tests.bench.bare") as bare:
        seen = await generator.run(plan(count=101, connections=5, port=bare.port))
        assert seen.runs == seen.requests == 101
        assert seen.rate > 0
        with pytest.raises(WrongAnswerError, match="4 of 4 answers were wrong"):
            await generator.run(plan("match", count=4, population=1, port=bare.port))


async def test_a_workload_is_measured_once_a_round_and_its_warming_up_is_not_counted() -> None:
    order: list[tuple[str, int]] = []

    def workload(name: str, rate: float, http: str | None = None) -> Workload:
        async def measure(number: int) -> Sample:
            order.append((name, number))
            return Sample(rate=rate * (number + 2), times={"create": quantiles([0.001, 0.002, 0.003])})

        return Workload("s", name, "creates", measure, http)

    both = [workload("ceiling", 100), workload("ours", 50, "ceiling")]
    await measure_in_turn(both, 2, lambda _: None)
    assert order == [(name, number) for number in (-1, 0, 1) for name in ("ceiling", "ours")]
    assert ratio(both[1], both[0]) == {"median": 0.5, "min": 0.5, "max": 0.5}
    found = summary(both[1], {item.name: item for item in both})
    assert found["rate"] == {"median": 125, "min": 100, "max": 150, "rounds": [100, 150]}
    assert found["of_http_ceiling"]["median"] == 0.5
    assert found["times_ms"]["create"]["p95"]["median"] == 3.0


async def test_every_page_is_opened_and_none_of_them_is_forgotten() -> None:
    values: dict[str, object] = {name: name for name in re.findall(r"\{(\w+)\}", str(FURTHER.values()))}
    paths = await page_routes()
    assert {"/ops", "/ops/jobs/{id}", "/admin/audit"} <= set(paths)
    opened = [address for path in paths for address in addresses(path, values).values()]
    assert len(opened) == len(set(opened)) > len(paths)
    assert not [address for address in opened if "{" in address]
    assert set(FURTHER) <= set(paths), "no page is opened that is gone"
    with pytest.raises(KeyError, match="/ops/new"):
        addresses("/ops/new/{id}", values)
