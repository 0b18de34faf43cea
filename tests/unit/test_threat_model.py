"""docs/threat-model.md points at code that is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "threat-model.md"


def rows() -> list[list[str]]:
    """Return the table's rows: asset, threat, mitigation, pointer."""
    lines = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    found = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert found[0] == ["asset", "threat", "mitigation", "where"]
    return found[2:]


def test_every_row_says_everything() -> None:
    assert len(rows()) > 20
    assert [row for row in rows() if len(row) != 4 or not all(row)] == []


@pytest.mark.parametrize("row", rows(), ids=lambda row: f"{row[0]}: {row[1]}"[:70])
def test_a_pointer_leads_somewhere(row: list[str]) -> None:
    pointed = re.fullmatch(r"`([\w/.]+)`(?: `(\w+)`)?", row[3])
    assert pointed, row[3]
    path, name = pointed[1], pointed[2]
    file = ROOT / path
    assert file.is_file(), path
    if name is not None:
        text = file.read_text(encoding="utf-8")
        assert re.search(rf"^\s*(?:async def|def|class) {name}\b", text, re.MULTILINE), f"{path} has no {name}"
