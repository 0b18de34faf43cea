"""The numbers of docs/performance.md: ``python -m tests.bench --document`` measures them and writes them there."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
SECTIONS = ("create", "applied", "match", "patch", "processes")
"""What is measured for the page."""

RATIOS = {"of_http_ceiling": "bare aiohttp", "of_beside": "one process"}
"""Of what each kind of ratio is."""


class Aim(NamedTuple):
    """What is to be reached, as a ratio of two rates of one run."""

    what: str
    workload: str
    ratio: str
    least: float


AIMS = (
    Aim("create, accepted and durable, 64 connections", "create @64", "of_http_ceiling", 0.6),
    Aim("create, applied, audited and invited, 64 connections", "accept to applied @64", "of_http_ceiling", 0.35),
    Aim("match by userName, 64 connections", "match among 1000 @64", "of_http_ceiling", 0.6),
    Aim("PATCH of one attribute, 64 connections", "patch @64", "of_http_ceiling", 0.35),
    Aim("create with two API processes, 64 connections", "create @64, 2 processes", "of_beside", 1.6),
)


def blocks(found: dict[str, Any]) -> dict[str, str]:
    """Return the generated parts of the page by their names.

    Args:
        found: what a run of the benchmark found, as it stands in ``bench.json``.
    """
    results = {(result["section"], result["name"]): result for result in found["results"]}
    by_name = {name: result for (_, name), result in results.items()}
    aimed = [(aim, by_name.get(aim.workload)) for aim in AIMS]
    return {"machine": _machine(found), "ratios": _ratios(aimed), "work": _work(results, aimed)}


def _machine(found: dict[str, Any]) -> str:
    if not found["results"]:
        return "Not measured yet."
    machine = found["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in machine["versions"].items())
    rounds = max(len(result["rate"]["rounds"]) for result in found["results"] if "rate" in result)
    return (
        f"{machine['processors']} processors, {machine['system']}; Python {machine['python']}, {versions}."
        f" The load average before the run was {machine['load_average_before']}; rounds of each: {rounds}."
    )


def _ratios(aimed: Iterable[tuple[Aim, dict[str, Any] | None]]) -> str:
    lines = ["| what | of | aim | measured | least to most | a second |", "| --- | --- | --- | --- | --- | --- |"]
    for aim, result in aimed:
        if result is None:
            lines.append(f"| {aim.what} | {RATIOS[aim.ratio]} | ≥ {aim.least:g} | not measured | | |")
            continue
        seen = result[aim.ratio]
        lines.append(
            f"| {aim.what} | {RATIOS[aim.ratio]} | ≥ {aim.least:g} | **{seen['median']:.2f}**"
            f" | {seen['min']:.2f} to {seen['max']:.2f} | {result['rate']['median']:,.0f} |"
        )
    return "\n".join(lines)


def _work(results: dict[tuple[str, str], dict[str, Any]], aimed: Iterable[tuple[Aim, dict[str, Any] | None]]) -> str:
    """Return the processor time of one of each, and how busy that keeps whom at the rate that was measured."""
    roles = ("api", "worker", "postgres", "redis")
    lines = [
        "| what | " + " | ".join(f"{role} µs" for role in roles) + " | bare aiohttp µs | "
        "API, of a processor | all servers, of the machine's processors |",
        "| --- " * (len(roles) + 4) + "|",
    ]
    for aim, result in aimed:
        if result is None:
            lines.append(f"| {aim.what} | not measured {'| ' * (len(roles) + 3)}|")
            continue
        used = {role: result["cpu_us"][role]["median"] for role in roles}
        bare = results.get((result["section"], "bare aiohttp @64"))
        ceiling = f"{sum(role['median'] for role in bare['cpu_us'].values()):.0f}" if bare else ""
        rate = result["rate"]["median"]
        cells = [f"{used[role]:.0f}" if used[role] >= 0.5 else "" for role in roles]
        lines.append(
            f"| {aim.what} | {' | '.join(cells)} | {ceiling}"
            f" | {rate * used['api'] / 1e6:.0%} | {rate * sum(used.values()) / 1e6:.2f} |"
        )
    return "\n".join(lines)


def with_blocks(text: str, made: dict[str, str]) -> str:
    """Return the page with its generated parts renewed.

    Raises:
        ValueError: the page has no place for one of them.
    """
    for name, content in made.items():
        place = _place(name)
        if not place.search(text):
            raise ValueError(f"The page has no markers for {name}.")
        text = place.sub(partial(_filled, content), text)
    return text


def _filled(content: str, found: re.Match[str]) -> str:
    return f"{found[1]}\n{content}\n{found[3]}"


def without_blocks(text: str) -> str:
    """Return what people wrote of the page."""
    return re.sub(r"<!-- (\w+): measured -->.*?<!-- end of \1 -->", "", text, flags=re.DOTALL)


def write_page(found: dict[str, Any]) -> None:
    """Write what a run found into the page."""
    PAGE.write_text(with_blocks(PAGE.read_text(encoding="utf-8"), blocks(found)), encoding="utf-8")


def _place(name: str) -> re.Pattern[str]:
    return re.compile(rf"(<!-- {name}: measured -->)(.*?)(<!-- end of {name} -->)", re.DOTALL)
