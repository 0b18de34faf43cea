"""`usher schema`: extension schemas that a tenant defines."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003  typer reads annotations when it runs
from typing import TYPE_CHECKING, Annotated, Any

import typer
from uuid_utils.compat import uuid7

from cli.show import Json, print_json, print_table
from cli.store import with_store
from models.audit.record import OPERATOR
from models.directory import schemas
from models.errors import ClientError, UsageError
from models.scim.json import object_body
from models.tenants import find_tenant

if TYPE_CHECKING:
    from models.db import Connection
    from models.directory.schemas import Defined
    from models.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Add, list, show and remove a tenant's own schemas.")

_DEPTH = 16
_COLUMNS = ("urn", "resource", "name", "attributes", "held_by")
_ATTRIBUTE_COLUMNS = ("attribute", "type", "multi_valued", "required", "case_exact", "mutability", "description")

Tenant = Annotated[str, typer.Argument(help="Short name of the tenant.")]
Urn = Annotated[str, typer.Argument(help="The schema's URN.")]
Force = Annotated[bool, typer.Option("--force", help="Even if users or groups hold values of it.")]


def _read(file: Path) -> dict[str, Any]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    if len(content) > schemas.MOST_BYTES:
        raise UsageError(f"{file} is longer than {schemas.MOST_BYTES} bytes.")
    try:
        return object_body(content, max_depth=_DEPTH)
    except ClientError as error:
        raise UsageError(f"{file}: {error.detail}") from error


def _row(defined: Defined, held_by: int) -> dict[str, Any]:
    extension = defined.extension
    return {
        "urn": defined.urn,
        "resource": defined.resource,
        "name": extension.name,
        "attributes": len(extension.attributes),
        "held_by": held_by,
    }


@app.command("add")
def add(
    tenant: Tenant,
    file: Annotated[Path, typer.Argument(help="A SCIM Schema document (RFC 7643 §7) as JSON.")],
    resource: Annotated[str, typer.Option(help="User or Group: whose attributes it adds.")] = "User",
    replace: Annotated[bool, typer.Option("--replace", help="Put it in the place of the one with its URN.")] = False,
    force: Force = False,
    as_json: Json = False,
) -> None:
    """Define attributes of a tenant's own; every process knows them within 5 seconds."""
    document = _read(file)

    async def work(connection: Connection, _: Settings) -> Defined:
        return await schemas.add_schema(
            connection,
            await find_tenant(connection, tenant),
            resource.capitalize(),
            document,
            replace=replace,
            force=force,
            actor=OPERATOR,
            correlation_id=uuid7(),
        )

    defined = with_store(work)
    if as_json:
        print_json(defined.as_listed())
    else:
        print(f"{defined.urn} is defined for the {defined.resource.lower()}s of {tenant}.")


@app.command("list")
def list_(tenant: Tenant, as_json: Json = False) -> None:
    """List a tenant's own schemas, and how many users or groups hold values of each."""

    async def work(connection: Connection, _: Settings) -> list[dict[str, Any]]:
        row = await find_tenant(connection, tenant)
        return [
            _row(defined, await schemas.count_carriers(connection, row["id"], defined))
            for defined in await schemas.list_schemas(connection, row["id"])
        ]

    rows = with_store(work)
    if as_json:
        print_json(rows)
    else:
        print_table(_COLUMNS, rows, empty="No schemas of its own. `usher schema add` adds one.", shorten=("name",))


def _lines(attributes: list[dict[str, Any]], prefix: str = "") -> list[dict[str, Any]]:
    lines = []
    for attribute in attributes:
        name = f"{prefix}{attribute['name']}"
        lines.append(
            {
                "attribute": name,
                "type": attribute["type"],
                "multi_valued": attribute["multiValued"],
                "required": attribute["required"],
                "case_exact": attribute["caseExact"],
                "mutability": attribute["mutability"],
                "description": attribute["description"],
            }
        )
        lines += _lines(attribute.get("subAttributes", []), f"{name}.")
    return lines


@app.command("show")
def show(tenant: Tenant, urn: Urn, as_json: Json = False) -> None:
    """Show the attributes of a schema; --json has it as `/Schemas` does."""

    async def work(connection: Connection, _: Settings) -> Defined:
        row = await find_tenant(connection, tenant)
        return schemas.find(await schemas.list_schemas(connection, row["id"]), tenant, urn)

    document = with_store(work).as_listed()
    if as_json:
        print_json(document)
    else:
        print_table(_ATTRIBUTE_COLUMNS, _lines(document["attributes"]), empty="", shorten=("description",))


@app.command("remove")
def remove(tenant: Tenant, urn: Urn, force: Force = False, as_json: Json = False) -> None:
    """Remove a schema; what is stored under it stays until its user or group is next written."""

    async def work(connection: Connection, _: Settings) -> int:
        row = await find_tenant(connection, tenant)
        return await schemas.remove_schema(connection, row, urn, force=force, actor=OPERATOR, correlation_id=uuid7())

    held_by = with_store(work)
    if as_json:
        print_json({"urn": urn, "held_by": held_by})
    else:
        print(f"{urn} is removed." + (f" {held_by} still hold values of it." if held_by else ""))
