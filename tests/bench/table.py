"""The result of a benchmark as tables for people."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.table import Table

from tests.bench.performance import AIMS, RATIOS

if TYPE_CHECKING:
    from rich.console import Console

# What is aimed at. Shown, never asserted: the machine decides as much as the code.
_GOALS = (
    *((f"{aim.what}, of {RATIOS[aim.ratio]}", f"at least {aim.least}", (aim.workload, aim.ratio)) for aim in AIMS),
    *(
        (f"audit log, {name}, p95 in ms", "under 100", (name, "times_ms", "search", "p95"))
        for name in (
            "a week at any time, a tenant",
            "one person's history, all",
            "one request, all",
            "failures of users, 30 days, a tenant",
            "a reason, 92 days, a tenant",
        )
    ),
    (
        "create at 64 connections with audit events, of without",
        "at least 0.85",
        ("create @64, recorded", "of_beside"),
    ),
    ("idle to applied, median in ms", "under 150", ("idle to applied", "times_ms", "applied", "p50")),
    ("scrape of /metrics, p95 in ms", "under 50", ("scrape of /metrics", "times_ms", "scrape", "p95")),
    (
        "create at 16 connections with 20 dashboards, of without",
        "at least 0.95",
        ("create @16, 20 dashboards", "of_beside"),
    ),
)

# The same at two sizes, the largest over the smallest: what, goal, kind of request, quantile, and how the names of the
# workloads begin and end, with the size in between.
_SIZE_GOALS = (
    ("match p95 at 1 connection, users", "at most 1.5", "match", "p95", "match among ", " @1"),
    ("match p95 at 16 connections, users", "at most 1.5", "match", "p95", "match among ", " @16"),
    ("title eq p95, users", "at most 1.5", "filter", "p95", "title eq among ", " @1"),
    ("familyName eq p95, users", "at most 1.5", "filter", "p95", "familyName eq among ", " @1"),
    ("department eq p95, users", "at most 1.5", "filter", "p95", "department eq among ", " @1"),
    ("page by cursor, median, number of the page", "at most 2", "page", "p50", "page ", " @1"),
    ("page of the audit log, median, number of the page", "at most 2", "page", "p50", "audit page ", " @1"),
    ("add a member, p95 at 1 connection, members", "at most 1.5", "add", "p95", "group of ", " @1"),
    ("remove a member, p95 at 1 connection, members", "at most 1.5", "remove", "p95", "group of ", " @1"),
    ("add a member, p95 at 16 connections, members", "at most 1.5", "add", "p95", "group of ", " @16"),
    ("remove a member, p95 at 16 connections, members", "at most 1.5", "remove", "p95", "group of ", " @16"),
)

_PROCESSES = ("api µs", "worker µs", "postgres µs", "load µs")


def show(results: list[dict[str, Any]], console: Console) -> None:
    """Print every workload of every section, then the goals; µs are processor time for one of what is counted."""
    for section in dict.fromkeys(result["section"] for result in results):
        table = Table(title=section, title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
        table.add_column("workload @connections", no_wrap=True)
        for name in ("a second", "least to most", "of HTTP", "of commits", "p50 ms", "p95 ms", "p99 ms", *_PROCESSES):
            table.add_column(name, justify="right", no_wrap=True)
        for result in results:
            if result["section"] == section:
                _add(table, result)
        console.print(table)
    _show_goals(results, console)


def _add(table: Table, result: dict[str, Any]) -> None:
    rate = result.get("rate")
    load = result.get("load_generator_us_per_request")
    ratios = [
        f"{result[name]['median']:.2f}" if name in result else "" for name in ("of_http_ceiling", "of_commit_ceiling")
    ]
    row = [
        f"{rate['median']:,.0f}" if rate else "",
        f"{rate['min']:,.0f} to {rate['max']:,.0f}" if rate else "",
        *ratios,
    ]
    kinds = list(result["times_ms"].items())
    own = kinds[0][1] if len(kinds) == 1 else {}
    used = result.get("cpu_us", {}) | ({"load": load} if load else {})
    processes = [used.get(name.removesuffix(" µs"), {}).get("median", 0) for name in _PROCESSES]
    table.add_row(result["name"], *row, *_times(own), *(f"{value:.0f}" if value else "" for value in processes))
    for kind, times in kinds if len(kinds) > 1 else []:
        table.add_row(f"  {kind}", "", "", "", "", *_times(times), *("" for _ in _PROCESSES))


def _times(times: dict[str, Any]) -> list[str]:
    return [f"{times[name]['median']:.2f}" if times else "" for name in ("p50", "p95", "p99")]


def _show_goals(results: list[dict[str, Any]], console: Console) -> None:
    by_name = {result["name"]: result for result in results}
    table = Table(title="goals", title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("what")
    table.add_column("goal")
    table.add_column("measured (least to most)", justify="right")
    for what, goal, (name, *path) in _GOALS:
        if name in by_name:
            found = by_name[name]
            for step in path:
                found = found[step]
            table.add_row(what, goal, f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})")
    for what, goal, kind, quantile, prefix, suffix in _SIZE_GOALS:
        sizes = {
            int(name.removeprefix(prefix).split()[0]): result["times_ms"][kind][quantile]["median"]
            for name, result in by_name.items()
            if name.startswith(prefix) and name.endswith(suffix)
        }
        if len(sizes) > 1:
            least, most = min(sizes), max(sizes)
            table.add_row(f"{what}, {most:,} over {least:,}", goal, f"{sizes[most] / sizes[least]:.2f}")
    opened = [result for result in results if result["section"] == "ops" and result["unit"] == "pages"]
    if opened:
        slowest = max(opened, key=lambda result: float(result["times_ms"]["page"]["p95"]["median"]))
        found = slowest["times_ms"]["page"]["p95"]
        table.add_row(
            f"slowest page ({slowest['name']}), p95 in ms",
            "under 200",
            f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})",
        )
    if table.row_count:
        console.print(table)
