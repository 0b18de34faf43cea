"""`usher worker` that meets what no job should do: a stand-in for `cli.main`, for the experiments of P7.

What a create does to its worker stands in its `nickName`: raises, hangs, devours memory under a limit, kills.
"""

from __future__ import annotations

import asyncio
import os
import resource
from dataclasses import replace
from typing import TYPE_CHECKING

from cli.main import main
from models.jobs import KINDS
from worker import runner
from worker.handlers import HANDLERS, create

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence
    from uuid import UUID

    from models.jobs import Job
    from worker.context import Context

STATUS = 41
"""Exit status of a worker that a job killed."""
ATTEMPTS = 3
_GIGABYTE = 1 << 30


async def _run(context: Context, jobs: Sequence[Job], lease_token: UUID) -> Collection[UUID]:
    for job in jobs:
        poison = job.payload["doc"].get("nickName")
        if poison == "raises":
            raise ValueError("a value that nobody expects")
        if poison == "hangs":
            await asyncio.sleep(3600)
        if poison == "devours":
            bytearray(2 * _GIGABYTE)
        if poison == "kills":
            os._exit(STATUS)
    return await create.HANDLER.run(context, jobs, lease_token)


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (2 * _GIGABYTE, 2 * _GIGABYTE))
    runner._JOB_SECONDS = 1.0
    KINDS["user.create"] = replace(KINDS["user.create"], max_attempts=ATTEMPTS, first_delay_seconds=0.3)
    HANDLERS["user.create"] = replace(create.HANDLER, run=_run)
    main()
