"""Every audited action: `area.object.verb`, or `area.object.part.verb`. A new one is a line here and its call."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Action:
    """What an action means, and how much it matters (OCSF severity: 1 informational … 5 critical)."""

    name: str
    meaning: str
    severity: int = 1


_ACTIONS = (
    Action("audit.hold.place", "A legal hold was placed: nothing of the tenant is removed or erased.", 3),
    Action("audit.hold.release", "A legal hold was released.", 3),
    Action("audit.log.export", "Audit events were exported.", 3),
    Action("audit.log.retain", "Audit events whose time was over were removed; a tombstone accounts for them.", 2),
    Action("audit.log.verify", "The audit log was verified; failed means that it was tampered with.", 2),
    Action("audit.person.erase", "The audit log's personal values of somebody were erased.", 3),
    Action("audit.stream.add", "Audit events are sent to a place outside from now on.", 3),
    Action("audit.stream.change", "A stream's destination, format, credentials or redaction were changed.", 3),
    Action("audit.stream.fail", "A stream's destination refused, or could not be reached; it is tried again.", 3),
    Action("audit.stream.pause", "A stream was paused: nothing is sent, nothing is lost.", 3),
    Action("audit.stream.recover", "A stream's destination took what was sent again.", 2),
    Action("audit.stream.remove", "A stream was removed; its destination gets nothing more.", 3),
    Action("audit.stream.resume", "A stream goes on where it was paused.", 2),
    Action("audit.stream.test", "Somebody had this very event sent to a stream's destination as a test.", 2),
    Action("auth.operator.add", "A person was added who may sign in to the pages.", 3),
    Action("auth.operator.change", "An operator's address or role was changed, or they were let in again.", 3),
    Action("auth.operator.disable", "An operator was shut out and signed out everywhere.", 3),
    Action("auth.operator.link", "A link that signs an operator in once was made.", 3),
    Action("auth.operator.password", "An operator's password was set or changed.", 3),
    Action("auth.request.deny", "A request was refused for want of a valid token or permission.", 3),
    Action("auth.session.deny", "A sign-in was refused: a wrong name or password, or a link that is used or old.", 3),
    Action("auth.session.sign_in", "An operator signed in.", 2),
    Action("auth.session.sign_out", "An operator signed out, here or everywhere."),
    Action("auth.token.issue", "A bearer token was issued.", 3),
    Action("auth.token.revoke", "A bearer token was revoked.", 3),
    Action("auth.token.rotate", "A bearer token was replaced by a new one.", 3),
    Action("invitation.address.suppress", "An address gets no more e-mail: by hand, or as its server rejected it.", 2),
    Action("invitation.address.unsuppress", "An address gets e-mail again.", 2),
    Action("invitation.email.resend", "A new invitation e-mail was asked for; the link of the earlier one ended.", 2),
    Action("invitation.email.send", "An invitation e-mail was handed to the SMTP server, or refused for good."),
    Action("invitation.link.accept", "An invited person accepted."),
    Action("job.attempt.fail", "An attempt of a job failed: it is tried again (state retry) or given up (dead).", 2),
    Action("job.attempt.rescue", "A job was taken from a worker that gave no sign of life any more.", 2),
    Action("ops.job.cancel", "A job was cancelled by hand.", 3),
    Action("ops.bulk.start", "An action on every job that matches a search was asked for.", 3),
    Action("ops.bulk.finish", "A bulk operation came to its end, was stopped or failed.", 2),
    Action("ops.job.discard", "A dead job was given up by hand, with a reason.", 3),
    Action("ops.job.retry", "A job was sent round again by hand.", 2),
    Action("ops.job.reveal", "Somebody looked at what a job carries.", 3),
    Action("ops.queue.pause", "Jobs of a kind, of a tenant or both were paused.", 3),
    Action("ops.queue.resume", "A pause was ended by hand.", 2),
    Action("ops.schedule.run", "Something that runs on a schedule was asked to run at once.", 2),
    Action("ops.worker.quiet", "A worker was told to take no more jobs.", 3),
    Action("ops.worker.unquiet", "A worker was told to take jobs again.", 2),
    Action("scim.group.create", "A group was pushed and is in the store."),
    Action("scim.group.delete", "A group was deleted; its members stay what they are."),
    Action("scim.group.member.add", "Users or groups became members of a group."),
    Action("scim.group.member.remove", "Users or groups ceased to be members of a group."),
    Action("scim.group.update", "A group's attributes were changed, or asked to be what they were (reason no_change)."),
    Action("scim.request.deny", "A SCIM request was refused."),
    Action("scim.user.create", "A user was pushed: requested when accepted, applied when in the user store."),
    Action("scim.user.delete", "A user was deleted for good; the diff has what there was."),
    Action("scim.user.disable", "A user became inactive; the diff has whatever else changed with it."),
    Action("scim.user.enable", "A user became active again; the diff has whatever else changed with it."),
    Action("scim.user.update", "A user was changed, or asked to be what they were already (reason no_change)."),
    Action("system.partition.create", "Months of the audit log were made ahead."),
    Action("system.process.start", "A process of the api or of a worker began."),
    Action("system.process.stop", "A process ended in order."),
    Action("system.schema.migrate", "The database was brought to a newer schema.", 2),
    Action("tenant.capture.change", "The capture of a tenant's request bodies was switched on or off.", 3),
    Action("tenant.settings.change", "A tenant's settings were changed.", 2),
    Action("tenant.settings.create", "A tenant was added.", 2),
)

ACTIONS: dict[str, Action] = {action.name: action for action in _ACTIONS}
