"""What the commands that ask the store share: a connection, and its failures in words."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import asyncpg

from models.db import is_unavailable, open_pool
from models.errors import UsageError, UsherError
from models.settings import load_settings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from models.db import Connection
    from models.settings import Settings

Result = TypeVar("Result")

_UNMIGRATED = (asyncpg.UndefinedTableError, asyncpg.UndefinedColumnError, asyncpg.UndefinedFunctionError)
_REFUSED = (
    asyncpg.InvalidAuthorizationSpecificationError,
    asyncpg.InvalidCatalogNameError,
    asyncpg.InsufficientPrivilegeError,
)
# Also of a parameter in the URL that the server does not know, or does not let anybody set.
_PARAMETER = (
    asyncpg.UndefinedObjectError,
    asyncpg.CantChangeRuntimeParamError,
    asyncpg.InvalidParameterValueError,
)


def explain(error: BaseException) -> UsherError | None:
    """Return what a person can do about a failure of the store, or None if it is another kind of failure."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, _UNMIGRATED):
        return UsageError("The database has no Usher tables, or those of another version; run `usher migrate` first.")
    if isinstance(error, asyncpg.InvalidParameterValueError) and "role" in str(error):
        return UsageError(
            f"PostgreSQL says: {error}. `usher migrate` makes the role usher_app; USHER_DATABASE_ROLE may name another."
        )
    if isinstance(error, _REFUSED):
        return UsherError(f"PostgreSQL refuses: {error}. Is USHER_DATABASE_URL right, and USHER_DATABASE_ROLE?")
    unusable = isinstance(error, asyncpg.ClientConfigurationError | OverflowError)
    if unusable or (isinstance(error, _PARAMETER) and "parameter" in str(error)):
        return UsageError(f"USHER_DATABASE_URL is not usable: {error}")
    if is_unavailable(error):
        # asyncpg's own words, as of a server without TLS; those of the system repeat the address.
        said = str(error) if type(error) is ConnectionError else type(error).__name__
        return UsherError(f"PostgreSQL does not answer: {said}. Is USHER_DATABASE_URL right?")
    return None


def with_store(work: Callable[[Connection, Settings], Awaitable[Result]]) -> Result:
    """Run ``work`` on a connection to the store that the settings name.

    Raises:
        UsageError: a setting is missing, or the store has not been migrated.
        UsherError: the store does not answer, or refuses the login.
    """
    settings = load_settings()

    async def run() -> Result:
        pool = await open_pool(settings, name="cli", size=2)
        try:
            async with pool.acquire() as connection:
                return await work(connection, settings)
        finally:
            await pool.close()

    try:
        return asyncio.run(run())
    except Exception as error:
        explained = explain(error)
        if explained is None:
            raise
        raise explained from error
