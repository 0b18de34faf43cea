"""Bulk requests (RFC 7644 §3.7) as documents: reading their operations, and the references between them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from models.errors import ClientError, InvalidSyntaxError, InvalidValueError, TooLargeError
from models.scim.json import kind_of

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

BULK_REQUEST = "urn:ietf:params:scim:api:messages:2.0:BulkRequest"
BULK_RESPONSE = "urn:ietf:params:scim:api:messages:2.0:BulkResponse"
PATCH_OP = "urn:ietf:params:scim:api:messages:2.0:PatchOp"
_ENDPOINTS = {"users": "Users", "groups": "Groups"}
_METHODS = ("POST", "PUT", "PATCH", "DELETE")
_MARK = "bulkId:"
_QUOTED = re.compile(r'"bulkId:([^"\\]+)"')  # in the filter of a PATCH path


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a bulk request."""

    index: int
    """Its place in the request, from 0."""
    method: str
    bulk_id: str | None
    path: tuple[str, ...]
    """The endpoint and, but for POST, the id of a resource or a reference to one; empty when it is wrong."""
    version: str | None
    data: Any
    error: ClientError | None
    """Why it cannot be carried out at all."""

    @property
    def creates(self) -> str | None:
        """The bulkId that others can refer to."""
        return self.bulk_id if self.method == "POST" else None

    def references(self) -> set[str]:
        """Return the bulkIds that its data and its path refer to."""
        found: set[str] = set()

        def note(bulk_id: str) -> None:
            found.add(bulk_id)

        _replace([*self.path, self.data], note)
        return found


def read_bulk(body: Mapping[str, Any], *, max_operations: int) -> tuple[int | None, list[Operation]]:
    """Read a bulk request; names of members in any letter case.

    Args:
        body: the parsed body.
        max_operations: how many operations are taken.

    Returns:
        After how many errors to stop, or None; and the operations. What is wrong with a single one is told by its
        `error`, since the others are carried out all the same.

    Raises:
        InvalidSyntaxError: it is not a bulk request.
        InvalidValueError: ``failOnErrors`` is not a number of errors.
        TooLargeError: there are more operations than are allowed.
    """
    members = {name.lower(): value for name, value in body.items()}
    operations, limit = members.get("operations"), members.get("failonerrors")
    if not isinstance(operations, list) or not operations:
        raise InvalidSyntaxError("A bulk request needs Operations: a list of at least one operation.")
    if len(operations) > max_operations:
        raise TooLargeError(f"The bulk request has {len(operations)} operations; maxOperations is {max_operations}.")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise InvalidValueError("failOnErrors must be a whole number from 1.")
    taken: set[str] = set()
    return limit, [_read_operation(item, index, taken) for index, item in enumerate(operations)]


def _read_operation(item: Any, index: int, taken: set[str]) -> Operation:
    where = f"Operation {index + 1}"
    if not isinstance(item, dict):
        raise InvalidSyntaxError(f"{where} must be a JSON object, not {kind_of(item)}.")
    members = {name.lower(): value for name, value in item.items()}
    method = members.get("method")
    if not isinstance(method, str) or method.upper() not in _METHODS:
        raise InvalidSyntaxError(f"{where}: method must be one of {', '.join(_METHODS)}.")
    method = method.upper()
    bulk_id, version = members.get("bulkid"), members.get("version")
    path: tuple[str, ...] = ()
    error: ClientError | None = None
    try:
        path = _read_path(members.get("path"), method)
        _check(method, bulk_id, version, members, taken)
    except ClientError as caught:
        error = caught
    known = bulk_id if isinstance(bulk_id, str) else None
    if known is not None and method == "POST":
        taken.add(known)
    return Operation(
        index, method, known, path, version if isinstance(version, str) else None, members.get("data"), error
    )


def _read_path(path: Any, method: str) -> tuple[str, ...]:
    if not isinstance(path, str):
        raise InvalidSyntaxError("path is needed: an endpoint such as /Users, or a resource such as /Users/{id}.")
    parts = [part for part in path.split("/") if part]
    endpoint = _ENDPOINTS.get(parts[0].lower()) if parts else None
    if endpoint is None:
        raise InvalidValueError("path must begin with /Users or /Groups.")
    if len(parts) != (1 if method == "POST" else 2):
        raise InvalidValueError(f"The path of a {method} must be /{endpoint}{'' if method == 'POST' else '/{id}'}.")
    return (endpoint, *parts[1:])


def _check(method: str, bulk_id: Any, version: Any, members: Mapping[str, Any], taken: Collection[str]) -> None:
    if bulk_id is not None and (not isinstance(bulk_id, str) or not bulk_id):
        raise InvalidValueError("bulkId must be a string that is not empty.")
    if method == "POST" and bulk_id is None:
        raise InvalidValueError("A POST needs a bulkId.")
    if method == "POST" and bulk_id in taken:
        raise InvalidValueError("The bulkId is that of an earlier operation.")
    if version is not None and not isinstance(version, str):
        raise InvalidValueError('version must be a string such as W/"3".')
    if method != "DELETE" and not isinstance(members.get("data"), dict):
        raise InvalidSyntaxError(f"A {method} needs data: a JSON object.")


def resolve(value: Any, ids: Mapping[str, str]) -> Any:
    """Return a value with the references that ``ids`` knows replaced by the ids of what was created."""
    return _replace(value, ids.get)


def _replace(value: Any, find: Callable[[str], str | None], name: str = "") -> Any:
    """Rebuild a value, asking ``find`` for the id of each bulkId; a reference it does not know stays."""
    if isinstance(value, dict):
        return {key: _replace(item, find, key.lower()) for key, item in value.items()}
    if isinstance(value, list):
        return [_replace(item, find, name) for item in value]
    if not isinstance(value, str) or _MARK not in value:
        return value
    if name == "path":
        return _QUOTED.sub(lambda match: f'"{find(match[1]) or _MARK + match[1]}"', value)
    head, mark, bulk_id = value.rpartition(_MARK)
    if mark and bulk_id and (not head or (name == "$ref" and head.endswith("/"))):
        found = find(bulk_id)
        return value if found is None else head + found
    return value


def part(data: Mapping[str, Any], later: Collection[str]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Part a new resource into what can be created now and what can be added once others are there.

    Args:
        data: the resource.
        later: bulkIds of what is not there yet.

    Returns:
        The resource without the values that refer to these, and the PATCH operations that add them.
    """
    now: dict[str, Any] = {}
    operations: list[dict[str, Any]] = []
    for name, value in data.items():
        if name.lower().startswith("urn:") and isinstance(value, dict):
            inside, below = part(value, later)
            now[name] = inside
            operations += [{**operation, "path": f"{name}:{operation['path']}"} for operation in below]
        elif isinstance(value, list):
            waiting = [item for item in value if _refers(item, later)]
            now[name] = [item for item in value if not _refers(item, later)]
            if waiting:
                operations.append({"op": "add", "path": name, "value": waiting})
        elif _refers(value, later):
            operations.append({"op": "add", "path": name, "value": value})
        else:
            now[name] = value
    return now, operations


def _refers(value: Any, later: Collection[str]) -> bool:
    found = False

    def look(bulk_id: str) -> None:
        nonlocal found
        found = found or bulk_id in later

    _replace(value, look)
    return found
