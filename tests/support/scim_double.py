"""A tiny SCIM server in memory that answers as Entra expects; tests make it answer otherwise."""

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
from models.errors import ClientError, InvalidValueError, NotFoundError, UniquenessError
from models.scim.patch import apply_operations, apply_patch
from models.scim.patch_members import split_member_operations
from models.scim.schema import GROUP as GROUP_SCHEMA
from models.scim.schema import USER as USER_SCHEMA

TOKEN = "secret"
GROUP = "urn:ietf:params:scim:schemas:core:2.0:Group"
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


Doc = dict[str, Any]


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
        self.lists_groups = groups
        self.users: dict[str, Doc] = {}
        self.groups: dict[str, Doc] = {}
        self.members: dict[str, set[str]] = {}
        self.requests: list[web.Request] = []
        self.bodies: list[Any] = []
        self.app = web.Application()
        self.app.router.add_route("*", "/scim/v2/{rest:.*}", self._answer)

    async def _answer(self, request: web.Request) -> web.Response:
        self.requests.append(request)
        body = await request.read()
        self.bodies.append(json.loads(body) if body else None)
        if request.headers.get("Authorization") != f"Bearer {self.token}":
            reply = self._error(401, "A valid bearer token is required.")
        else:
            try:
                reply = self._route(request, self.bodies[-1])
            except ClientError as error:
                reply = Reply(error.status, error.body())
        if self.alter:
            self.alter(request, reply)
        headers = {"Content-Type": "application/scim+json", **reply.headers}
        sent = b"" if reply.doc is None else json.dumps(reply.doc).encode()
        return web.Response(status=reply.status, body=sent, headers=headers)

    def _route(self, request: web.Request, body: Any) -> Reply:
        kind, _, resource_id = request.match_info["rest"].partition("/")
        discovery = {
            "ServiceProviderConfig": self._service_provider_config,
            "Schemas": self._schemas,
            "ResourceTypes": self._resource_types,
        }
        if kind in discovery:
            return discovery[kind]()
        store = {"Users": self.users, "Groups": self.groups}[kind]
        if resource_id:
            if resource_id not in store:
                raise NotFoundError("There is none with this id.")
            return self._one(request, kind, store[resource_id], body)
        if request.method == "POST":
            return self._create_user(request, body) if kind == "Users" else self._create_group(request, body)
        found = [doc for doc in store.values() if self._matches(doc, request.query.get("filter"))]
        return self._list([self._seen(request, doc) for doc in found], request)

    def _one(self, request: web.Request, kind: str, doc: Doc, body: Any) -> Reply:
        if request.method == "GET":
            return self._resource(200, self._seen(request, doc))
        if request.method == "DELETE":
            (self.users if kind == "Users" else self.groups).pop(doc["id"])
            self.members.pop(doc["id"], None)
            for members in self.members.values():
                members.discard(doc["id"])
            return Reply(204, None)
        if kind == "Users":
            self._patch_user(doc, body)
            return self._resource(200, self._seen(request, doc))
        self._patch_group(doc, body)
        return Reply(204, None)

    def _create_user(self, request: web.Request, raw: Doc) -> Reply:
        doc = returned(_canonical(raw))
        doc.pop(CUSTOM, None)  # a server that does not know this extension
        self._refuse_taken(self.users, "userName", doc)
        return self._add(request, "User", self.users, doc)

    def _create_group(self, request: web.Request, raw: Doc) -> Reply:
        doc = {"schemas": [GROUP], "displayName": raw["displayName"], "externalId": raw["externalId"]}
        self._refuse_taken(self.groups, "displayName", doc)
        reply = self._add(request, "Group", self.groups, doc)
        self.members[reply.doc["id"]] = set()
        return reply

    def _add(self, request: web.Request, kind: str, store: dict[str, Doc], doc: Doc) -> Reply:
        resource_id = str(uuid.uuid4())
        location = str(request.url.origin() / f"scim/v2/{kind}s" / resource_id)
        doc["id"] = resource_id
        doc["meta"] = {
            "resourceType": kind,
            "created": "2026-01-02T03:04:05Z",
            "lastModified": "2026-01-02T03:04:05Z",
            "location": location,
            "version": 'W/"1"',
        }
        store[resource_id] = doc
        reply = self._resource(201, doc)
        reply.headers["Location"] = location
        return reply

    def _patch_user(self, doc: Doc, body: Any) -> None:
        kept = {name: item for name, item in doc.items() if name not in ("id", "meta")}
        patched = apply_patch(kept, body, USER_SCHEMA)
        manager = _manager(patched.doc)
        if manager != _manager(kept) and manager is not None and manager not in self.users:
            raise InvalidValueError("manager is nobody's id.")
        self._refuse_taken(self.users, "userName", patched.doc | {"id": doc["id"]})
        self._write(doc, patched.doc, changed=patched.changed)

    def _patch_group(self, doc: Doc, body: Any) -> None:
        changes, rest = split_member_operations(body)
        kept = {name: item for name, item in doc.items() if name not in ("id", "meta")}
        patched = apply_operations(kept, rest, GROUP_SCHEMA)
        self._refuse_taken(self.groups, "displayName", patched.doc | {"id": doc["id"]})
        added = {member.value for member in changes.add}
        if unknown := added - self.users.keys():
            raise InvalidValueError(f"There is no {', '.join(sorted(unknown))}.")
        old = self.members[doc["id"]]
        new = (set() if changes.replace else old - changes.remove) | added
        self.members[doc["id"]] = new
        self._write(doc, patched.doc, changed=patched.changed or old != new)

    def _write(self, doc: Doc, new: Doc, *, changed: bool) -> None:
        if not changed:
            return
        kept = {"id": doc["id"], "meta": doc["meta"]}
        version = int(doc["meta"]["version"][3:-1]) + 1
        kept["meta"] |= {"version": f'W/"{version}"', "lastModified": "2026-02-02T03:04:05Z"}
        doc.clear()
        doc.update(new | kept)

    def _refuse_taken(self, store: dict[str, Doc], name: str, doc: Doc) -> None:
        for other in store.values():
            if other["id"] != doc.get("id") and _key(other[name]) == _key(doc[name]):
                raise UniquenessError(f"The {name} is taken.")

    def _seen(self, request: web.Request, doc: Doc) -> Doc:
        """Return a resource with the rows that belong to it, as far as they are asked for."""
        resource_id = doc["id"]
        if request.query.get("attributes") == "id":
            return {"id": resource_id, "schemas": doc["schemas"]}
        if resource_id in self.members:
            if request.query.get("excludedAttributes") == "members":
                return doc
            return doc | {"members": [{"value": each} for each in self.members[resource_id]]}
        groups = [{"value": each} for each, members in self.members.items() if resource_id in members]
        return doc | ({"groups": groups} if groups else {})

    def _matches(self, doc: Doc, filter_: str | None) -> bool:
        return filter_ is None or all(self._holds(doc, term) for term in filter_.split(" and "))

    def _holds(self, doc: Doc, term: str) -> bool:
        parsed = re.fullmatch(r'(?P<path>[\w.]+(?:\[type eq "work"\]\.value)?) eq (?P<value>".*")', term)
        assert parsed, term
        path, value = parsed["path"], json.loads(parsed["value"])
        if path in ("externalId", "id"):
            return bool(doc.get(path) == value)
        if path in ("userName", "displayName"):
            return _key(doc.get(path, "")) == _key(value)
        if path == "members":
            return str(value) in self.members[doc["id"]]
        if path == "manager":
            return bool(_manager(doc) == value)
        return any(item["type"] == "work" and _key(item["value"]) == _key(value) for item in doc.get("emails", []))

    def _resource(self, status: int, doc: Doc) -> Reply:
        return Reply(status, copy.deepcopy(doc), {"ETag": doc["meta"]["version"]})

    def _list(self, resources: list[Doc], request: web.Request | None = None) -> Reply:
        query = request.query if request else {}
        start, count = int(query.get("startIndex", 1)), int(query.get("count", 1000))
        found = copy.deepcopy(resources[start - 1 : start - 1 + count])
        counts = {"totalResults": len(resources), "startIndex": start, "itemsPerPage": len(found)}
        return Reply(200, {"schemas": [LIST_RESPONSE], **counts, "Resources": found})

    def _error(self, status: int, detail: str) -> Reply:
        return Reply(status, {"schemas": [ERROR], "status": str(status), "detail": detail})

    def _service_provider_config(self) -> Reply:
        urn = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
        scheme = {"type": "oauthbearertoken", "name": "Bearer", "description": "A Secret Token."}
        features = {name: {"supported": True} for name in ("filter", "patch")}
        return Reply(200, {"schemas": [urn], **features, "authenticationSchemes": [scheme]})

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
        if self.lists_groups:
            types.append({"id": "Group", "endpoint": "/Groups", "schema": GROUP})
        return self._list(types)


def _manager(doc: Doc) -> str | None:
    manager: str | None = doc.get(ENTERPRISE, {}).get("manager", {}).get("value")
    return manager


def _key(value: str) -> str:
    return unicodedata.normalize("NFC", value).casefold()


def _canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            name if ":" in name else _CANONICAL.get(name.lower(), name): _canonical(item)
            for name, item in value.items()
        }
    return [_canonical(item) for item in value] if isinstance(value, list) else value
