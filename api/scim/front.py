"""What SCIM handlers reach for, gathered once: looking each up by its key again costs a tenth of a create."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from api.deadlines import Deadlines
from api.peers import Peers
from api.scim.responses import Resources
from models.scim.schema import GROUP, USER

if TYPE_CHECKING:
    import asyncpg

    from api.auth import TokenCache
    from api.denials import Denials
    from api.limits import Limits
    from api.request_log import RequestLog
    from api.scim.asynchronous import Deferrals
    from models.directory.find import UserFinder
    from models.directory.write import UserWriter
    from models.intake import Intake
    from models.settings import Settings


@dataclass(slots=True)
class Front:
    """The parts of one api process that answer SCIM."""

    settings: Settings
    pool: asyncpg.Pool
    intake: Intake
    writer: UserWriter
    finder: UserFinder
    tokens: TokenCache
    denials: Denials
    later: Deferrals
    requests: RequestLog
    limits: Limits
    users: Resources
    groups: Resources
    deadlines: Deadlines
    peers: Peers

    @classmethod
    def make(
        cls,
        settings: Settings,
        pool: asyncpg.Pool,
        intake: Intake,
        writer: UserWriter,
        finder: UserFinder,
        tokens: TokenCache,
        denials: Denials,
        later: Deferrals,
        requests: RequestLog,
        limits: Limits,
    ) -> Front:
        """Put the parts together."""
        users, groups = (Resources(settings.scim_url, each.name, each.endpoint) for each in (USER, GROUP))
        return cls(
            settings,
            pool,
            intake,
            writer,
            finder,
            tokens,
            denials,
            later,
            requests,
            limits,
            users,
            groups,
            Deadlines(settings.request_seconds),
            Peers(settings),
        )
