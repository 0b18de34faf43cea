"""The tables in docs/ that are made from code: `python -m tests.support.doc_tables` writes them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import SecretStr

from models.audit.actions import ACTIONS
from models.jobs import KINDS
from models.metrics import METRICS
from models.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pydantic.fields import FieldInfo

DOCS = Path(__file__).parents[2] / "docs"
SEVERITIES = {1: "informational", 2: "low", 3: "medium", 4: "high", 5: "critical"}


def _table(heads: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    lines = [list(heads), *(list(row) for row in rows)]
    text = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([text[0], "| " + " | ".join("---" for _ in lines[0]) + " |", *text[1:]])


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "**must be set**"
    value = field.default
    return f"`{value.get_secret_value() if isinstance(value, SecretStr) else value}`"


def _allowed(field: FieldInfo) -> str:
    if get_origin(field.annotation) is Literal:
        return ", ".join(f"`{choice}`" for choice in get_args(field.annotation))
    words = []
    for rule in field.metadata:
        match rule:
            case Ge(ge=limit):
                words.append(f"≥ {limit}")
            case Gt(gt=limit):
                words.append(f"> {limit}")
            case Le(le=limit):
                words.append(f"≤ {limit}")
            case Lt(lt=limit):
                words.append(f"< {limit}")
    return ", ".join(words)


def settings_table() -> str:
    """Return every setting as a row: variable, default, allowed values, meaning."""
    return _table(
        ("variable", "default", "allowed", "meaning"),
        (
            (f"`USHER_{name.upper()}`", _default(field), _allowed(field), field.description or "")
            for name, field in Settings.model_fields.items()
        ),
    )


def actions_table() -> str:
    """Return every audited action as a row: name, meaning, severity."""
    return _table(
        ("action", "meaning", "severity"),
        (
            (f"`{action.name}`", action.meaning, f"{action.severity} {SEVERITIES[action.severity]}")
            for action in sorted(ACTIONS.values(), key=lambda action: action.name)
        ),
    )


def kinds_table() -> str:
    """Return every kind of job as a row: name, queue, attempts, delays."""
    return _table(
        ("kind", "queue", "attempts", "first delay", "longest delay"),
        (
            (
                f"`{kind.name}`",
                f"`{kind.queue}`",
                str(kind.max_attempts),
                f"{kind.first_delay_seconds:g} s",
                f"{kind.longest_delay_seconds:g} s",
            )
            for kind in KINDS.values()
        ),
    )


def metrics_table() -> str:
    """Return every metric as a row: name, kind, labels, meaning."""
    return _table(
        ("metric", "kind", "labels", "meaning"),
        (
            (
                f"`{metric.name}`",
                "counter" if metric.name.endswith("_total") else metric.kind,
                ", ".join(f"`{label}`" for label in metric.labels),
                metric.help,
            )
            for metric in METRICS.values()
        ),
    )


TABLES: dict[str, tuple[Path, Callable[[], str]]] = {
    "settings": (DOCS / "settings.md", settings_table),
    "actions": (DOCS / "audit.md", actions_table),
    "kinds": (DOCS / "architecture.md", kinds_table),
    "metrics": (DOCS / "operate.md", metrics_table),
}
"""By the name in the page's markers: `<!-- NAME: made from code -->` and `<!-- end of NAME -->`."""


def with_table(name: str) -> str:
    """Return the text of a page with its table as the code has it now.

    Raises:
        ValueError: the page lacks the markers.
    """
    path, make = TABLES[name]
    begin, end = f"<!-- {name}: made from code -->", f"<!-- end of {name} -->"
    text = path.read_text(encoding="utf-8")
    made, count = re.subn(
        f"{re.escape(begin)}.*?{re.escape(end)}", lambda _: f"{begin}\n{make()}\n{end}", text, flags=re.DOTALL
    )
    if count != 1:
        raise ValueError(f"{path.name} needs the lines {begin} and {end} once each")
    return made


def main() -> None:
    """Write every table into its page."""
    for name, (path, _) in TABLES.items():
        path.write_text(with_table(name), encoding="utf-8")


if __name__ == "__main__":
    main()
