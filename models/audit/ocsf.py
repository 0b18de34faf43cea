"""Audit events as the Open Cybersecurity Schema Framework has them, for SIEMs (reference/audit-logs.md §3.7)."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

VERSION: Final = "1.9.0-dev"
"""The schema's version, as `metadata.version` names it; classes and activities were read there."""

USER_MANAGEMENT, GROUP_MANAGEMENT, ENTITY_MANAGEMENT = 3007, 3006, 3004
_OTHER = 99
# Class and activity by action; by its last word for all the rest, which are about entities.
_ACTIVITIES: Final[dict[str, tuple[int, int, str]]] = {
    "scim.user.create": (USER_MANAGEMENT, 1, "Create"),
    "scim.user.update": (USER_MANAGEMENT, 2, "Update"),
    "scim.user.delete": (USER_MANAGEMENT, 3, "Delete"),
    "scim.user.enable": (USER_MANAGEMENT, 4, "Enable"),
    "scim.user.disable": (USER_MANAGEMENT, 5, "Disable"),
    "scim.group.create": (GROUP_MANAGEMENT, 6, "Create"),
    "scim.group.update": (GROUP_MANAGEMENT, 9, "Update"),
    "scim.group.delete": (GROUP_MANAGEMENT, 5, "Delete"),
    "scim.group.member.add": (GROUP_MANAGEMENT, 3, "Add User"),
    "scim.group.member.remove": (GROUP_MANAGEMENT, 4, "Remove User"),
}
_VERBS: Final[dict[str, tuple[int, str]]] = {
    **dict.fromkeys(("create", "add", "issue", "place", "start", "make"), (1, "Create")),
    **dict.fromkeys(("update", "change", "rotate"), (3, "Update")),
    **dict.fromkeys(("delete", "remove", "revoke", "discard", "erase", "retain", "release"), (4, "Delete")),
    **dict.fromkeys(("enable", "resume", "unquiet", "unsuppress"), (8, "Enable")),
    **dict.fromkeys(("disable", "pause", "quiet", "suppress"), (9, "Disable")),
}
_STATUS: Final = {"success": (1, "Success"), "failure": (2, "Failure"), "denied": (2, "Failure")}


def as_ocsf(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event, as its line has it, as an OCSF event."""
    class_uid, activity, name = _activity(event["action"])
    status, status_name = _STATUS.get(event["outcome"], (0, "Unknown"))
    context = event["context"] or {}
    made: dict[str, Any] = {
        "category_uid": 3,
        "class_uid": class_uid,
        "activity_id": activity,
        "activity_name": name,
        "type_uid": class_uid * 100 + activity,
        "time": _milliseconds(event["occurred_at"]),
        "severity_id": event["severity"],
        "status_id": status,
        "status": status_name,
        "status_code": event["reason"],
        "metadata": {
            "version": VERSION,
            "product": {"name": "Usher", "vendor_name": "Usher"},
            "uid": event["id"],
            "correlation_uid": event["correlation_id"],
            "tenant_uid": event["tenant_id"],
            "event_code": event["action"],
        },
        "actor": {"user": {"type": event["actor_type"], "uid": event["actor_id"], "name": event["actor_label"]}},
        **_objects(class_uid, event),
    }
    if "ip" in context:
        made["src_endpoint"] = {"ip": context["ip"]}
    if "method" in context:
        made["http_request"] = {"http_method": context["method"], "url": {"path": context.get("route")}}
    made["unmapped"] = {"phase": event["phase"], "changed": event["changed"], "targets": event["targets"]}
    return made


def _activity(action: str) -> tuple[int, int, str]:
    known = _ACTIVITIES.get(action)
    if known is None:
        known = (ENTITY_MANAGEMENT, *_VERBS.get(action.rpartition(".")[2], (_OTHER, "Other")))
    return known


def _objects(class_uid: int, event: dict[str, Any]) -> dict[str, Any]:
    """Return what the event is about: user, group with its first member, or entity."""
    targets = [{"uid": one.get("id"), "name": one.get("label"), "type": one.get("type")} for one in event["targets"]]
    first = targets[0] if targets else {"uid": event["target_id"], "name": None, "type": event["target_type"]}
    if class_uid == USER_MANAGEMENT:
        found: dict[str, Any] = {"user": first}
        if event["action"] == "scim.user.update":
            found["updated_user"] = first
        return found
    if class_uid == GROUP_MANAGEMENT:
        return {"group": first, **({"user": targets[1]} if len(targets) > 1 else {})}
    return {"entity": first}


def _milliseconds(text: str) -> int:
    return round(datetime.fromisoformat(text).timestamp() * 1000)
