"""What this server tells of itself (RFC 7644 §4, RFC 7643 §5 to §7), derived from what it does."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import scim2_models

from models.scim.schema import COMMON, GROUP, SCHEMA_URN, USER

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from models.scim.schema import Attribute, ResourceSchema

_CONFIG_URN: Final = "urn:ietf:params:scim:schemas:core:2.0:ServiceProviderConfig"
ASYNC_EVENT: Final = "urn:ietf:params:scim:event:misc:asyncresp"
_RESOURCE_TYPE_URN: Final = "urn:ietf:params:scim:schemas:core:2.0:ResourceType"
_BEARER: Final = {
    "type": "oauthbearertoken",
    "name": "OAuth Bearer Token",
    "description": "The Secret Token of the connection, sent in the Authorization header",
    "specUri": "https://www.rfc-editor.org/info/rfc6750",
    "primary": True,
}
# The schemas of the discovery resources themselves (RFC 7643 §8.7.2).
_DISCOVERY: Final = (scim2_models.ServiceProviderConfig, scim2_models.ResourceType, scim2_models.Schema)
_LISTED_COMMON: Final = ("id", "externalid")
# Not in RFC 7643 §4.2 either: what a client calls a member is taken and not kept.
_NOT_KEPT: Final = frozenset({f"{GROUP.urn}:members.display"})


def service_provider_config(
    base_url: str,
    *,
    max_results: int,
    max_payload: int,
    max_operations: int = 0,
    patch: bool = False,
    bulk: bool = False,
    filtering: bool = True,
    change_password: bool = False,
    sort: bool = False,
    etag: bool = True,
    async_requests: bool = False,
    page_size: int | None = None,
    cursor_seconds: int | None = None,
) -> dict[str, Any]:
    """Return the ServiceProviderConfig (RFC 7643 §5; paging as of RFC 9865 §4).

    Args:
        base_url: The public SCIM base URL, without a trailing slash.
        max_results: Most resources on one page.
        max_payload: Longest body, in bytes.
        max_operations: Most operations in one bulk request.
        patch: Whether PATCH works.
        bulk: Whether ``/Bulk`` works.
        filtering: Whether ``filter`` works.
        change_password: Whether a password can be set.
        sort: Whether ``sortBy`` works.
        etag: Whether answers carry an ETag and conditions are obeyed.
        async_requests: Whether to tell that a client can ask for a write to be carried out later (RFC 9967).
        page_size: Resources on a page when the request names no count.
        cursor_seconds: How long a cursor is good for; None when cursor paging does not work. Index paging always does.
    """
    pagination = {
        "cursor": cursor_seconds is not None,
        "index": True,
        "defaultPaginationMethod": "index",
        "defaultPageSize": page_size,
        "maxPageSize": max_results,
        "cursorTimeout": cursor_seconds,
    }
    return {
        "schemas": [_CONFIG_URN],
        "patch": {"supported": patch},
        "bulk": {"supported": bulk, "maxOperations": max_operations, "maxPayloadSize": max_payload},
        "filter": {"supported": filtering, "maxResults": max_results},
        "changePassword": {"supported": change_password},
        "sort": {"supported": sort},
        "etag": {"supported": etag},
        **({"securityEvents": {"asyncRequest": "request", "eventUris": [ASYNC_EVENT]}} if async_requests else {}),
        "pagination": {name: value for name, value in pagination.items() if value is not None},
        "authenticationSchemes": [dict(_BEARER)],
        "meta": _meta("ServiceProviderConfig", f"{base_url}/ServiceProviderConfig"),
    }


def resource_types(
    base_url: str, *, groups: bool = False, user: ResourceSchema = USER, group: ResourceSchema = GROUP
) -> list[dict[str, Any]]:
    """Return the ResourceType documents (RFC 7643 §6).

    Args:
        base_url: The public SCIM base URL, without a trailing slash.
        groups: Whether ``/Groups`` works.
        user: The tenant's User schema.
        group: The tenant's Group schema.
    """
    return [_resource_type(base_url, schema) for schema in ((user, group) if groups else (user,))]


def schemas(base_url: str, resources: Iterable[ResourceSchema]) -> list[dict[str, Any]]:
    """Return the Schema documents (RFC 7643 §7): the resources', their extensions', and those of discovery.

    There is no null in them, restricted values are listed, and the password, which Entra's validator refuses,
    is not (entra-wire.md §8, entra-cases.md 129 and 130). ``id`` and ``externalId`` are listed with the core
    attributes, as RFC 7643 §3.1 allows and Entra's comparison with its mappings needs.

    Args:
        base_url: The public SCIM base URL, without a trailing slash.
        resources: The schemas of the resource types that work.
    """
    documents: dict[str, dict[str, Any]] = {}
    for resource in resources:
        common = [resource.attributes[name] for name in _LISTED_COMMON]
        own = [item for name, item in resource.attributes.items() if name not in COMMON]
        documents[resource.urn] = _schema(resource.urn, resource.name, resource.description, [*common, *own])
        for extension in resource.extensions.values():
            documents[extension.urn] = _schema(
                extension.urn,
                extension.name,
                extension.description,
                extension.attributes.values(),
            )
    for model in _DISCOVERY:
        document = model.to_schema().model_dump()
        documents[document["id"]] = document
    return [{**document, "meta": _meta("Schema", f"{base_url}/Schemas/{urn}")} for urn, document in documents.items()]


def _resource_type(base_url: str, schema: ResourceSchema) -> dict[str, Any]:
    return {
        "schemas": [_RESOURCE_TYPE_URN],
        "id": schema.name,
        "name": schema.name,
        "description": schema.description,
        "endpoint": schema.endpoint,
        "schema": schema.urn,
        "schemaExtensions": [
            {"schema": extension.urn, "required": extension.required} for extension in schema.extensions.values()
        ],
        "meta": _meta("ResourceType", f"{base_url}/ResourceTypes/{schema.name}"),
    }


def _meta(resource_type: str, location: str) -> dict[str, Any]:
    return {"resourceType": resource_type, "location": location}


def _schema(urn: str, name: str, description: str, attributes: Iterable[Attribute]) -> dict[str, Any]:
    named = {"name": name or urn, "description": description or name or urn}
    return {"schemas": [SCHEMA_URN], "id": urn, **named, "attributes": list(_attributes(attributes, f"{urn}:"))}


def _attributes(attributes: Iterable[Attribute], prefix: str) -> Iterator[dict[str, Any]]:
    for attribute in attributes:
        path = f"{prefix}{attribute.name}"
        if attribute.returned == "never" or path in _NOT_KEPT:
            continue
        document: dict[str, Any] = {
            "name": attribute.name,
            "type": attribute.type,
            "multiValued": attribute.multi_valued,
            "description": attribute.description or attribute.name,
            "required": attribute.required,
            "caseExact": attribute.case_exact,
            "mutability": attribute.mutability,
            "returned": attribute.returned,
            "uniqueness": attribute.uniqueness,
        }
        if attribute.canonical_values:
            document["canonicalValues"] = list(attribute.canonical_values)
        if attribute.reference_types:
            document["referenceTypes"] = list(attribute.reference_types)
        if attribute.sub_attributes:
            document["subAttributes"] = list(_attributes(attribute.sub_attributes.values(), f"{path}."))
        yield document
