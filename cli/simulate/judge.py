"""What Entra expects of an answer: pure checks that return every finding, or an empty list.

Sources: entra-wire.md §2-§4 and §8, RFC 7644 §3.3, §3.4, §3.12 and §3.14, RFC 7643 §2.5, §3.1 and §3.3.
"""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from cli.simulate.body import ENTERPRISE, USER
from cli.simulate.findings import NOTHING, Finding, equal, json_object, meta_of, objects, show

if TYPE_CHECKING:
    from collections.abc import Iterator

    from cli.simulate.findings import Answer

LIST_RESPONSE = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"
SERVICE_PROVIDER_CONFIG = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"

_MAPPED = frozenset(
    {"username", "active", "displayname", "name", "emails", "title", "preferredlanguage", "addresses", "phonenumbers"}
)
_KEYWORDS = {
    "mutability": {"readOnly", "readWrite", "immutable", "writeOnly"},
    "returned": {"always", "never", "default", "request"},
    "uniqueness": {"none", "server", "global"},
    "type": {"string", "boolean", "decimal", "integer", "dateTime", "reference", "complex", "binary"},
}


def check_listed(answer: Answer, total: int) -> list[Finding]:
    """Check that the answer is a ListResponse with exactly ``total`` resources in it.

    Any other status than 200, or a missing list, makes Entra quarantine the whole job (entra-wire.md §2).
    """
    doc, findings = json_object(answer, 200)
    if doc is None:
        return findings
    findings += _check_list(doc, 1)
    findings += equal("totalResults", total, doc.get("totalResults"))
    if isinstance(resources := doc.get("Resources"), list):
        findings += equal("number of Resources", total, len(resources))
    return findings


def check_page(answer: Answer, start_index: int) -> list[Finding]:
    """Check that the answer is the page of a list that begins with resource number ``start_index``."""
    doc, findings = json_object(answer, 200)
    return findings if doc is None else findings + _check_list(doc, start_index)


def _check_list(doc: dict[str, Any], start_index: int) -> list[Finding]:
    findings = equal("schemas", [LIST_RESPONSE], doc.get("schemas"))
    findings += equal("startIndex", start_index, doc.get("startIndex"))
    resources = doc.get("Resources")
    if not isinstance(resources, list):
        return [*findings, Finding("Resources is a list", show(resources))]
    return findings + equal("itemsPerPage", len(resources), doc.get("itemsPerPage"))


def listed(answer: Answer) -> list[dict[str, Any]]:
    """Return the resources of a list answer; empty when it holds none or is none."""
    doc = answer.body
    return objects(doc.get("Resources")) if isinstance(doc, dict) else []


def check_created(answer: Answer, expected: dict[str, Any], optional: dict[str, Any]) -> list[Finding]:
    """Check the answer to a create: 201, the full resource, and where it lives."""
    doc, findings = json_object(answer, 201)
    if doc is None:
        return findings
    findings += check_resource(doc, expected, optional)
    return findings + check_location(answer, doc)


def check_location(answer: Answer, doc: dict[str, Any]) -> list[Finding]:
    """Check the headers that say where a new resource lives and which version of it was answered."""
    location = meta_of(doc).get("location")
    return equal("Location (as meta.location)", location, answer.headers.get("location")) + check_etag(answer, doc)


def check_read(answer: Answer, known: dict[str, Any]) -> list[Finding]:
    """Check that a GET by id answers the very resource that was answered before."""
    doc, findings = json_object(answer, 200)
    if doc is None:
        return findings
    return [*findings, *check_same(doc, known), *check_etag(answer, doc)]


def check_same(doc: dict[str, Any], known: dict[str, Any]) -> list[Finding]:
    """Check that two answers show one resource in the same way (entra-cases.md 86)."""
    names = sorted(doc.keys() | known.keys())
    return [
        finding for name in names for finding in equal(f"{name} (as before)", known.get(name), doc.get(name, NOTHING))
    ]


def check_resource(doc: dict[str, Any], expected: dict[str, Any], optional: dict[str, Any]) -> list[Finding]:
    """Check a user resource against what was sent for it.

    Args:
        doc: the resource that came.
        expected: what it must hold, see ``cli.simulate.body.Create``.
        optional: what it may hold beside that.
    """
    findings: list[Finding] = []
    user_id = doc.get("id")
    if not (isinstance(user_id, str) and user_id):
        findings.append(Finding("id is a non-empty string", show(user_id)))
    wanted = [*expected["schemas"], *(urn for urn in optional if urn in doc)]
    findings += check_frame(doc, "User", wanted)
    for name, value in expected.items():
        if name != "schemas":
            findings += equal(name, value, _without_additions(name, doc.get(name, NOTHING)))
    for name in doc.keys() - expected.keys() - {"id", "meta", "groups"}:
        if name in optional:
            findings += equal(name, optional[name], doc[name])
        else:
            findings.append(Finding(f"no {name}, which was not sent", show(doc[name])))
    return findings


def check_frame(doc: dict[str, Any], kind: str, schemas: list[str]) -> list[Finding]:
    """Check what every resource has: ``schemas`` in any order, ``meta``, and nothing that is null.

    Args:
        doc: the resource that came.
        kind: ``User`` or ``Group``.
        schemas: the URNs that it must name.
    """
    named = doc.get("schemas")
    findings: list[Finding] = []
    if not isinstance(named, list) or sorted(map(str, named)) != sorted(schemas):
        findings.append(Finding(f"schemas = {show(schemas)}", show(named)))
    findings += _check_meta(meta_of(doc), kind, str(doc.get("id")))
    return findings + [Finding(f"{path} left out when unassigned", "null") for path in _nulls(doc)]


def check_conflict(answer: Answer) -> list[Finding]:
    """Check the answer to a write whose userName or displayName is taken: 409 with ``scimType`` uniqueness."""
    return check_error(answer, 409, "uniqueness")


def check_error(answer: Answer, status: int, scim_type: str | None = None, *, names: str = "") -> list[Finding]:
    """Check that the answer is a SCIM Error (RFC 7644 §3.12).

    Args:
        answer: what came.
        status: the HTTP status that is due.
        scim_type: the ``scimType`` that is due; None for any or none.
        names: what ``detail`` must name, so that an administrator finds it.
    """
    doc, findings = json_object(answer, status)
    if doc is None:
        return findings
    findings += equal("schemas", [ERROR], doc.get("schemas"))
    findings += equal("status", str(status), doc.get("status"))
    if scim_type is not None:
        findings += equal("scimType", scim_type, doc.get("scimType"))
    detail = doc.get("detail")
    if not (isinstance(detail, str) and detail):
        findings.append(Finding("detail says what to mend", show(detail)))
    elif names not in detail:
        findings.append(Finding(f"detail names {names}", detail))
    return findings


def check_service_provider_config(answer: Answer, *, patch: bool = False) -> list[Finding]:
    """Check ``/ServiceProviderConfig`` for what Entra cannot do without; ``patch`` once it is to change anything."""
    doc, findings = json_object(answer, 200)
    if doc is None:
        return findings
    findings += equal("schemas", [SERVICE_PROVIDER_CONFIG], doc.get("schemas"))
    for feature in ("filter", "patch") if patch else ("filter",):
        supported = doc[feature].get("supported") if isinstance(doc.get(feature), dict) else None
        findings += equal(f"{feature}.supported", True, supported)
    if not doc.get("authenticationSchemes"):
        findings.append(Finding("authenticationSchemes names at least one", show(doc.get("authenticationSchemes"))))
    return findings


def check_resource_types(answer: Answer) -> list[Finding]:
    """Check that ``/ResourceTypes`` lists users under ``/Users``."""
    found = listed(answer)
    findings = check_listed(answer, len(found))
    if not any(item.get("endpoint") == "/Users" and item.get("schema") == USER for item in found):
        findings.append(Finding(f"a resource type with endpoint /Users and schema {USER}", show(found)))
    return findings


def check_schemas(answer: Answer) -> list[Finding]:
    """Check ``/Schemas``: no nulls, camelCase keywords, the mapped attributes, no password (entra-wire.md §8)."""
    found = listed(answer)
    findings = check_listed(answer, len(found))
    findings += [Finding(f"{path} left out when unassigned", "null") for path in _nulls(found)]
    by_urn = {item.get("id"): item for item in found}
    findings += [Finding(f"the schema {urn}", NOTHING) for urn in (USER, ENTERPRISE) if urn not in by_urn]
    names = {str(attribute.get("name")).lower() for attribute in objects(by_urn.get(USER, {}).get("attributes"))}
    findings += [Finding(f"the attribute {name}", NOTHING) for name in sorted(_MAPPED - names) if USER in by_urn]
    if "password" in names:
        findings.append(Finding("no attribute password", "password"))
    for schema in found:
        for path, keyword, value in _keywords(schema):
            if value not in _KEYWORDS[keyword]:
                findings.append(Finding(f"{keyword} of {path} is one of {sorted(_KEYWORDS[keyword])}", show(value)))
    return findings


def _check_meta(meta: dict[str, Any], kind: str, resource_id: str) -> list[Finding]:
    findings = equal("meta.resourceType", kind, meta.get("resourceType"))
    location = meta.get("location")
    parts = urlsplit(location) if isinstance(location, str) else None
    if parts is None or not parts.netloc or parts.query or not parts.path.endswith(f"/{kind}s/{resource_id}"):
        wanted = f"meta.location is an absolute URL that ends in /{kind}s/{resource_id}"
        findings.append(Finding(wanted, show(location)))
    if not (isinstance(meta.get("version"), str) and re.fullmatch(r'(W/)?"[^"]*"', meta["version"])):
        findings.append(Finding("meta.version is an entity tag", show(meta.get("version"))))
    for name in ("created", "lastModified"):
        try:
            aware = datetime.fromisoformat(str(meta.get(name))).tzinfo is not None
        except ValueError:
            aware = False
        if not aware:
            findings.append(Finding(f"meta.{name} is a date-time with an offset", show(meta.get(name))))
    return findings


def check_etag(answer: Answer, doc: dict[str, Any]) -> list[Finding]:
    """Check that the ``ETag`` header is the version that the resource names (RFC 7644 §3.14)."""
    return equal("ETag (as meta.version)", meta_of(doc).get("version"), answer.headers.get("etag"))


def _without_additions(name: str, value: Any) -> Any:
    """Take away what a server may add to a reference: the manager's URL and name (RFC 7643 §4.3)."""
    if name == ENTERPRISE and isinstance(value, dict) and isinstance(value.get("manager"), dict):
        manager = {key: item for key, item in value["manager"].items() if key not in ("$ref", "displayName")}
        return {**value, "manager": manager}
    return value


def _nulls(value: Any, path: str = "") -> Iterator[str]:
    if value is None:
        yield path
    elif isinstance(value, dict):
        for name, item in value.items():
            yield from _nulls(item, f"{path}.{name}".lstrip("."))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from _nulls(item, f"{path}[{index}]")


def _keywords(schema: dict[str, Any]) -> Iterator[tuple[str, str, Any]]:
    """Yield (path, keyword, value) for each keyword in a schema's attributes and sub-attributes."""
    waiting = [(str(schema.get("id")), attribute) for attribute in objects(schema.get("attributes"))]
    while waiting:
        parent, attribute = waiting.pop()
        path = f"{parent}:{attribute.get('name')}"
        yield from ((path, keyword, attribute[keyword]) for keyword in _KEYWORDS if keyword in attribute)
        waiting += [(path, sub) for sub in objects(attribute.get("subAttributes"))]
