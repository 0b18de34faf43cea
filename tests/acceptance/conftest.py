from __future__ import annotations

from typing import TYPE_CHECKING

import pytest_asyncio

from tests.support.api import Api, Caller, fresh_settings, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.support.servers import Servers


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def api(servers: Servers) -> AsyncIterator[Api]:
    """A front end of the module's own, with no worker; for tests of the module's event loop."""
    async with fresh_settings(servers) as settings, serving(settings) as served:
        yield served


@pytest_asyncio.fixture(loop_scope="module")
async def caller(api: Api) -> Caller:
    """A client of a tenant of the test's own."""
    return await api.caller()
