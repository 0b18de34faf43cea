from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

VENDOR = Path(__file__).parent / "vendor"
ROWS = re.findall(
    r"^\| `([^`]+)` \|.*\| `([0-9a-f]{64})` \|", (VENDOR / "VENDORED.md").read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.mark.parametrize(("name", "digest"), ROWS, ids=lambda value: value[:30])
def test_a_vendored_file_is_the_one_that_was_published(name: str, digest: str) -> None:
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest


def test_every_vendored_file_is_listed() -> None:
    assert sorted(name for name, _ in ROWS) == sorted(file.name for file in VENDOR.iterdir() if file.suffix != ".md")
