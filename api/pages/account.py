"""`/account`: what everybody may do about themselves: see and end their sessions, change their password."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from aiohttp import web
from uuid_utils.compat import uuid7

from api.keys import PAGES_POOL, PEERS, SETTINGS
from api.pages.forms import fields
from api.pages.guard import allowed, person
from api.pages.render import SESSION, page, redirect
from models.audit.record import Event, record
from models.errors import UsageError
from models.operators import target
from models.passwords import SHORTEST, set_password
from models.sessions import Session, end_session, end_sessions, list_sessions
from models.sign_in import Refused, prove

_FRESH = timedelta(minutes=15)


def _is_fresh(session: Session) -> bool:
    """Tell whether the person has just signed in, which is how they prove who they are without the old password."""
    return datetime.now(UTC) - session.created_at < _FRESH


@allowed()
async def _show(request: web.Request) -> web.StreamResponse:
    session = request[SESSION]
    return await page(
        request,
        "account.html",
        sessions=await list_sessions(request.config_dict[PAGES_POOL], session.operator.id),
        here=session.id_hash,
        fresh=_is_fresh(session),
        shortest=SHORTEST,
    )


@allowed()
async def _change_password(request: web.Request) -> web.StreamResponse:
    old, new, again = await fields(request, "old", "new", "again")
    session, operator = request[SESSION], person(request)
    if new != again:
        raise UsageError("The two new passwords are not the same. Go back and type them once more.")
    if not _is_fresh(session):
        if not operator.has_password:
            raise UsageError("To set a first password, sign out and sign in again with a link.")
        refused = await prove(
            request.config_dict[PAGES_POOL],
            operator,
            old,
            secret_key=request.config_dict[SETTINGS].secret_key.get_secret_value(),
        )
        if isinstance(refused, Refused):
            raise UsageError(
                f"Too many wrong tries. Wait {refused.wait_seconds:.0f} s."
                if refused.wait_seconds
                else "The present password is wrong. Sign out and in again with a link if you have lost it."
            )
    async with request.config_dict[PAGES_POOL].acquire() as connection:
        await set_password(
            connection,
            operator,
            new,
            actor=operator.actor,
            correlation_id=uuid7(),
            keep_session=session.id_hash,
        )
    return redirect(request, "/account", "The password is changed. Other browsers were signed out.")


@allowed()
async def _end(request: web.Request) -> web.StreamResponse:
    (which,) = await fields(request, "session")
    session, operator = request[SESSION], person(request)
    async with request.config_dict[PAGES_POOL].acquire() as connection, connection.transaction():
        if which == "others":
            ended = await end_sessions(connection, operator.id, but=session.id_hash)
        else:
            own = {one.id_hash.hex(): one.id_hash for one in await list_sessions(connection, operator.id)}
            ended = int(which in own and await end_session(connection, own[which]))
        if ended:
            event = Event(
                action="auth.session.sign_out",
                phase="applied",
                actor=operator.actor,
                correlation_id=uuid7(),
                targets=[target(operator)],
                context={"peer": request.config_dict[PEERS].of(request), "sessions": ended},
            )
            await record(connection, [event])
    message = f"{ended} session{'' if ended == 1 else 's'} ended." if ended else "That session had ended already."
    return redirect(request, "/account", message)


def routes() -> list[web.AbstractRouteDef]:
    """Return the routes of this module."""
    return [
        web.get("/account", _show),
        web.post("/account/password", _change_password),
        web.post("/account/sessions/end", _end),
    ]
