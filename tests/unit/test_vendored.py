from __future__ import annotations

import hashlib
import re

import pytest

from api.pages.static import FOLDER

VENDOR = FOLDER / "vendor"
ROWS = re.findall(
    r"^\| `([^`]+)` \| (\S+) \| (\S+) \| ([^|]+) \| `([0-9a-f]{64})` \| ([^|]+) \|$",
    (VENDOR / "VENDORED.md").read_text(encoding="utf-8"),
    re.MULTILINE,
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_a_vendored_file_is_the_one_that_was_published(row: tuple[str, ...]) -> None:
    assert hashlib.sha256((VENDOR / row[0]).read_bytes()).hexdigest() == row[4]


def test_every_vendored_file_is_listed() -> None:
    assert sorted(row[0] for row in ROWS) == sorted(file.name for file in VENDOR.iterdir() if file.suffix != ".md")


def test_our_own_files_stay_small() -> None:
    assert (FOLDER / "style.css").stat().st_size < 20_000
    assert (FOLDER / "live.js").stat().st_size < 6_000


def test_nothing_is_fetched_from_elsewhere_and_nothing_is_inline() -> None:
    templates = [*(FOLDER.parent / "templates").rglob("*.html")]
    assert len(templates) > 8
    for file in templates:
        if file.name == "invitation.html":  # of the public listener, with a policy of its own
            continue
        text = file.read_text(encoding="utf-8")
        assert not re.search(r"<script(?![^>]* src=)|<style| style=| on[a-z]+=\"|javascript:", text), file
        assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text), file
