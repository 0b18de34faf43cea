"""Entra's job restarted with a full reset: everything is matched again and written once more, and nothing changes.

Source: entra-cases.md 147, entra-wire.md §10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cli.simulate import group_life
from cli.simulate.body import ENTERPRISE
from cli.simulate.changes import Change, operations, spoken, value_at
from cli.simulate.group_body import add_members, rename

if TYPE_CHECKING:
    from cli.simulate.group_body import Group
    from cli.simulate.job import Account, Job

_MAPPED = (
    "userName",
    "externalId",
    "active",
    "displayName",
    "name.givenName",
    "name.familyName",
    "title",
    "preferredLanguage",
    'emails[type eq "work"].value',
    'phoneNumbers[type eq "mobile"].value',
    'addresses[type eq "work"].locality',
    f"{ENTERPRISE}:department",
    f"{ENTERPRISE}:employeeNumber",
)
_KNOWN_MEMBERS = 5


async def match_user_again(job: Job, account: Account) -> None:
    """Find a user, write every mapped attribute that it has as it is, and see that its ``meta`` stays."""
    await job.find("restart: match", account)
    same = [Change(path, value) for path in _MAPPED if (value := value_at(account.expected, path)) is not None]
    said = spoken(job.dialect, account.number)
    await job.patch("restart: update", account, operations(same, account.expected, said), account.expected)


async def match_group_again(job: Job, group: Group) -> None:
    """Find a group, write its name and some of its members again, and see that its ``meta`` stays."""
    said = spoken(job.dialect, group.number)
    await group_life.find(job, group)
    await group_life.read(job, group)
    await group_life.patch(job, "restart: group", group, rename(group.display_name, said, whole=False))
    if known := sorted(group.members)[:_KNOWN_MEMBERS]:
        await group_life.patch(job, "restart: group", group, add_members(known, said))
    await group_life.read(job, group, unchanged=True)
