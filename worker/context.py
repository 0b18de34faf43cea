"""What every job handler is given."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from uuid_utils.compat import uuid7

from models.tally import Tally

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence
    from uuid import UUID

    import asyncpg

    from models.db import Connection
    from models.jobs import Ending, Job
    from models.settings import Settings
    from worker.smtp import SmtpPool


@dataclass(frozen=True, slots=True)
class Context:
    """The servers and settings of one worker process."""

    settings: Settings
    pool: asyncpg.Pool
    smtp: SmtpPool
    ring: Callable[[str, list[UUID]], None]
    """Wakes whoever serves a queue for these job ids, after the commit that staged them."""
    process_id: UUID = field(default_factory=uuid7)
    """What the ledger and the pages call this process."""
    tally: Tally = field(default_factory=Tally)
    """What this process did."""


@dataclass(frozen=True, slots=True)
class Handler:
    """How one kind of job is done."""

    kind: str
    run: Callable[[Context, Sequence[Job], UUID], Awaitable[Collection[UUID]]]
    """Does jobs held under a lease token, with `models.jobs.finish` in the transaction of the effect.

    All of them or none: when it raises, nothing may have happened to any. Returns the ids of those that it ended;
    the lease of the others was lost, and they are somebody else's.
    """
    failed: Callable[[Connection, Ending], Awaitable[None]]
    """Writes, in the transaction that ends a failed attempt, what else that means (audit, states)."""
    together: bool
    """Whether ``run`` wants many jobs at once; if not, it gets one job a call, several calls at a time."""
