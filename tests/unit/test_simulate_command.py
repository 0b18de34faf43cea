from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

import pytest
import typer
from aiohttp.test_utils import TestServer
from rich.console import Console
from typer.testing import CliRunner, Result

from cli.simulate.command import simulate
from cli.simulate.findings import Finding
from cli.simulate.report import Report, percentile
from models.errors import UsageError
from tests.support.scim_double import TOKEN, Alter, Reply, ScimDouble

if TYPE_CHECKING:
    from aiohttp import web

app = typer.Typer()
app.command()(simulate)


async def run(*arguments: str, alter: Alter | None = None) -> Result:
    async with TestServer(ScimDouble(alter=alter).app, host="127.0.0.1") as server:
        url = str(server.make_url("/scim/v2"))
        every = ["--url", url, "--token", TOKEN, "--users", "12", "--seed", "3", *arguments]
        return await asyncio.to_thread(CliRunner().invoke, app, every, env={"COLUMNS": "200"})


def forgets_the_tag(_: web.Request, reply: Reply) -> None:
    reply.headers.pop("ETag", None)


async def test_no_deviation_is_exit_status_0_and_says_what_to_expect() -> None:
    result = await run()
    assert result.exit_code == 0, result.output
    assert "No deviation." in result.stdout
    assert "12 users created: 11 of them active, 10 active with an e-mail address" in result.stdout
    assert "seed 3" in result.stdout
    assert result.stderr == ""


async def test_the_json_report_has_the_numbers() -> None:
    result = await run("--json", "--dialect", "legacy", "--concurrency", "2")
    report = json.loads(result.stdout)
    assert result.exit_code == 0
    assert result.stderr == ""
    wanted = {"seed": 3, "users": 12, "created": 12, "found": 0, "invitable": 10, "dialect": "legacy", "retries": 0}
    assert report | wanted == report
    assert report["deviations"] == []
    assert sum(report["shapes"].values()) == 12
    create = report["requests"]["create"]
    assert create["count"] == 12
    assert 0 < create["p50_ms"] <= create["p95_ms"] <= create["p99_ms"] <= create["max_ms"]


async def test_with_groups_the_whole_life_of_a_tenant_is_played() -> None:
    result = await run("--groups", "3", "--users", "20")
    assert result.exit_code == 0, result.output
    assert "No deviation." in result.stdout
    assert "groups created 3" in result.stdout
    assert "restart: update" in result.stdout
    report = json.loads((await run("--groups", "1", "--json")).stdout)
    assert (report["groups"], report["happened"]["groups created"], report["deviations"]) == (1, 1, [])
    assert report["requests"]["group: create"]["count"] == 1


async def test_a_deviation_is_exit_status_1_and_printed() -> None:
    result = await run(alter=forgets_the_tag)
    assert result.exit_code == 1
    assert "24 deviations:" in result.stdout
    assert 'expected ETag (as meta.version) = W/"1"' in result.stdout


async def test_json_lists_every_deviation() -> None:
    result = await run("--json", "--users", "60", alter=forgets_the_tag)
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)["deviations"]) == 120


async def test_at_most_fifty_deviations_are_printed() -> None:
    result = await run("--users", "60", alter=forgets_the_tag)
    assert result.stdout.count("expected ETag") == 50
    assert "and 70 more; --json lists all." in result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--dialect", "klingon"], "klingon"),
        (["--users", "-1"], "--users"),
        (["--concurrency", "0"], "--concurrency"),
        (["--groups", "-1"], "--groups"),
    ],
)
async def test_a_wrong_use_is_exit_status_2_and_says_why(arguments: list[str], says: str) -> None:
    result = await run(*arguments)
    assert result.exit_code == 2
    assert says in result.stderr
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--url", "http://127.0.0.1:9/scim/v2"], "cannot be reached"),
        (["--url", "nonsense"], "--url must be"),
        (["--token", "wrong"], "token is refused"),
    ],
)
async def test_an_address_or_a_token_of_no_use_is_a_usage_error(arguments: list[str], says: str) -> None:
    result = await run(*arguments)
    assert isinstance(result.exception, UsageError)
    assert says in result.exception.detail
    assert result.stdout == ""


def test_a_percentile_is_the_nearest_rank() -> None:
    values = [float(number) for number in range(1, 101)]
    assert [percentile(values, share) for share in (0.5, 0.95, 0.99, 1.0)] == [50.0, 95.0, 99.0, 100.0]
    assert percentile([7.0], 0.5) == 7.0


def test_what_came_is_printed_as_it_came_and_not_read_as_markup() -> None:
    report = Report(url="u", seed=1, dialect="mixed", users=1, concurrency=1)
    report.deviates('GET /Users?filter=emails[type+eq+"work"]', [Finding("[bold]x", "[/bold]")])
    console = Console(record=True, width=200, file=None, quiet=False)
    with console.capture() as capture:
        report.show(console)
    assert 'emails[type+eq+"work"]' in capture.get()
    assert "expected [bold]x" in capture.get()
