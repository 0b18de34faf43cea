"""One SCIM request on its way through the front end: who sent it, for what, and what its log line will say."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models.directory.schemas import STANDARD

if TYPE_CHECKING:
    from collections.abc import Iterable
    from uuid import UUID

    from aiohttp import web

    from api.auth import Principal
    from api.limits import Use
    from api.scim.front import Front
    from models.directory.schemas import TenantSchemas
    from models.errors import HttpError

_MOST_NAMED = 20


@dataclass(slots=True)
class Call:
    """What a handler needs to know."""

    front: Front
    request: web.Request
    correlation_id: UUID
    route: str
    """The route's template, such as `/Users/{id}`; safe to log, unlike the path."""
    resource_id: str = ""
    ignored: list[str] = field(default_factory=list)
    part: tuple[UUID, int] | None = None
    """The correlation id of the bulk request that this is an operation of, and its place in it."""
    again: bool = False
    """Whether an earlier attempt may have carried it out already."""
    scim_type: str | None = None
    """Of the error that it was answered with."""
    refused: HttpError | None = None
    """Why it is not even begun."""
    use: Use | None = None
    """What its token asks of this process, once it was let in."""
    _principal: Principal | None = None

    @property
    def principal(self) -> Principal:
        """Who sent the request; only routes that need a token have one."""
        assert self._principal is not None  # noqa: S101  the dispatcher authenticates before such a route
        return self._principal

    @principal.setter
    def principal(self, value: Principal) -> None:
        self._principal = value

    @property
    def sender(self) -> Principal | None:
        """Who sent the request, if that is known."""
        return self._principal

    @property
    def schemas(self) -> TenantSchemas:
        """What resources may hold: the tenant's own schemas beside SCIM's, which is all that a stranger has."""
        return self._principal.schemas if self._principal else STANDARD

    @property
    def tenant_id(self) -> UUID | None:
        """The tenant, once the token told."""
        return self._principal.tenant_id if self._principal else None

    def note(self, ignored: Iterable[str]) -> None:
        """Have the names of attributes that were ignored logged with the request."""
        self.ignored.extend(list(ignored)[:_MOST_NAMED])

    def context(self) -> dict[str, Any]:
        """Return what an audit event says of the request: no path, no query, no body."""
        said: dict[str, Any] = {
            "method": self.request.method,
            "route": self.route,
            "ip": self.front.peers.of(self.request),
        }
        if self.part is not None:
            said["bulk"], said["operation"] = str(self.part[0]), self.part[1]
        return said
