"""The tables, as SQLModel classes; the migrations make them, a test holds the two together."""

from models.tables.audit import AuditEvent
from models.tables.audit_leaving import AuditExport, AuditStream
from models.tables.audit_proof import AuditHold, AuditKey, AuditLeaves, AuditSeal
from models.tables.deferred import DeferredRequest
from models.tables.group import Group, Membership
from models.tables.invitation import Invitation
from models.tables.job import Job
from models.tables.operation import BulkOperation, JobAttempt, JobPause
from models.tables.operator import Operator, OperatorSession, SignInFailure, SignInLink
from models.tables.process import JobMinute, Process, Schedule
from models.tables.saved_view import SavedView
from models.tables.tenant import Tenant, Token
from models.tables.traffic import RequestLog, RequestMinute, Suppression
from models.tables.user import Identifier, User

__all__ = [
    "AuditEvent",
    "AuditExport",
    "AuditHold",
    "AuditKey",
    "AuditLeaves",
    "AuditSeal",
    "AuditStream",
    "BulkOperation",
    "DeferredRequest",
    "Group",
    "Identifier",
    "Invitation",
    "Job",
    "JobAttempt",
    "JobMinute",
    "JobPause",
    "Membership",
    "Operator",
    "OperatorSession",
    "Process",
    "RequestLog",
    "RequestMinute",
    "SavedView",
    "Schedule",
    "SignInFailure",
    "SignInLink",
    "Suppression",
    "Tenant",
    "Token",
    "User",
]
