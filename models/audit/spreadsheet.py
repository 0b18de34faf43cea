"""Audit events as rows of a CSV file, which a spreadsheet shows and never calculates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

HEADS: Final = (
    *("occurred_at", "id", "tenant_id", "action", "phase", "outcome", "reason", "severity"),
    *("actor_type", "actor_id", "actor_label", "target_type", "target_id", "target_label", "target_external_id"),
    *("correlation_id", "job_id", "changed", "targets", "diff", "context"),
)
_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def guard(text: str) -> str:
    """Return text that no spreadsheet takes for a formula: an apostrophe goes before what could begin one."""
    return f"'{text}" if text.startswith(_FORMULA) else text


def row(event: Mapping[str, Any]) -> list[str]:
    """Return an event's cells in the order of `HEADS`; the first target stands in columns of its own."""
    first = event["targets"][0] if event["targets"] else {}
    values: dict[str, Any] = {
        **event,
        "target_type": first.get("type"),
        "target_id": first.get("id"),
        "target_label": first.get("label"),
        "target_external_id": first.get("external_id"),
        "changed": "\n".join(event["changed"] or ()),
    }
    return [_cell(values[head]) for head in HEADS]


def _cell(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, dict | list):
        return guard(orjson.dumps(value).decode())
    if hasattr(value, "isoformat"):
        return str(value.isoformat())
    return guard(str(value))
