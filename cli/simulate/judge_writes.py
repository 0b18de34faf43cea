"""What Entra expects of answers about users and groups that change: pure checks, as those of ``judge``.

Sources: entra-wire.md §5.5, §6 and §7, RFC 7644 §3.5.2 and §3.6, entra-cases.md D, F and G.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

from cli.simulate.findings import NOTHING, Finding, equal, json_object, meta_of, objects, show
from cli.simulate.judge import check_etag, check_frame, check_resource, listed

if TYPE_CHECKING:
    from collections.abc import Collection

    from cli.simulate.findings import Answer

Doc = dict[str, Any]


def check_user(doc: Doc, expected: Doc, optional: Doc, meta: Doc, groups: Collection[str] | None) -> list[Finding]:
    """Check a user against what the simulation knows of it.

    Args:
        doc: the resource that came.
        expected: what it must hold; ``id`` too, where it is known.
        optional: what it may hold beside that.
        meta: the ``meta`` that was answered last; empty when the resource has changed since.
        groups: ids of the groups that it must name in ``groups``, or None where it need not name any.
    """
    findings = equal("id", expected["id"], doc.get("id"))
    findings += check_resource(doc, {name: item for name, item in expected.items() if name != "id"}, optional)
    if meta:
        findings += equal("meta (as before)", meta, doc.get("meta"))
    if groups is not None or "groups" in doc:
        named = sorted(str(each.get("value")) for each in objects(doc.get("groups")))
        findings += equal("groups", sorted(groups or ()), named)
    return findings


def check_patched(answer: Answer, before: Doc, *, changes: bool) -> list[Finding]:
    """Check the answer to the PATCH of a user but for the attributes: 200 with the resource, or 204 with nothing.

    Args:
        answer: what came.
        before: the ``meta`` of the resource before.
        changes: whether anything is another value now: then the version is new, otherwise ``meta`` stays.
    """
    if answer.status == 204:
        return _nothing(answer)
    doc, findings = json_object(answer, 200)
    if doc is None:
        return findings
    return findings + check_etag(answer, doc) + check_meta_after(meta_of(doc), before, changes=changes)


def check_meta_after(meta: Doc, before: Doc, *, changes: bool) -> list[Finding]:
    """Check ``meta`` after a write that changed something, or nothing (entra-cases.md 74)."""
    if not changes:
        return equal("meta (nothing changed)", before, meta)
    findings = equal("meta.created (as before)", before.get("created"), meta.get("created"))
    if meta.get("version") == before.get("version"):
        findings.append(Finding("meta.version is new after a change", show(meta.get("version"))))
    if _time(meta) < _time(before):
        wanted = f"meta.lastModified is not before {show(before.get('lastModified'))}"
        findings.append(Finding(wanted, show(meta.get("lastModified"))))
    return findings


def check_deleted(answer: Answer) -> list[Finding]:
    """Check the answer to a DELETE: 204 with nothing."""
    return _nothing(answer)


def check_members_patched(answer: Answer) -> list[Finding]:
    """Check the answer to the PATCH of a group: 204, or 200 with the group but without its members (case 108)."""
    if answer.status == 204:
        return _nothing(answer)
    doc, findings = json_object(answer, 200)
    if doc is None:
        return findings
    return (
        findings
        + [Finding("no members in the answer to a PATCH", show(doc["members"])) for _ in doc.get("members") or ()][:1]
    )


def check_group(doc: Doc, expected: Doc, *, members: Collection[str] | None, meta: Doc | None = None) -> list[Finding]:
    """Check a group against what the simulation knows of it.

    Args:
        doc: the resource that came.
        expected: what it must hold; ``id`` too, where it is known.
        members: the ids of all members; None when members were excluded, and must be absent (case 92).
        meta: the ``meta`` that was answered last, if nothing has changed since.
    """
    group_id = doc.get("id")
    findings: list[Finding] = []
    if not (isinstance(group_id, str) and group_id):
        findings.append(Finding("id is a non-empty string", show(group_id)))
    findings += check_frame(doc, "Group", expected["schemas"])
    for name, value in expected.items():
        if name != "schemas":
            findings += equal(name, value, doc.get(name, NOTHING))
    if members is None and "members" in doc:
        findings.append(Finding("no members, which are excluded", show(doc["members"])))
    elif members is not None:
        named = [str(each.get("value")) for each in objects(doc.get("members"))]
        findings += _check_ids("members", members, named)
    if meta is not None:
        findings += equal("meta (as before)", meta, doc.get("meta"))
    return findings


def check_ids(answer: Answer, ids: Collection[str], what: str) -> list[Finding]:
    """Check that a list has exactly the resources with these ids."""
    doc, findings = json_object(answer, 200)
    return (
        findings if doc is None else findings + _check_ids(what, ids, [str(each.get("id")) for each in listed(answer)])
    )


def _check_ids(what: str, wanted: Collection[str], came: list[str]) -> list[Finding]:
    """Compare ids without a word about those that are right: there may be thousands."""
    findings = []
    if missing := set(wanted) - set(came):
        findings.append(
            Finding(f"{what}: {len(wanted)}, among them {show(min(missing))}", f"{len(missing)} are missing")
        )
    if beyond := set(came) - set(wanted):
        findings.append(Finding(f"{what}: {len(wanted)}, without {show(min(beyond))}", f"{len(beyond)} too many"))
    if len(came) != len(set(came)):
        findings.append(Finding(f"{what}: each once", f"{len(came) - len(set(came))} more than once"))
    return findings


def _nothing(answer: Answer) -> list[Finding]:
    if answer.status != 204:
        return json_object(answer, 204)[1]
    return [Finding("no body with status 204", show(answer.raw.decode(errors="replace")))] if answer.raw else []


def _time(meta: Doc) -> float:
    """Return when a resource changed last; what is no time is reported by ``check_frame``."""
    try:
        return datetime.fromisoformat(str(meta.get("lastModified"))).timestamp()
    except ValueError:
        return 0.0
