"""docs/promises.md and the experiments in tests/faults, held together."""

from __future__ import annotations

import re
from pathlib import Path

from tests.support import promises

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "promises.md"
FAULTS = ROOT / "tests" / "faults"
_MARK = re.compile(r'^(?:@|pytestmark = )pytest\.mark\.promise\("(P\d+)"(?:, quick=(?:True|False))?\)$', re.MULTILINE)


def paragraphs() -> dict[str, str]:
    """Return the page's sections by promise."""
    parts = re.split(r"^## (P\d+) .+$", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def experiments() -> dict[str, set[str]]:
    """Return, by promise, the files with tests that bear its mark."""
    found: dict[str, set[str]] = {}
    for file in FAULTS.glob("test_*.py"):
        for promise in _MARK.findall(file.read_text(encoding="utf-8")):
            found.setdefault(promise, set()).add(file.name)
    return found


def test_every_promise_on_the_page_links_to_its_experiments_and_no_other() -> None:
    linked = {
        promise: set(re.findall(r"\(\.\./tests/faults/(\w+\.py)\)", text)) for promise, text in paragraphs().items()
    }
    assert linked == experiments()


def test_the_promises_stand_in_their_order_and_each_says_something() -> None:
    told = paragraphs()
    assert list(told) == sorted(told, key=promises.number)
    assert [promise for promise, text in told.items() if len(text.split()) < 30] == []


def test_every_experiment_bears_the_mark_of_a_promise() -> None:
    bare = []
    for file in FAULTS.glob("test_*.py"):
        text = file.read_text(encoding="utf-8")
        tests = re.findall(r"^(?:async )?def (test_\w+)", text, re.MULTILINE)
        whole = re.search(r"^pytestmark = pytest\.mark\.promise", text, re.MULTILINE)  # of all tests of the file
        if not whole and len(_MARK.findall(text)) != len(tests):
            bare.append(file.name)
    assert bare == []
