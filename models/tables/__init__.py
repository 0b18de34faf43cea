"""The tables, as SQLModel classes; the migrations make them, a test holds the two together."""

from models.tables.audit import AuditEvent
from models.tables.deferred import DeferredRequest
from models.tables.group import Group, Membership
from models.tables.invitation import Invitation
from models.tables.job import Job
from models.tables.tenant import Tenant, Token
from models.tables.user import Identifier, User

__all__ = [
    "AuditEvent",
    "DeferredRequest",
    "Group",
    "Identifier",
    "Invitation",
    "Job",
    "Membership",
    "Tenant",
    "Token",
    "User",
]
