"""`/admin/audit/streams`: places outside that get audit events as they come; a secret is shown once, in the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from uuid import UUID

from aiohttp import web

from api.keys import PAGES_POOL, SETTINGS
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.render import page, problem, redirect
from models.audit.stream_levels import LEVELS, read_levels, split_levels, write_levels
from models.audit.stream_trouble import in_words
from models.audit.streaming import ask_test, last_test
from models.audit.streams import (
    FORMATS,
    add_stream,
    change_stream,
    find_stream,
    list_streams,
    pause_stream,
    read_secret,
    remove_stream,
    resume_stream,
)
from models.crypt import UnreadableSecretError
from models.errors import UsageError
from models.tenants import find_tenant, tenant_names

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from models.audit.streams import Stream

_PAGE = "/admin/audit/streams"
INSTALLATION = "the installation's own"
"""Stands in the list of tenants for the events that belong to none; no tenant can be called so."""


def _address(stream_id: UUID) -> str:
    return f"{_PAGE}/{stream_id}"


def _key(request: web.Request) -> str:
    return request.config_dict[SETTINGS].secret_key.get_secret_value()


def _id(request: web.Request) -> UUID:
    """Return the id in the address.

    Raises:
        HTTPNotFound: it is none.
    """
    try:
        return UUID(request.match_info["id"])
    except ValueError as error:
        raise web.HTTPNotFound from error


async def _show_list(request: web.Request, error: str | None = None, **given: str) -> web.StreamResponse:
    """Return the list with the form for another one, filled with what was given."""
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        streams = await list_streams(connection)
        names = await tenant_names(connection)
    values = {"destination": "", "tenant": request.query.get("tenant", ""), "format": FORMATS[0], "levels": "", **given}
    return await page(
        request, "admin/streams.html", status=400 if error else 200, streams=streams, tenants=[INSTALLATION, *names],
        formats=FORMATS, levels=LEVELS, in_words=in_words, given=values, error=error,
    )  # fmt: skip


@allowed("manage_streams")
async def _list(request: web.Request) -> web.StreamResponse:
    return await _show_list(request)


@allowed("manage_streams")
async def _add(request: web.Request) -> web.StreamResponse:
    names = ("destination", "tenant", "format", "levels", "credentials", "history")
    destination, tenant, form, levels, credentials, history = await fields(request, *names)
    try:
        async with request.config_dict[PAGES_POOL].acquire() as connection:
            found = await find_tenant(connection, tenant) if tenant != INSTALLATION else None
            stream, secret = await add_stream(
                connection,
                tenant_id=found["id"] if found else None,
                destination=destination.strip(),
                form=form,
                credentials=credentials or None,
                levels=read_levels(split_levels(levels)),
                history=bool(history),
                secret_key=_key(request),
                actor=person(request).actor,
            )
    except UsageError as error:
        return await _show_list(
            request, error.detail, destination=destination, tenant=tenant, format=form, levels=levels
        )
    if secret is not None:
        return await _reveal(request, stream, secret)
    return redirect(request, _address(stream.id), "The stream was added; a worker begins to send.")


async def _reveal(request: web.Request, stream: Stream, secret: str) -> web.StreamResponse:
    """Show a secret, this once: it is in no address, no cookie, and in the store only encrypted."""
    return await page(request, "admin/stream_secret.html", stream=stream, secret=secret)


async def _show_one(request: web.Request, error: str | None = None, **given: str) -> web.StreamResponse:
    """Return one stream with the form to change it, filled with what was given or else with what is."""
    stream_id = _id(request)
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        found = [stream for stream in await list_streams(connection) if stream.id == stream_id]
        if not found:
            return problem(request, 404, "There is no such stream; it may have been removed.")
        tested = await last_test(connection, found[0])
    stream = found[0]
    values = {
        "destination": stream.destination,
        "format": stream.format,
        "levels": write_levels(stream.levels),
        **given,
    }
    return await page(
        request, "admin/stream.html", status=400 if error else 200, stream=stream, tested=tested, formats=FORMATS,
        levels=LEVELS, in_words=in_words, chosen=write_levels(stream.levels), given=values, error=error,
    )  # fmt: skip


@allowed("manage_streams")
async def _show(request: web.Request) -> web.StreamResponse:
    return await _show_one(request)


async def _alter(request: web.Request, **changes: Any) -> str | None:
    """Change a stream; return its new secret if it got one.

    Raises:
        UsageError: it cannot be changed so.
    """
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        try:
            _, secret = await change_stream(
                connection, _id(request), **changes, secret_key=_key(request), actor=person(request).actor
            )
        except UnreadableSecretError as error:
            raise UsageError(
                "USHER_SECRET_KEY was changed since, and what is kept cannot be read. Make a new secret below; the"
                " credentials, if there were any, are given there too."
            ) from error
    return secret


@allowed("manage_streams")
async def _change(request: web.Request) -> web.StreamResponse:
    destination, form, levels, credentials = await fields(request, "destination", "format", "levels", "credentials")
    try:
        await _alter(
            request,
            destination=destination.strip(),
            form=form,
            levels=read_levels(split_levels(levels)),
            credentials=credentials or None,
        )
    except UsageError as error:
        return await _show_one(request, error.detail, destination=destination, format=form, levels=levels)
    return redirect(request, _address(_id(request)), "The stream was changed; it is tried again at once.")


@allowed("manage_streams")
async def _renew(request: web.Request) -> web.StreamResponse:
    (credentials,) = await fields(request, "credentials")
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        stream = await find_stream(connection, _id(request))
    try:
        try:
            read_secret(stream, _key(request))
        except UnreadableSecretError:  # what cannot be read cannot be kept
            given: str | None = credentials
        else:
            given = credentials or None
        secret = await _alter(request, renew_secret=True, credentials=given)
    except UsageError as error:
        return await _show_one(request, error.detail)
    assert secret is not None  # noqa: S101  what `renew_secret` asks for
    return await _reveal(request, stream, secret)


@allowed("manage_streams")
async def _pause(request: web.Request) -> web.StreamResponse:
    return await _act(request, pause_stream, "The stream is paused: nothing is sent, nothing is lost.")


@allowed("manage_streams")
async def _resume(request: web.Request) -> web.StreamResponse:
    return await _act(request, resume_stream, "The stream goes on where it stopped; it is tried at once.")


@allowed("manage_streams")
async def _test(request: web.Request) -> web.StreamResponse:
    return await _act(request, ask_test, "A test event was written; below stands whether it was confirmed.")


@allowed("manage_streams")
async def _remove(request: web.Request) -> web.StreamResponse:
    await _act(request, remove_stream, "")
    return redirect(request, _PAGE, "The stream was removed; its destination gets nothing more.")


async def _act(request: web.Request, action: Callable[..., Awaitable[object]], message: str) -> web.StreamResponse:
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        await action(connection, _id(request), actor=person(request).actor)
    return redirect(request, _address(_id(request)), message)


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this page."""
    acts = {"change": _change, "secret": _renew, "pause": _pause, "resume": _resume, "test": _test, "remove": _remove}
    return [
        web.get(_PAGE, _list),
        web.post(_PAGE, _add),
        web.get(_PAGE + "/{id}", _show),
        *(web.post(_PAGE + "/{id}/" + name, act) for name, act in acts.items()),
    ]
