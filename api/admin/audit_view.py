"""How audit events look on pages: clocks of the viewer's zone, states, changes side by side, and ways to go on."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlencode

import orjson

from api.pages.cookies import read_cookie
from models.audit.actions import ACTIONS
from models.audit.grammar import quote
from models.audit.search import OUTCOMES, PHASES, QUALIFIERS, SEVERITIES
from models.audit.zones import UTC_NAME, find_zone, zone_names
from models.errors import InvalidQueryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from zoneinfo import ZoneInfo

    from aiohttp import web

ZONE_COOKIE: Final = "usher-zone"
STATES: Final = {"pending": "pending", "success": "done", "failure": "failed", "denied": "cancelled"}
"""The look of an outcome, as one of the states that the pages' macros know."""
_WORDS: Final = {
    "add": ("+", "added"),
    "remove": ("\N{MINUS SIGN}", "removed"),
    "replace": ("\N{LEFT RIGHT ARROW}", "changed"),
}
_TIMES: Final = ("24h", "7d", "30d", "90d")


def viewer_zone(request: web.Request) -> ZoneInfo:
    """Return the zone that the address names, else the one that the viewer chose, else UTC."""
    name = request.query.get("zone") or read_cookie(request, ZONE_COOKIE) or UTC_NAME
    try:
        return find_zone(name)
    except InvalidQueryError:
        return find_zone(UTC_NAME)


def zones() -> Sequence[str]:
    """Return the names to choose a zone from."""
    return zone_names()


def clock(moment: datetime, zone: ZoneInfo) -> str:
    """Return a moment to the millisecond by the viewer's clock, with the zone's short name."""
    local = moment.astimezone(zone)
    return f"{local:%Y-%m-%d %H:%M:%S}.{local.microsecond // 1000:03d} {local:%Z}"


def audit_link(query: str, **more: str | None) -> str:
    """Return the address of the list for a search."""
    values = {"q": query, **{name: value for name, value in more.items() if value}}
    return "/admin/audit?" + urlencode(values)


def shown(event: dict[str, Any], zone: ZoneInfo) -> dict[str, Any]:
    """Return an event with what a row of it shows."""
    first = event["targets"][0] if event["targets"] else {}
    name = first.get("label") or first.get("id")
    return {
        **event,
        "clock": clock(event["occurred_at"], zone),
        "utc": event["occurred_at"].astimezone(UTC).isoformat(),
        "actor": event["actor_label"] or event["actor_id"],
        "target": name,
        "target_kind": first.get("type"),
        "target_link": audit_link(f"target:{quote(first.get('id') or name)}") if name else None,
        "further": max(len(event["targets"] or ()) - 1, 0),
        "state": STATES.get(event["outcome"], "pending"),
        "meaning": ACTIONS[event["action"]].meaning if event["action"] in ACTIONS else "",
        "severity_name": SEVERITIES[event["severity"] - 1],
    }


def changes(event: dict[str, Any]) -> list[dict[str, Any]]:
    """Return an event's diff as rows: what was done, in sign and word, and the values before and after."""
    rows = []
    for item in event["diff"] or ():
        sign, word = _WORDS.get(item.get("op", ""), ("\N{BULLET}", item.get("op", "")))
        rows.append(
            {
                "sign": sign,
                "word": word,
                "path": item.get("path", ""),
                "redacted": bool(item.get("redacted")),
                "before": _text(item, "before"),
                "after": _text(item, "after"),
            }
        )
    return rows


def _text(item: dict[str, Any], side: str) -> str | None:
    if side not in item:
        return None
    value = item[side]
    if isinstance(value, str):
        return value
    if isinstance(value, dict) and value and not any(isinstance(one, dict | list) for one in value.values()):
        parts = {name: one if isinstance(one, str) else orjson.dumps(one).decode() for name, one in value.items()}
        return ", ".join(f"{name}: {text}" for name, text in parts.items())
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def suggestions(text: str, tenants: Iterable[str]) -> list[str]:
    """Return how a search could go on: qualifiers with their values, behind what stands there."""
    areas = sorted({name.rsplit(".", 1)[0] for name in ACTIONS})
    known = [f"action:{area}.*" for area in areas]
    known += [f"outcome:{outcome}" for outcome in OUTCOMES] + [f"phase:{phase}" for phase in PHASES]
    known += [f"created:{span}" for span in _TIMES] + [f"severity:>={level}" for level in SEVERITIES[1:]]
    known += [f"actor:{kind}" for kind in ("token", "operator", "system", "job", "person")]
    known += [f"tenant:{quote(tenant)}" for tenant in tenants]
    known += [
        f"{name}:" for name in QUALIFIERS if name in ("target", "correlation", "attribute", "ip", "reason", "job", "id")
    ]
    known += [f"action:{name}" for name in ACTIONS]
    head = text.rstrip()
    return [f"{head} {one}" if head else one for one in known]
