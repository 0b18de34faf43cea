"""The expressions of the alert rules and of the dashboard, taken apart."""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import promql_parser
import yaml

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
DASHBOARD = ROOT / "deploy" / "grafana" / "usher.json"


@dataclass(frozen=True)
class Expression:
    """A PromQL expression and what is written around it."""

    place: str
    text: str
    said: str
    """Texts that may name labels of its result."""

    def uses(self) -> dict[str, set[str]]:
        """Return the metrics that it names, each with the labels that it is asked for; `le` left out.

        Raises:
            ValueError: it is no PromQL.
        """
        found: dict[str, set[str]] = defaultdict(set)
        _walk(promql_parser.parse(self.text.replace("$__rate_interval", "5m")), frozenset(), found)
        return dict(found)

    def named_labels(self) -> set[str]:
        """Return the labels of the result that texts name."""
        return set(re.findall(r"\{\{\s*(?:\$labels\.)?(\w+)\s*\}\}", self.said))


def _walk(node: Any, labels: frozenset[str], found: dict[str, set[str]]) -> None:
    if isinstance(node, promql_parser.VectorSelector):
        asked = labels | {matcher.name for matcher in node.matchers.matchers}
        found[node.name or ""] |= asked - {"le"}
        return
    modifier = getattr(node, "modifier", None)
    if isinstance(node, promql_parser.AggregateExpr) and modifier is not None:
        labels |= set(modifier.labels)
    elif isinstance(node, promql_parser.BinaryExpr) and modifier is not None and modifier.matching is not None:
        labels |= set(modifier.matching.labels)
    for name in ("lhs", "rhs", "expr", "vector_selector", "args"):
        below = getattr(node, name, None)
        for part in below if isinstance(below, list) else [below] if below is not None else []:
            _walk(part, labels, found)


def alerts() -> list[dict[str, Any]]:
    """Return the alert rules."""
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard, rows among them."""
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def expressions() -> list[Expression]:
    """Return every expression of both."""
    ours = [Expression(rule["alert"], rule["expr"], rule["annotations"]["summary"]) for rule in alerts()]
    return ours + [
        Expression(f"panel {panel['title']}", target["expr"], target["legendFormat"])
        for panel in panels()
        for target in panel.get("targets", ())
    ]
