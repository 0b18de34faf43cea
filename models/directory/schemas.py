"""Extension schemas that a tenant defines: kept with the tenant, compiled once, in force on every process in seconds.

A process knows them with the token that a request bears (`models.tokens.find_token`), so a request of a tenant
without any costs what it did, and a change reaches every process when it reads the token again.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import orjson

from models.audit.record import Event, record
from models.errors import ClientError, UsageError
from models.scim.discovery import schemas as schema_documents
from models.scim.schema import GROUP, USER, Extension, ResourceSchema

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from uuid import UUID

    import asyncpg

    from models.audit.record import Actor
    from models.db import Connection
    from models.scim.schema import Attribute

    Kept = dict[str, list[dict[str, Any]]]
    """SCIM Schema documents by resource type, as the column `tenant.schemas` has them."""

MOST_SCHEMAS = 20
MOST_BYTES = 256 * 1024
"""Longest JSON of all the schemas of a tenant: they are read with its tokens."""
_CORE = {"User": USER, "Group": GROUP}
_TABLES = {"User": "directory_user", "Group": "groups"}


@dataclass(frozen=True, slots=True)
class TenantSchemas:
    """What the resources of a tenant may hold."""

    user: ResourceSchema
    group: ResourceSchema


STANDARD = TenantSchemas(USER, GROUP)


@lru_cache(maxsize=1024)
def compile_schemas(text: str) -> TenantSchemas:
    """Return the schemas of a tenant; the same object for the same text, so that what hangs on it is cached too.

    Args:
        text: the column `tenant.schemas` as JSON.
    """
    kept: Kept = orjson.loads(text)
    if not any(kept.values()):
        return STANDARD
    return TenantSchemas(
        **{kind.lower(): core.with_extensions(kept[kind]) if kept.get(kind) else core for kind, core in _CORE.items()}
    )


@dataclass(frozen=True, slots=True)
class Defined:
    """A schema of a tenant's own."""

    resource: str
    """`User` or `Group`."""
    urn: str
    document: dict[str, Any]
    """As it was given."""

    @property
    def extension(self) -> Extension:
        """The schema, read."""
        return _extension(self.resource, self.document)

    def as_listed(self) -> dict[str, Any]:
        """Return it as `/Schemas` shows it, every characteristic written out, but without `meta`."""
        schema = _CORE[self.resource].with_extensions([self.document])
        [found] = [each for each in schema_documents("", [schema]) if each["id"] == self.urn]
        return {name: value for name, value in found.items() if name != "meta"}


def _extension(resource: str, document: Mapping[str, Any]) -> Extension:
    core = _CORE[resource]
    [added] = [each for urn, each in core.with_extensions([document]).extensions.items() if urn not in core.extensions]
    return added


async def list_schemas(connection: Connection, tenant_id: UUID) -> list[Defined]:
    """Return a tenant's own schemas, by resource type in the order in which they were added."""
    return _defined(await _read(connection, tenant_id))


async def count_carriers(connection: Connection, tenant_id: UUID, defined: Defined) -> int:
    """Return how many resources of a tenant hold attributes of a schema, creates that wait included."""
    # `schemas` of a document lists what it holds, and the index on folded documents knows it.
    query = (
        f"SELECT count(*) FROM {_TABLES[defined.resource]} WHERE tenant_id = $1"  # noqa: S608  one of two constants
        " AND usher_fold_json(doc) @> usher_fold_json(jsonb_build_object('schemas', jsonb_build_array($2::text)))"
    )
    carriers: int = await connection.fetchval(query, tenant_id, defined.urn)
    return carriers


async def add_schema(
    connection: Connection,
    tenant: Mapping[str, Any],
    resource: str,
    document: Any,
    *,
    replace: bool = False,
    force: bool = False,
    actor: Actor,
    correlation_id: UUID,
) -> Defined:
    """Define a schema for a tenant, or another version of one, and audit it.

    Args:
        connection: outside a transaction.
        tenant: the tenant's row: `id` and `name`.
        resource: `User` or `Group`.
        document: a SCIM Schema document (RFC 7643 §7).
        replace: whether a schema of this URN may be there already.
        force: whether the new version may be one that values of the old one do not fit.
        actor: who does it.
        correlation_id: for the audit log.

    Raises:
        UsageError: it is no usable schema, there are too many, the URN is taken, or stored values would not fit.
    """
    if resource not in _CORE:
        raise UsageError(f"A schema belongs to {' or '.join(_CORE)}, not to {resource}.")
    if not isinstance(document, dict):
        raise UsageError("A schema must be one JSON object: a SCIM Schema document (RFC 7643 §7).")
    document = {name: value for name, value in document.items() if name != "meta"}
    try:
        urn = _extension(resource, document).urn
    except ClientError as error:
        raise UsageError(error.detail) from error
    new = Defined(resource, urn, document)
    async with connection.transaction():
        kept = await _read(connection, tenant["id"], lock=True)
        old = next((each for each in _defined(kept) if each.urn.lower() == urn.lower()), None)
        if old is None:
            kept.setdefault(resource, []).append(document)
        else:
            await _check_replacement(connection, tenant, old, new, replace=replace, force=force)
            kept[resource] = [document if each["id"] == old.urn else each for each in kept[resource]]
        if len(_defined(kept)) > MOST_SCHEMAS or len(orjson.dumps(kept)) > MOST_BYTES:
            raise UsageError(f"A tenant can have {MOST_SCHEMAS} schemas of {MOST_BYTES} bytes together.")
        await _write(connection, tenant, kept, old, new, actor, correlation_id)
    return new


async def _check_replacement(
    connection: Connection, tenant: Mapping[str, Any], old: Defined, new: Defined, *, replace: bool, force: bool
) -> None:
    if not replace:
        raise UsageError(f"{tenant['name']} has a schema {old.urn} already; --replace puts this one in its place.")
    if old.resource != new.resource or old.urn != new.urn:
        raise UsageError(f"{old.urn} is a schema of {old.resource}; remove it first.")
    reason = _misfit(old.extension.attributes, new.extension.attributes)
    if reason is None or force:
        return
    carriers = await count_carriers(connection, tenant["id"], old)
    if carriers:
        raise UsageError(
            f"{carriers} {old.resource.lower()}s hold values of {old.urn}, and {reason}. With --force it is replaced"
            " all the same: values that do not fit are dropped or refused when their owner is next written."
        )


def _misfit(old: Mapping[str, Attribute], new: Mapping[str, Attribute]) -> str | None:
    """Return why values of some attributes may not fit others, or None if they all do."""
    for name, before in old.items():
        after = new.get(name)
        if after is None:
            return f"{before.name} would be gone"
        if (before.type, before.multi_valued) != (after.type, after.multi_valued):
            return f"{before.name} would be of another type"
        below = _misfit(before.sub_attributes, after.sub_attributes)
        if below is not None:
            return below
    for name, after in new.items():
        if after.required and not (name in old and old[name].required):
            return f"{after.name} would be required"
    return None


async def remove_schema(
    connection: Connection,
    tenant: Mapping[str, Any],
    urn: str,
    *,
    force: bool = False,
    actor: Actor,
    correlation_id: UUID,
) -> int:
    """Take a schema away and audit it; what is stored under it stays until its owner is next written.

    Args:
        connection: outside a transaction.
        tenant: the tenant's row: `id` and `name`.
        urn: which schema, in any letter case.
        force: whether resources may hold values of it.
        actor: who does it.
        correlation_id: for the audit log.

    Returns:
        How many resources hold values of it.

    Raises:
        UsageError: there is no such schema, or resources hold values of it.
    """
    async with connection.transaction():
        kept = await _read(connection, tenant["id"], lock=True)
        old = find(_defined(kept), tenant["name"], urn)
        carriers = await count_carriers(connection, tenant["id"], old)
        if carriers and not force:
            raise UsageError(
                f"{carriers} {old.resource.lower()}s hold values of {old.urn}. With --force it is removed all the same:"
                " they keep these values until they are next written."
            )
        kept[old.resource] = [each for each in kept[old.resource] if each["id"] != old.urn]
        await _write(connection, tenant, kept, old, None, actor, correlation_id)
    return carriers


def find(defined: Sequence[Defined], tenant: str, urn: str) -> Defined:
    """Return one of a tenant's schemas by its URN, in any letter case.

    Raises:
        UsageError: there is none.
    """
    for each in defined:
        if each.urn.lower() == urn.lower():
            return each
    raise UsageError(f"{tenant} has no schema {urn}. `usher schema list` shows them.")


def _defined(kept: Kept) -> list[Defined]:
    return [Defined(kind, document["id"], document) for kind in _CORE for document in kept.get(kind, ())]


async def _read(connection: Connection | asyncpg.Pool, tenant_id: UUID, *, lock: bool = False) -> Kept:
    query = f"SELECT schemas FROM tenant WHERE id = $1{' FOR NO KEY UPDATE' if lock else ''}"  # noqa: S608  constants
    kept: Kept = await connection.fetchval(query, tenant_id)
    return kept


async def _write(
    connection: Connection,
    tenant: Mapping[str, Any],
    kept: Kept,
    old: Defined | None,
    new: Defined | None,
    actor: Actor,
    correlation_id: UUID,
) -> None:
    known = old or new
    if known is None or (old and new and old.document == new.document):
        return
    await connection.execute("UPDATE tenant SET schemas = $2 WHERE id = $1", tenant["id"], kept)
    change = {"op": "replace" if old and new else "add" if new else "remove", "path": f"schemas[{known.urn}]"}
    values = {"before": old and old.document, "after": new and new.document}
    event = Event(
        action="tenant.settings.change",
        phase="applied",
        actor=actor,
        correlation_id=correlation_id,
        tenant_id=tenant["id"],
        targets=[{"type": "Tenant", "id": str(tenant["id"]), "label": tenant["name"]}],
        diff=[{**change, **{name: value for name, value in values.items() if value is not None}}],
    )
    await record(connection, [event])
