"""docs/performance.md shows what the benchmark measured, and no number that it did not."""

from __future__ import annotations

import re
from typing import Any

import pytest

from tests.bench.__main__ import SECTIONS
from tests.bench.performance import AIMS, PAGE, blocks, with_blocks, without_blocks
from tests.bench.performance import SECTIONS as DOCUMENTED


def result(section: str, name: str, rate: float, **further: object) -> dict[str, Any]:
    cpu = {role: {"median": 10.0} for role in ("api", "worker", "postgres", "redis")}
    spread = {"median": rate, "min": rate, "max": rate, "rounds": [rate] * 3}
    return {"section": section, "name": name, "rate": spread, "cpu_us": cpu, **further}


def run() -> dict[str, Any]:
    machine = {
        "processors": 2,
        "system": "Linux",
        "python": "3.11.0",
        "versions": {"aiohttp": "3.14.0"},
        "load_average_before": 0.1,
    }
    bare = [result(section, "bare aiohttp @64", 20_000) for section in ("create", "match")]
    for each in bare:
        each["cpu_us"] = {"server": {"median": 45.0}}
    ratio = {"median": 0.5, "min": 0.375, "max": 0.625}
    creates = result("create", "create @64", 10_000, of_http_ceiling=ratio)
    processes = result("processes", "create @64, 2 processes", 12_000, of_beside={"median": 1.2, "min": 1, "max": 1.5})
    return {"machine": machine, "results": [*bare, creates, processes]}


def test_the_page_says_what_a_run_found() -> None:
    text = with_blocks(PAGE.read_text(encoding="utf-8"), blocks(run()))
    assert "| bare aiohttp | ≥ 0.6 | **0.50** | 0.38 to 0.62 | 10,000 |" in text
    assert "| one process | ≥ 1.6 | **1.20** | 1.00 to 1.50 | 12,000 |" in text
    assert "| 10 | 10 | 10 | 10 | 45 | 10% | 0.40 |" in text
    assert "| 10 | 10 | 10 | 10 |  | 12% | 0.48 |" in text
    assert "The load average before the run was 0.1; rounds of each: 3." in text
    assert "| match by userName, 64 connections | bare aiohttp | ≥ 0.6 | not measured | | |" in text
    assert with_blocks(text, blocks(run())) == text


def test_a_page_without_a_place_for_a_table_is_not_written() -> None:
    with pytest.raises(ValueError, match="machine"):
        with_blocks("# Performance", blocks(run()))


def test_every_number_of_the_page_is_measured_and_every_aim_is_in_it() -> None:
    text = PAGE.read_text(encoding="utf-8")
    assert re.findall(r"^## (.*)$", text, re.MULTILINE) == [
        "Method",
        "Ratios",
        "Where the time goes",
        "What bounds each",
        "What others do",
    ]
    assert re.findall(r"<!-- (\w+): measured -->\n.+?\n<!-- end of \1 -->", text, re.DOTALL) == [*blocks(run())]
    assert re.findall(r"[^\n]*\d[^\n]*", without_blocks(text)) == []
    for aim in AIMS:
        assert text.count(f"| {aim.what} |") == 2


def test_the_page_is_made_from_sections_of_the_benchmark() -> None:
    assert set(DOCUMENTED) <= set(SECTIONS)
