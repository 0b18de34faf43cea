"""One file a kind of job; this registry names them all."""

from __future__ import annotations

from worker.handlers import create, invitation, operator_link

HANDLERS = {handler.kind: handler for handler in (create.HANDLER, invitation.HANDLER, operator_link.HANDLER)}

__all__ = ["HANDLERS", "create", "invitation", "operator_link"]
