"""`/admin/audit/export`: asking for an export, seeing how far it is, and fetching it while its link is good."""

from __future__ import annotations

import hmac
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import UUID

from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL, SETTINGS
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.render import page, problem, redirect
from models.audit.export import FORMATS
from models.audit.exports import LINK_LIFE, ask_export, find_export, link_token, list_exports
from models.errors import InvalidQueryError, UsageError
from models.tenants import find_tenant

if TYPE_CHECKING:
    from collections.abc import Mapping

_PAGE = "/admin/audit/export"
_EVERYBODY = ""


def _secret(request: web.Request) -> bytes:
    return request.config_dict[SETTINGS].secret_key.get_secret_value().encode()


def _links(request: web.Request, export: Mapping[str, Any]) -> dict[str, str]:
    token = link_token(_secret(request), dict(export))
    return {name: f"{_PAGE}/{export['id']}/{name}?token={token}" for name in ("file", "manifest")}


async def _show(
    request: web.Request, *, text: str, form: str, tenant: str, error: str | None = None
) -> web.StreamResponse:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        rows = await connection.fetch("SELECT id, name FROM tenant ORDER BY name")
        exports = await list_exports(connection)
    tenants = {row["id"]: row["name"] for row in rows}
    for export in exports:
        export["links"] = _links(request, export) if export["state"] == "done" else None
        export["tenant"] = tenants.get(export["tenant_id"], "all") if export["tenant_id"] else "all"
    return await page(
        request,
        "admin/audit_export.html",
        status=400 if error else 200,
        query=text,
        form=form,
        formats=FORMATS,
        tenant=tenant,
        tenants=[_EVERYBODY, *tenants.values()],
        exports=exports,
        error=error,
        life=LINK_LIFE,
        can_write=request.config_dict[SETTINGS].audit_export_dir is not None,
    )


@allowed("export_audit")
async def _ask(request: web.Request) -> web.StreamResponse:
    return await _show(request, text=request.query.get("q", ""), form="jsonl", tenant=_EVERYBODY)


@allowed("export_audit")
async def _stage(request: web.Request) -> web.StreamResponse:
    try:
        text, form, tenant = await fields(request, "q", "format", "tenant")
    except UsageError as error:
        return problem(request, 400, error.detail)
    if request.config_dict[SETTINGS].audit_export_dir is None:
        return problem(
            request, 409, "Exports need USHER_AUDIT_EXPORT_DIR; until then `usher audit export` writes them."
        )
    try:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            tenant_id = (await find_tenant(connection, tenant))["id"] if tenant else None
            await ask_export(
                connection,
                text=text,
                form=form,
                tenant_id=tenant_id,
                actor=person(request).actor,
                correlation_id=uuid7(),
            )
    except (InvalidQueryError, UsageError) as error:
        return await _show(request, text=text, form=form, tenant=tenant, error=error.detail)
    return redirect(request, _PAGE, message="The export was asked for; it stands below when it is done.")


@allowed("export_audit")
async def _fetch(request: web.Request) -> web.StreamResponse:
    try:
        export_id = UUID(request.match_info["id"])
    except ValueError:
        return problem(request, 404, "There is no such export.")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        export = await find_export(connection, export_id)
    if export is None:
        return problem(request, 404, "There is no such export.")
    if not export["open"]:
        return problem(request, 410, "The link is over. Ask for the export again.")
    if not hmac.compare_digest(link_token(_secret(request), export), request.query.get("token", "")):
        return problem(request, 403, "The link is not whole; take it from the page of exports.")
    path = Path(export["path"])
    if request.match_info["part"] == "manifest":
        path = path.with_name(f"{path.name}.manifest.json")
    if not path.is_file():
        return problem(request, 404, "The file is not here: api and worker must share USHER_AUDIT_EXPORT_DIR.")
    headers = {
        "Content-Disposition": f'attachment; filename="{path.name}"',
        "Cache-Control": "no-store",
        "X-Content-Type-Options": "nosniff",
    }
    return web.FileResponse(path, headers=headers)


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this page."""
    return [
        web.get(_PAGE, _ask),
        web.post(_PAGE, _stage),
        web.get(_PAGE + "/{id}/{part:file|manifest}", _fetch),
    ]
