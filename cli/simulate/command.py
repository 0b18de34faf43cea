from __future__ import annotations

import secrets
import time
from typing import TYPE_CHECKING, Annotated

import orjson
import typer
import uvloop
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from cli.simulate import tenant
from cli.simulate.body import Dialect  # noqa: TC001 - typer reads the annotations at run time
from cli.simulate.report import Report
from cli.simulate.wire import Wire

if TYPE_CHECKING:
    from collections.abc import Callable

    from cli.simulate.job import OnPhase


def simulate(
    *,
    url: Annotated[str, typer.Option(help="Tenant URL: the SCIM base, as it is pasted into Entra.")],
    token: Annotated[str, typer.Option(help="Secret Token that belongs to it.")],
    users: Annotated[int, typer.Option(min=0, help="How many users to provision.")] = 100,
    groups: Annotated[
        int,
        typer.Option(
            min=0,
            help="How many groups to push. With any, the whole life of a tenant is played: changes, disables, renames,"
            " deletes, memberships, on-demand runs, a restart; then everything is read and compared.",
        ),
    ] = 0,
    dialect: Annotated[
        Dialect, typer.Option(help="Entra's default dialect, the one behind aadOptscim062020, or both in turn.")
    ] = "mixed",
    concurrency: Annotated[int, typer.Option(min=1, max=1000, help="Users in work at once, and connections.")] = 8,
    seed: Annotated[
        int | None,
        typer.Option(
            help="Same seed, same users: without groups a second run plays Entra's restart. Default: a new one."
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON, with every deviation.")] = False,
) -> None:
    """Play Microsoft Entra against a SCIM server and report every answer that Entra would stumble over.

    Exit status: 0 when nothing deviates, 1 on any deviation, 2 when the URL or the token is of no use.
    """
    seed = secrets.randbelow(2**32) if seed is None else seed
    report = Report(url=url, seed=seed, dialect=dialect, users=users, groups=groups, concurrency=concurrency)
    errors = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=errors,
        disable=as_json or not errors.is_terminal,
        transient=True,
    )
    started = time.perf_counter()
    wire = Wire(url, token, concurrency, report)

    def on_phase(name: str, total: int) -> Callable[[], None]:
        task = bar.add_task(name, total=total)
        return lambda: bar.advance(task)

    with bar:
        uvloop.run(_run(wire, report, dialect, on_phase))
    report.seconds = time.perf_counter() - started
    if as_json:
        print(orjson.dumps(report.as_json(), option=orjson.OPT_INDENT_2).decode())
    else:
        report.show(Console())
    if report.deviations:
        raise typer.Exit(1)


async def _run(wire: Wire, report: Report, dialect: Dialect, on_phase: OnPhase) -> None:
    async with wire:
        await tenant.run(wire, report, dialect, on_phase)
