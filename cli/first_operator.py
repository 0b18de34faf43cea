"""The operator that `usher up` keeps, and the link by which whoever started it signs in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from models.audit.record import OPERATOR
from models.db import open_pool
from models.links import make_link
from models.operators import add_operator, list_operators

if TYPE_CHECKING:
    from models.settings import Settings

NAME = "admin"
EMAIL = "admin@usher.localhost"


async def sign_in_url(settings: Settings) -> str | None:
    """Return a link that signs an admin in once; the first admin is added if nobody is there yet.

    Args:
        settings: of an instance that runs on this machine.

    Returns:
        The link's address, or None if every admin has been disabled.
    """
    pool = await open_pool(settings, name="up", size=1)
    try:
        async with pool.acquire() as connection:
            known = await list_operators(connection)
            if not known:
                first = await add_operator(
                    connection, name=NAME, email=EMAIL, role="admin", actor=OPERATOR, correlation_id=uuid7()
                )
                known = [first]
            admins = [one for one in known if one.role == "admin" and not one.disabled_at]
            if not admins:
                return None
            admins.sort(key=lambda one: one.name != NAME)
            token = await make_link(
                connection,
                admins[0],
                secret_key=settings.secret_key.get_secret_value(),
                actor=OPERATOR,
                correlation_id=uuid7(),
            )
            return f"{settings.pages_url}/sign-in/link/{token}"
    finally:
        await pool.close()
