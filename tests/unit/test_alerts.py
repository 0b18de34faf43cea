"""Alert rules and dashboard: they parse, they ask for what there is, and each alert has its paragraph."""

from __future__ import annotations

import re

import promql_parser
import pytest

from models.metrics import METRICS
from tests.support.promql import ROOT, Expression, alerts, expressions, panels

OPERATE = ROOT / "docs" / "operate.md"


@pytest.mark.parametrize("expression", expressions(), ids=lambda each: each.place)
def test_an_expression_asks_for_metrics_and_labels_that_are_defined(expression: Expression) -> None:
    labels: set[str] = set()
    for name, used in expression.uses().items():
        metric = METRICS[re.sub(r"_(bucket|count|sum)$", "", name) if name not in METRICS else name]
        assert used <= set(metric.labels), f"{name} has the labels {metric.labels}"
        labels |= set(metric.labels)
    assert expression.named_labels() <= labels


@pytest.mark.parametrize("expression", expressions(), ids=lambda each: each.place)
def test_what_goes_up_only_is_asked_for_by_its_rate(expression: Expression) -> None:
    for name in expression.uses():
        if METRICS.get(name) is None or name.endswith("_total"):
            assert re.search(rf"(rate|increase)\({name}\b", expression.text), name


def test_an_expression_that_is_none_is_noticed() -> None:
    with pytest.raises(ValueError, match=r"."):
        Expression("here", "sum by (queue (x)", "").uses()


def test_labels_are_found_wherever_they_stand() -> None:
    text = 'sum by (a) (rate(x_total{b="1"}[5m])) > on (c) max by (d, le) (y)'
    with pytest.raises(ValueError, match=r"."):
        Expression("", "x > on (a", "").uses()
    assert Expression("", text, "").uses() == {"x_total": {"a", "b", "c"}, "y": {"c", "d"}}
    assert Expression("", "x", "{{ $labels.queue }} of {{kind}} is {{ $value | humanize }}").named_labels() == {
        "queue",
        "kind",
    }


def test_the_dashboard_has_the_rows_that_people_look_for() -> None:
    rows = [panel["title"] for panel in panels() if panel["type"] == "row"]
    assert rows == ["Users feel", "Queues", "Workers", "SCIM", "Email", "Audit", "Database"]
    places = [panel["gridPos"] for panel in panels()]
    cells = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    assert len(cells) == len(set(cells)), "panels lie over each other"
    assert max(x for x, _ in cells) < 24
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_every_metric_is_watched() -> None:
    """What nobody looks at need not be counted."""
    watched = {re.sub(r"_(bucket|count|sum)$", "", name) for each in expressions() for name in each.uses()}
    asked_for = {"usher_tenant_queue_oldest_age_seconds"}  # off by default
    by_hand = {"usher_process_open_fds", "usher_process_start_time_seconds"}  # read when something is odd
    assert set(METRICS) - watched == asked_for | by_hand


def _runbook() -> dict[str, str]:
    """Return the paragraphs below "Alerts", by their headings."""
    text = OPERATE.read_text(encoding="utf-8")
    part = re.split(r"^## ", text.partition("\n## Alerts\n")[2], flags=re.MULTILINE)[0]
    pieces = re.split(r"^### (.+)$", part, flags=re.MULTILINE)
    return dict(zip(pieces[1::2], pieces[2::2], strict=True))


def test_every_alert_has_its_paragraph_and_every_paragraph_its_alert() -> None:
    assert list(_runbook()) == [rule["alert"] for rule in alerts()]
    for rule in alerts():
        assert rule["annotations"]["runbook_url"] == f"docs/operate.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        assert promql_parser.parse_duration(rule.get("for", "1m"))


@pytest.mark.parametrize(("alert", "text"), _runbook().items(), ids=lambda each: each[:30])
def test_a_paragraph_says_what_it_means_what_to_look_at_and_what_to_do(alert: str, text: str) -> None:
    assert re.findall(r"\*\*(\w+):\*\*", text) == ["Means", "Look", "Do"], alert
