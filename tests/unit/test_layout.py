"""The rooms of the house: who may import whom, and registries that miss nobody (DESIGN.md, "The shape")."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from models.audit.actions import ACTIONS
from models.jobs import KINDS
from worker.handlers import HANDLERS

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
ROOMS = ("api", "cli", "models", "worker")
CEILING = 400  # lines of a module; 600 when its docstring says why
HIGH_CEILING = 600


@dataclass(frozen=True)
class Module:
    """A module of the product, read."""

    path: str
    text: str
    tree: ast.Module

    @property
    def room(self) -> str:
        return self.path.split("/", 1)[0]

    def imports(self) -> Iterator[tuple[str, int]]:
        """Give every imported module's full name with its line, also of imports inside functions."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from ((alias.name, node.lineno) for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{self.path}:{node.lineno} imports relatively"
                yield node.module or "", node.lineno
                yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)

    def literals(self) -> Iterator[tuple[str, int]]:
        """Give every string that is written out, with its line."""
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value, node.lineno


@cache
def modules() -> tuple[Module, ...]:
    found = []
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            text = file.read_text(encoding="utf-8")
            found.append(Module(file.relative_to(ROOT).as_posix(), text, ast.parse(text)))
    assert len(found) > 50, "the modules were not found"
    return tuple(found)


def importers(*names: str, rooms: tuple[str, ...] = ROOMS) -> list[str]:
    """Return `path:line name` of every import in these rooms of one of these packages or what is in them."""
    return [
        f"{module.path}:{line} {name}"
        for module in modules()
        if module.room in rooms
        for name, line in module.imports()
        if name.split(".", 1)[0] in names
    ]


def test_models_know_neither_http_nor_arq_nor_the_other_rooms() -> None:
    assert importers("api", "worker", "cli", "aiohttp", "arq", "typer", "rich", rooms=("models",)) == []


def test_api_imports_models_only() -> None:
    assert importers("worker", "cli", "tests", rooms=("api",)) == []


def test_worker_imports_models_only() -> None:
    assert importers("api", "cli", "tests", rooms=("worker",)) == []


def test_the_worker_speaks_http_only_to_the_destinations_of_streams() -> None:
    found = importers("aiohttp", "aiobotocore", rooms=("worker",))
    assert [one for one in found if not one.startswith("worker/destinations/")] == []


def test_no_room_imports_tests() -> None:
    assert importers("tests") == []


def test_arq_is_touched_in_one_module_of_the_api_and_one_of_the_worker() -> None:
    assert {found.split(":")[0] for found in importers("arq")} == {"api/ring.py", "worker/settings.py"}


@pytest.mark.parametrize("serializer", ["pickle", "cPickle", "dill", "cloudpickle", "marshal", "shelve"])
def test_nothing_is_pickled(serializer: str) -> None:
    assert importers(serializer) == []


def test_scim_and_errors_are_pure() -> None:
    """`models/scim` does no I/O: it imports no driver, no socket and nothing of ours but itself and the errors."""
    drivers = ("asyncpg", "redis", "sqlalchemy", "sqlmodel", "socket", "asyncio", "os", "pathlib", "structlog")
    assert [found for found in importers(*drivers, rooms=("models",)) if found.startswith("models/scim/")] == []
    ours = [found for found in importers("models", rooms=("models",)) if found.startswith("models/scim/")]
    assert [found for found in ours if not re.search(r" models\.(scim|errors)\b| models$", found)] == []


def test_every_module_postpones_its_annotations() -> None:
    definitions = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.AnnAssign)
    eager = [
        module.path
        for module in modules()
        if any(isinstance(node, definitions) for node in ast.walk(module.tree))
        and not any(name == "__future__.annotations" for name, _ in module.imports())
    ]
    assert eager == []


def test_no_module_is_longer_than_a_person_reads_at_once() -> None:
    too_long = []
    for module in modules():
        lines = len(module.text.splitlines())
        reason = "lines because" in (ast.get_docstring(module.tree) or "")
        if lines > (HIGH_CEILING if reason else CEILING):
            too_long.append(f"{module.path}: {lines} lines")
    assert too_long == [], f"over {CEILING} lines; write '… lines because …' into the docstring, or divide it"


def test_every_kind_of_job_has_a_handler() -> None:
    assert set(KINDS) == set(HANDLERS)
    assert all(handler.kind == kind for kind, handler in HANDLERS.items())


def test_every_handler_file_is_registered() -> None:
    files = {file.stem for file in (ROOT / "worker" / "handlers").glob("*.py")} - {"__init__"}
    registered = {handler.run.__module__.rsplit(".", 1)[-1] for handler in HANDLERS.values()}
    assert files == registered


def _action_literals() -> dict[str, str]:
    """Return every literal that looks like an audited action, with one place where it stands."""
    areas = {name.split(".", 1)[0] for name in ACTIONS}
    shape = re.compile(rf"({'|'.join(sorted(areas))})(\.[a-z_]+){{2,3}}")
    return {
        text: f"{module.path}:{line}"
        for module in modules()
        if module.path != "models/audit/actions.py"
        for text, line in module.literals()
        if shape.fullmatch(text)
    }


def test_every_recorded_action_is_registered() -> None:
    assert {name: place for name, place in _action_literals().items() if name not in ACTIONS} == {}


def test_every_registered_action_is_recorded_somewhere() -> None:
    assert sorted(set(ACTIONS) - set(_action_literals())) == []


def test_every_event_names_its_action_in_full() -> None:
    """An action put together from pieces would escape the two tests above."""
    pieced = [
        f"{module.path}:{keyword.value.lineno}"
        for module in modules()
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Event"
        for keyword in node.keywords
        if keyword.arg == "action" and isinstance(keyword.value, ast.JoinedStr | ast.BinOp)
    ]
    assert pieced == []
