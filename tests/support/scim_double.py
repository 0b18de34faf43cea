"""A tiny SCIM server that keeps users in memory and answers as Entra expects; tests make it answer otherwise."""

from __future__ import annotations

import copy
import json
import re
import unicodedata
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from cli.simulate.body import CUSTOM, ENTERPRISE, USER, returned

TOKEN = "secret"
LIST_RESPONSE = "urn:ietf:params:scim:api:messages:2.0:ListResponse"
ERROR = "urn:ietf:params:scim:api:messages:2.0:Error"

_ATTRIBUTES = (
    "active",
    "addresses",
    "costObject",
    "department",
    "displayName",
    "emails",
    "employeeNumber",
    "externalId",
    "familyName",
    "formatted",
    "givenName",
    "honorificPrefix",
    "id",
    "locality",
    "manager",
    "meta",
    "name",
    "phoneNumbers",
    "postalCode",
    "preferredLanguage",
    "primary",
    "roles",
    "schemas",
    "title",
    "type",
    "userName",
    "value",
)
_CANONICAL = {name.lower(): name for name in _ATTRIBUTES}


@dataclass
class Reply:
    """What is about to be sent."""

    status: int
    doc: Any
    headers: dict[str, str] = field(default_factory=dict)


Alter = Callable[[web.Request, Reply], None]


class ScimDouble:
    """The server; ``alter`` may change every reply before it goes out."""

    def __init__(self, token: str = TOKEN, alter: Alter | None = None, *, groups: bool = False) -> None:
        self.token = token
        self.alter = alter
        self.groups = groups
        self.users: dict[str, dict[str, Any]] = {}
        self.requests: list[web.Request] = []
        self.app = web.Application()
        self.app.router.add_route("*", "/scim/v2/{rest:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        body = await request.read()
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            reply = self._error(401, "A valid bearer token is required.")
        else:
            reply = self._route(request, body)
        if self.alter:
            self.alter(request, reply)
        headers = {"Content-Type": "application/scim+json", **reply.headers}
        return web.Response(status=reply.status, body=json.dumps(reply.doc).encode(), headers=headers)

    def _route(self, request: web.Request, body: bytes) -> Reply:
        rest = request.match_info["rest"]
        if rest == "Users" and request.method == "POST":
            return self._create(request, json.loads(body))
        if rest in ("Users", "Groups"):
            return self._list(self._matching(request.query["filter"]))
        if rest.startswith("Users/"):
            doc = self.users.get(rest.removeprefix("Users/"))
            return self._resource(200, doc) if doc else self._error(404, "There is no such user.")
        discovery = {
            "ServiceProviderConfig": self._service_provider_config,
            "Schemas": self._schemas,
            "ResourceTypes": self._resource_types,
        }
        return discovery[rest]() if rest in discovery else self._error(404, "There is no such route.")

    def _create(self, request: web.Request, raw: dict[str, Any]) -> Reply:
        doc = returned(_canonical(raw))
        doc.pop(CUSTOM, None)  # a server that does not know this extension
        if self._matching(f"userName eq {json.dumps(doc['userName'])}"):
            return self._error(409, "The userName is taken.", "uniqueness")
        user_id = str(uuid.uuid4())
        location = str(request.url.origin() / "scim/v2/Users" / user_id)
        doc["id"] = user_id
        doc["meta"] = {
            "resourceType": "User",
            "created": "2026-01-02T03:04:05Z",
            "lastModified": "2026-01-02T03:04:05Z",
            "location": location,
            "version": 'W/"1"',
        }
        self.users[user_id] = doc
        reply = self._resource(201, doc)
        reply.headers["Location"] = location
        return reply

    def _matching(self, filter_: str) -> list[dict[str, Any]]:
        parsed = re.fullmatch(r'(?P<path>[\w.]+(?:\[type eq "work"\]\.value)?) eq (?P<value>".*")', filter_)
        assert parsed, filter_
        value = json.loads(parsed["value"])
        return [doc for doc in self.users.values() if _holds(doc, parsed["path"], value)]

    def _resource(self, status: int, doc: dict[str, Any]) -> Reply:
        return Reply(status, copy.deepcopy(doc), {"ETag": doc["meta"]["version"]})

    def _list(self, resources: list[dict[str, Any]]) -> Reply:
        found = copy.deepcopy(resources)
        doc = {"schemas": [LIST_RESPONSE], "totalResults": len(found), "startIndex": 1, "itemsPerPage": len(found)}
        return Reply(200, doc | {"Resources": found})

    def _error(self, status: int, detail: str, scim_type: str | None = None) -> Reply:
        doc = {"schemas": [ERROR], "status": str(status), "detail": detail}
        return Reply(status, doc | ({"scimType": scim_type} if scim_type else {}))

    def _service_provider_config(self) -> Reply:
        urn = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
        scheme = {"type": "oauthbearertoken", "name": "Bearer", "description": "A Secret Token."}
        return Reply(200, {"schemas": [urn], "filter": {"supported": True}, "authenticationSchemes": [scheme]})

    def _schemas(self) -> Reply:
        names = (
            "userName",
            "active",
            "displayName",
            "name",
            "emails",
            "title",
            "preferredLanguage",
            "addresses",
            "phoneNumbers",
        )
        plain = {"type": "string", "mutability": "readWrite", "returned": "default", "uniqueness": "none"}
        sub = {"name": "value", **plain}
        user = {"id": USER, "attributes": [{"name": name, **plain, "subAttributes": [sub]} for name in names]}
        return self._list([user, {"id": ENTERPRISE, "attributes": [{"name": "department", **plain}]}])

    def _resource_types(self) -> Reply:
        types = [{"id": "User", "endpoint": "/Users", "schema": USER}]
        if self.groups:
            types.append(
                {"id": "Group", "endpoint": "/Groups", "schema": "urn:ietf:params:scim:schemas:core:2.0:Group"}
            )
        return self._list(types)


def _holds(doc: dict[str, Any], path: str, value: str) -> bool:
    if path == "externalId":
        return bool(doc.get("externalId") == value)
    if path == "userName":
        return _key(doc["userName"]) == _key(value)
    if path == 'emails[type eq "work"].value':
        return any(item["type"] == "work" and _key(item["value"]) == _key(value) for item in doc.get("emails", []))
    return False  # displayName of groups, of which there are none


def _key(value: str) -> str:
    return unicodedata.normalize("NFC", value).casefold()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name if ":" in name else _CANONICAL.get(name.lower(), name): _canonical(item)
            for name, item in value.items()
        }
    return [_canonical(item) for item in value] if isinstance(value, list) else value
