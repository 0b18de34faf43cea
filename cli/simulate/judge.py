"""What Entra expects of an answer: pure checks that return every finding, or an empty list.

Sources: entra-wire.md §2-§4 and §8, RFC 7644 §3.3, §3.4, §3.12 and §3.14, RFC 7643 §2.5, §3.1 and §3.3.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import orjson

from cli.simulate.body import ENTERPRISE, USER

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

CONTENT_TYPE = "application/scim+json"
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
_NOTHING = "nothing"


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, or why nothing did.

    Attributes:
        status: HTTP status; None when no answer came.
        headers: by lower-case name.
        raw: the body.
        failure: why no answer came.
    """

    status: int | None
    headers: Mapping[str, str]
    raw: bytes = b""
    failure: str = ""

    @property
    def body(self) -> Any:
        """The body as JSON, or None if it is none."""
        try:
            return orjson.loads(self.raw)
        except orjson.JSONDecodeError:
            return None


@dataclass(frozen=True, slots=True)
class Finding:
    """One way in which an answer is not what Entra expects."""

    expected: str
    came: str


def check_listed(answer: Answer, total: int) -> list[Finding]:
    """Check that the answer is a ListResponse with exactly ``total`` resources in it.

    Any other status than 200, or a missing list, makes Entra quarantine the whole job (entra-wire.md §2).
    """
    doc, findings = _json_object(answer, 200)
    if doc is None:
        return findings
    findings += _equal("schemas", [LIST_RESPONSE], doc.get("schemas"))
    findings += _equal("totalResults", total, doc.get("totalResults"))
    findings += _equal("startIndex", 1, doc.get("startIndex"))
    resources = doc.get("Resources")
    if not isinstance(resources, list):
        return [*findings, Finding("Resources is a list", _show(resources))]
    findings += _equal("number of Resources", total, len(resources))
    findings += _equal("itemsPerPage", len(resources), doc.get("itemsPerPage"))
    return findings


def listed(answer: Answer) -> list[dict[str, Any]]:
    """Return the resources of a list answer; empty when it holds none or is none."""
    doc = answer.body
    return _objects(doc.get("Resources")) if isinstance(doc, dict) else []


def check_created(answer: Answer, expected: dict[str, Any], optional: dict[str, Any]) -> list[Finding]:
    """Check the answer to a create: 201, the full resource, and where it lives."""
    doc, findings = _json_object(answer, 201)
    if doc is None:
        return findings
    findings += check_resource(doc, expected, optional)
    location = _meta(doc).get("location")
    findings += _equal("Location (as meta.location)", location, answer.headers.get("location"))
    return findings + _etag(answer, doc)


def check_read(answer: Answer, known: dict[str, Any]) -> list[Finding]:
    """Check that a GET by id answers the very resource that was answered before."""
    doc, findings = _json_object(answer, 200)
    if doc is None:
        return findings
    return [*findings, *check_same(doc, known), *_etag(answer, doc)]


def check_same(doc: dict[str, Any], known: dict[str, Any]) -> list[Finding]:
    """Check that two answers show one resource in the same way (entra-cases.md 86)."""
    names = sorted(doc.keys() | known.keys())
    return [
        finding for name in names for finding in _equal(f"{name} (as before)", known.get(name), doc.get(name, _NOTHING))
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
        findings.append(Finding("id is a non-empty string", _show(user_id)))
    schemas = doc.get("schemas")
    wanted = [*expected["schemas"], *(urn for urn in optional if urn in doc)]
    if not isinstance(schemas, list) or sorted(map(str, schemas)) != sorted(wanted):
        findings.append(Finding(f"schemas = {_show(wanted)}", _show(schemas)))
    findings += _check_meta(_meta(doc), str(user_id))
    findings += [Finding(f"{path} left out when unassigned", "null") for path in _nulls(doc)]
    for name, value in expected.items():
        if name != "schemas":
            findings += _equal(name, value, _without_additions(name, doc.get(name, _NOTHING)))
    for name in doc.keys() - expected.keys() - {"id", "meta", "groups"}:
        if name in optional:
            findings += _equal(name, optional[name], doc[name])
        else:
            findings.append(Finding(f"no {name}, which was not sent", _show(doc[name])))
    return findings


def check_conflict(answer: Answer) -> list[Finding]:
    """Check the answer to a create whose userName is taken: 409 with ``scimType`` uniqueness."""
    doc, findings = _json_object(answer, 409)
    if doc is None:
        return findings
    findings += _equal("schemas", [ERROR], doc.get("schemas"))
    findings += _equal("status", "409", doc.get("status"))
    findings += _equal("scimType", "uniqueness", doc.get("scimType"))
    detail = doc.get("detail")
    if not (isinstance(detail, str) and detail):
        findings.append(Finding("detail says what to mend", _show(detail)))
    return findings


def check_service_provider_config(answer: Answer) -> list[Finding]:
    """Check ``/ServiceProviderConfig`` for what Entra cannot do without."""
    doc, findings = _json_object(answer, 200)
    if doc is None:
        return findings
    findings += _equal("schemas", [SERVICE_PROVIDER_CONFIG], doc.get("schemas"))
    supported = doc.get("filter", {}).get("supported") if isinstance(doc.get("filter"), dict) else None
    findings += _equal("filter.supported", True, supported)
    if not doc.get("authenticationSchemes"):
        findings.append(Finding("authenticationSchemes names at least one", _show(doc.get("authenticationSchemes"))))
    return findings


def check_resource_types(answer: Answer) -> list[Finding]:
    """Check that ``/ResourceTypes`` lists users under ``/Users``."""
    found = listed(answer)
    findings = check_listed(answer, len(found))
    if not any(item.get("endpoint") == "/Users" and item.get("schema") == USER for item in found):
        findings.append(Finding(f"a resource type with endpoint /Users and schema {USER}", _show(found)))
    return findings


def check_schemas(answer: Answer) -> list[Finding]:
    """Check ``/Schemas``: no nulls, camelCase keywords, the mapped attributes, no password (entra-wire.md §8)."""
    found = listed(answer)
    findings = check_listed(answer, len(found))
    findings += [Finding(f"{path} left out when unassigned", "null") for path in _nulls(found)]
    by_urn = {item.get("id"): item for item in found}
    findings += [Finding(f"the schema {urn}", _NOTHING) for urn in (USER, ENTERPRISE) if urn not in by_urn]
    names = {str(attribute.get("name")).lower() for attribute in _objects(by_urn.get(USER, {}).get("attributes"))}
    findings += [Finding(f"the attribute {name}", _NOTHING) for name in sorted(_MAPPED - names) if USER in by_urn]
    if "password" in names:
        findings.append(Finding("no attribute password", "password"))
    for schema in found:
        for path, keyword, value in _keywords(schema):
            if value not in _KEYWORDS[keyword]:
                findings.append(Finding(f"{keyword} of {path} is one of {sorted(_KEYWORDS[keyword])}", _show(value)))
    return findings


def _json_object(answer: Answer, status: int) -> tuple[dict[str, Any] | None, list[Finding]]:
    """Check what holds for every answer; the object is None when there is no sense in looking into it."""
    if answer.status is None:
        return None, [Finding(f"an answer with status {status}", answer.failure)]
    findings: list[Finding] = []
    media_type = answer.headers.get("content-type", _NOTHING).partition(";")[0].strip().lower()
    if media_type != CONTENT_TYPE:
        findings.append(Finding(f"Content-Type {CONTENT_TYPE}", media_type))
    doc = answer.body
    if answer.status != status:
        return None, [
            *findings,
            Finding(f"status {status}", f"{answer.status} {_show(doc or answer.raw.decode(errors='replace'))}"),
        ]
    if not isinstance(doc, dict):
        return None, [*findings, Finding("a JSON object", _show(answer.raw.decode(errors="replace")))]
    return doc, findings


def _check_meta(meta: dict[str, Any], user_id: str) -> list[Finding]:
    findings = _equal("meta.resourceType", "User", meta.get("resourceType"))
    location = meta.get("location")
    parts = urlsplit(location) if isinstance(location, str) else None
    if parts is None or not parts.netloc or parts.query or not parts.path.endswith(f"/Users/{user_id}"):
        findings.append(Finding(f"meta.location is an absolute URL that ends in /Users/{user_id}", _show(location)))
    if not (isinstance(meta.get("version"), str) and re.fullmatch(r'(W/)?"[^"]*"', meta["version"])):
        findings.append(Finding("meta.version is an entity tag", _show(meta.get("version"))))
    for name in ("created", "lastModified"):
        try:
            aware = datetime.fromisoformat(str(meta.get(name))).tzinfo is not None
        except ValueError:
            aware = False
        if not aware:
            findings.append(Finding(f"meta.{name} is a date-time with an offset", _show(meta.get(name))))
    return findings


def _etag(answer: Answer, doc: dict[str, Any]) -> list[Finding]:
    return _equal("ETag (as meta.version)", _meta(doc).get("version"), answer.headers.get("etag"))


def _objects(value: Any) -> list[dict[str, Any]]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _meta(doc: dict[str, Any]) -> dict[str, Any]:
    meta = doc.get("meta")
    return meta if isinstance(meta, dict) else {}


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
    waiting = [(str(schema.get("id")), attribute) for attribute in _objects(schema.get("attributes"))]
    while waiting:
        parent, attribute = waiting.pop()
        path = f"{parent}:{attribute.get('name')}"
        yield from ((path, keyword, attribute[keyword]) for keyword in _KEYWORDS if keyword in attribute)
        waiting += [(path, sub) for sub in _objects(attribute.get("subAttributes"))]


def _equal(what: str, expected: Any, came: Any) -> list[Finding]:
    # As JSON: in Python 1 == True == 1.0, on the wire they differ.
    if json.dumps(expected, sort_keys=True) == json.dumps(came, sort_keys=True):
        return []
    return [Finding(f"{what} = {_show(expected)}", _show(came))]


def _show(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 300 else f"{text[:300]}… ({len(text)} characters)"
