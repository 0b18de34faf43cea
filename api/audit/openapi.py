"""The audit API described: an OpenAPI 3.1 document, which a test holds to the routes and to what they answer."""

from __future__ import annotations

from typing import Any, Final

from models.audit.actions import ACTIONS
from models.audit.query import MOST_COUNTED, MOST_EVENTS
from models.audit.search import OUTCOMES, PHASES, QUALIFIERS

PATH: Final = "/audit/openapi.json"

_MOMENT: Final = {"type": "string", "format": "date-time"}
_UUID: Final = {"type": "string", "format": "uuid"}
_TEXT: Final = {"type": ["string", "null"]}


def _maybe(schema: dict[str, Any]) -> dict[str, Any]:
    return {**schema, "type": [schema["type"], "null"]}


_EVENT: Final[dict[str, Any]] = {
    "type": "object",
    "description": "Who did what to whom; docs/audit.md explains every field.",
    "properties": {
        "occurred_at": {**_MOMENT, "description": "By the database's clock."},
        "id": {**_UUID, "description": "A UUID of version 7; the key to tell repetitions by."},
        "tenant_id": _maybe(_UUID),
        "action": {"type": "string", "description": f"One of {', '.join(ACTIONS)}."},
        "phase": {"type": "string", "enum": list(PHASES)},
        "outcome": {"type": "string", "enum": list(OUTCOMES)},
        "reason": {**_TEXT, "description": "A bounded code, never free text."},
        "severity": {"type": "integer", "minimum": 1, "maximum": 5},
        "actor_type": {"type": "string"},
        "actor_id": _TEXT,
        "actor_label": _TEXT,
        "targets": {"type": "array", "items": {"type": "object"}},
        "correlation_id": {**_UUID, "description": "Joins everything that one request led to."},
        "job_id": _maybe(_UUID),
        "context": {"type": ["object", "null"]},
        "diff": {
            "type": ["array", "null"],
            "items": {"type": "object", "required": ["op", "path"]},
            "description": "The net change by SCIM path, with the values before and after.",
        },
        "changed": {"type": ["array", "null"], "items": {"type": "string"}},
        "schema_version": {"type": "integer"},
    },
}
_EVENT["required"] = list(_EVENT["properties"])

_SEALED: Final[dict[str, Any]] = {
    "type": "object",
    "description": "An event, the seal that it is under, and on demand the proof of that.",
    "allOf": [{"$ref": "#/components/schemas/Event"}],
    "required": ["seal"],
    "properties": {
        "seal": {
            "type": ["object", "null"],
            "description": "Null while it is not sealed, which takes a minute.",
            "required": ["seq", "sealed_at", "key_id", "root", "count"],
            "properties": {
                "seq": {"type": "integer"},
                "sealed_at": _MOMENT,
                "key_id": {"type": "string"},
                "root": {"type": "string", "description": "Merkle root (RFC 6962), in base64."},
                "count": {"type": "integer", "description": "Events under the seal."},
            },
        },
        "proof": {
            "type": ["object", "null"],
            "description": "Only with proof=true: leaf, path, root, signed seal and key; null if there is none.",
        },
    },
}

_BOUNDS: Final = {
    "since": {**_MOMENT, "description": "The first moment of the range that was searched."},
    "until": {**_MOMENT, "description": "The first moment behind it."},
    "as_of": {**_MOMENT, "description": "When the walk began; nothing later is on any of its pages."},
}
_SCHEMAS: Final[dict[str, Any]] = {
    "Event": _EVENT,
    "SealedEvent": _SEALED,
    "Page": {
        "type": "object",
        "required": ["events", "next", *_BOUNDS, "complete"],
        "properties": {
            "events": {"type": "array", "items": {"$ref": "#/components/schemas/Event"}, "maxItems": MOST_EVENTS},
            "next": {**_TEXT, "description": "The cursor of the next page; null at the end."},
            **_BOUNDS,
            "complete": {"type": "boolean", "description": "Whether nothing can be added to the range any more."},
        },
    },
    "Facets": {
        "type": "object",
        "required": ["counted", "all_counted", "action", "outcome", *_BOUNDS],
        "properties": {
            "counted": {"type": "integer", "minimum": 0, "maximum": MOST_COUNTED},
            "all_counted": {"type": "boolean", "description": "False when there are more events than were counted."},
            "action": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
            "outcome": {"type": "object", "additionalProperties": {"type": "integer", "minimum": 1}},
            **_BOUNDS,
        },
    },
    "Problem": {
        "type": "object",
        "description": "RFC 9457.",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"type": "string"},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string", "description": "A sentence that says what to mend."},
            "code": {"type": "string"},
            "position": {"type": "integer", "minimum": 0, "description": "The place in q, from 0."},
            "expected": {
                "type": "array",
                "items": {"type": "string"},
                "description": "The words that may stand there.",
            },
        },
    },
}

_Q: Final = {
    "name": "q",
    "in": "query",
    "description": "The search. Terms are separated by spaces and must all hold; - negates; commas separate"
    " alternatives. "
    + " ".join(f"`{name}:` {meaning}." for name, meaning in QUALIFIERS.items())
    + " Anything else is free text, of 3 characters at least.",
    "schema": {"type": "string", "maxLength": 2000, "format": "usher-search"},
    "examples": {
        "failures": {"value": "action:scim.user.* outcome:failure"},
        "person": {"value": "target:ana@example.com"},
        "june": {"value": "created:2026-11-01..2026-11-30 -actor:job"},
    },
}
_ZONE: Final = {
    "name": "zone",
    "in": "query",
    "description": "The IANA name of the time zone whose days `created:` means.",
    "schema": {"type": "string", "format": "usher-zone", "default": "UTC"},
}
_PROOF: Final = {
    "name": "proof",
    "in": "query",
    "description": "Whether the proof that the event is under its seal is wanted.",
    "schema": {"type": "string", "enum": ["true", "false"], "default": "false"},
}
_ID: Final = {"name": "id", "in": "path", "required": True, "schema": _UUID}
_PAGING: Final = (
    {
        "name": "cursor",
        "in": "query",
        "description": "The `next` of the page before, of the same search.",
        "schema": {"type": "string", "format": "usher-cursor"},
    },
    {
        "name": "limit",
        "in": "query",
        "description": "Most events on the page; a stream without it goes on to the end.",
        "schema": {"type": "integer", "minimum": 1, "maximum": MOST_EVENTS, "default": 100},
    },
)


def _json(name: str) -> dict[str, Any]:
    return {"application/json": {"schema": {"$ref": f"#/components/schemas/{name}"}}}


def _answers(good: dict[str, Any], *statuses: int) -> dict[str, Any]:
    meanings = {
        400: "The search, the cursor or a parameter cannot be read, or asks for too much.",
        401: "No good token.",
        403: "A good token without the scope `audit`.",
        404: "There is no such event, or it is another tenant's.",
        405: "The audit log is only read.",
        429: "The token asks for more than one may; try again after the time in Retry-After.",
        503: "The store does not answer in time; try again.",
    }
    problem = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    described = {str(status): {"description": meanings[status], "content": problem} for status in statuses}
    correlation = {"X-Correlation-Id": {"description": "Finds the request in the log.", "schema": _UUID}}
    return {"200": {"description": "Found.", "headers": correlation, "content": good}, **described}


def document() -> dict[str, Any]:
    """Return the OpenAPI document, for whichever server it is read from."""
    ndjson = {"application/x-ndjson": {"schema": {"type": "string", "description": "One event a line, newest first."}}}
    usual = (400, 401, 403, 405, 429, 503)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Usher audit log",
            "version": "1",
            "description": "Who did what to whom. A token of scope `audit` sees the events of its own tenant.",
        },
        "servers": [{"url": "/"}],
        "security": [{"token": []}],
        "paths": {
            "/audit/events": {
                "get": {
                    "operationId": "searchEvents",
                    "summary": "A page of events, newest first, or with Accept: application/x-ndjson all of them",
                    "parameters": [_Q, *_PAGING, _ZONE],
                    "responses": _answers({**_json("Page"), **ndjson}, *usual),
                }
            },
            "/audit/events/{id}": {
                "get": {
                    "operationId": "getEvent",
                    "summary": "One event",
                    "parameters": [_ID, _PROOF],
                    "responses": _answers(_json("SealedEvent"), *usual, 404),
                }
            },
            "/audit/facets": {
                "get": {
                    "operationId": "countFacets",
                    "summary": f"How often each action and outcome is among the newest {MOST_COUNTED} events found",
                    "parameters": [_Q, _ZONE],
                    "responses": _answers(_json("Facets"), *usual),
                }
            },
            PATH: {
                "get": {
                    "operationId": "describe",
                    "summary": "This document",
                    "security": [],
                    "responses": _answers({"application/json": {"schema": {"type": "object"}}}, 405),
                }
            },
        },
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "description": "`ush_…`"}},
            "schemas": _SCHEMAS,
        },
    }
