"""Nothing lost, nobody twice: what must be so after any fault, as SQL that finds whatever is not.

I1 to I10 of reference/reliability.md §5, as our tables have them. They are asked once what was accepted has been
worked off; the table `diary` holds what the driver of the experiment was answered.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

from models.audit.keys import public_file, read_signer, read_verifiers
from models.audit.seal import seal_waiting
from models.audit.verify import verify
from models.scim.schema import USER
from tests.support.replay import ReplayError, in_any_order, replay

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    import asyncpg

    from models.scim.schema import ResourceSchema
    from tests.support.diary import Diary

_SHOWN: Final = 5

# What was answered holds: I1 and I9 need the diary.
_ANSWERED: Final = {
    "I1 an acknowledged user is missing": """
        SELECT d.seq, d.returned_id FROM diary AS d
          LEFT JOIN directory_user AS u ON u.tenant_id = d.tenant AND u.id = d.returned_id
         WHERE d.status IN (200, 201) AND u.id IS NULL""",
    "I1 an acknowledged user has another name": """
        SELECT d.seq, d.returned_id FROM diary AS d
          JOIN directory_user AS u ON u.tenant_id = d.tenant AND u.id = d.returned_id
         WHERE d.status IN (200, 201) AND u.doc ->> 'userName' <> d.user_name""",
    "I1 one user was told by two ids": """
        SELECT tenant, user_name, count(DISTINCT returned_id) FROM diary WHERE status IN (200, 201)
         GROUP BY 1, 2 HAVING count(DISTINCT returned_id) > 1""",
    "I9 a user that nobody asked for": """
        SELECT u.tenant_id, u.id FROM directory_user AS u
         WHERE u.tenant_id IN (SELECT tenant FROM diary)
           AND NOT EXISTS (SELECT FROM diary AS d WHERE d.tenant = u.tenant_id AND d.external_id = u.external_id)""",
}

_WHOLE: Final = {
    "I2 the same person twice": """
        SELECT tenant_id, lower(doc ->> 'userName'), count(*) FROM directory_user GROUP BY 1, 2 HAVING count(*) > 1""",
    "I2 a name without its user": """
        SELECT i.* FROM identifier AS i
         WHERE kind = 'userName' AND NOT EXISTS (
               SELECT FROM directory_user AS u WHERE u.tenant_id = i.tenant_id AND u.id = i.resource_id)""",
    "I2 a user without a name of its own": """
        SELECT u.tenant_id, u.id FROM directory_user AS u
         WHERE NOT EXISTS (SELECT FROM identifier AS i WHERE i.tenant_id = u.tenant_id AND i.kind = 'userName'
                              AND i.resource_id = u.id)""",
    "I3 something never ended": """
        SELECT id, kind, state, attempts, error_code FROM job
         WHERE state NOT IN ('done', 'dead', 'cancelled') AND run_at <= now() + interval '1 hour'""",
    # A create is requested once and ends once: applied, or told as failed for as long as it is dead.
    "I4 a create without its one request and one outcome": """
        SELECT correlation_id, target_id FROM audit_event
         WHERE action = 'scim.user.create' AND phase <> 'denied'
         GROUP BY 1, 2
        HAVING count(*) FILTER (WHERE phase = 'requested') <> 1 OR count(*) FILTER (WHERE phase = 'applied') > 1
            OR count(*) FILTER (WHERE phase IN ('applied', 'failed')) < 1""",
    "I4 a job whose outcome the log tells otherwise": """
        SELECT j.id, j.state FROM job AS j
         CROSS JOIN LATERAL (SELECT count(*) FILTER (WHERE phase = 'applied') AS applied,
                                    count(*) FILTER (WHERE phase = 'failed') AS failed
                               FROM audit_event
                              WHERE correlation_id = j.correlation_id AND target_id = j.resource_id::text
                                AND action = 'scim.user.create') AS told
         WHERE j.kind = 'user.create'
           AND CASE j.state WHEN 'done' THEN applied <> 1 WHEN 'dead' THEN applied <> 0 OR failed < 1
                            WHEN 'cancelled' THEN applied <> 0 OR failed < 1 ELSE false END""",
    "I4 a user whom no create tells of": """
        SELECT u.id FROM users AS u
         WHERE NOT EXISTS (SELECT FROM audit_event WHERE tenant_id = u.tenant_id AND target_id = u.id::text
                              AND action = 'scim.user.create' AND phase = 'applied')""",
    # Without a diff nothing was changed: asking twice for what is so already is two events.
    "I5 an effect that came twice": """
        SELECT target_id, correlation_id, action, count(*) FROM audit_event
         WHERE phase = 'applied' AND starts_with(action, 'scim.') AND diff IS NOT NULL
         GROUP BY target_id, correlation_id, action, diff HAVING count(*) > 1""",
    "I5 an invitation that was made twice": """
        SELECT tenant_id, user_id, generation, count(*) FROM invitation GROUP BY 1, 2, 3 HAVING count(*) > 1""",
    "I7 an invitation told as sent more than once": """
        SELECT target_id, correlation_id, count(*) FROM audit_event
         WHERE action = 'invitation.email.send' AND phase = 'applied' GROUP BY 1, 2 HAVING count(*) > 1""",
    "I8 a job of another tenant than its user's": """
        SELECT j.id FROM job AS j JOIN users AS u ON u.id = j.resource_id WHERE j.tenant_id <> u.tenant_id""",
    "I8 an invitation of another tenant than its user's": """
        SELECT i.id FROM invitation AS i JOIN users AS u ON u.id = i.user_id WHERE i.tenant_id <> u.tenant_id""",
    "I8 a member of another tenant than the group's": """
        SELECT m.group_id, m.member_id FROM membership AS m JOIN groups AS g ON g.id = m.group_id
          LEFT JOIN users AS u ON u.id = m.member_id
         WHERE g.tenant_id <> m.tenant_id OR u.tenant_id <> m.tenant_id""",
    "I8 a name of another tenant than its user's": """
        SELECT i.* FROM identifier AS i JOIN users AS u ON u.id = i.resource_id WHERE i.tenant_id <> u.tenant_id""",
}

_MAILED: Final = {
    "I7 a message of no invitation": """
        SELECT m.message_id FROM pg_temp.mail AS m
         WHERE NOT EXISTS (SELECT FROM invitation AS i WHERE i.message_id = m.message_id AND i.email = m.recipient)""",
    "I7 two messages for one invitation": """
        SELECT i.id, count(DISTINCT m.message_id) FROM pg_temp.mail AS m JOIN invitation AS i ON i.email = m.recipient
         GROUP BY i.id, i.generation HAVING count(DISTINCT m.message_id) > i.generation""",
    "I7 an invitation told as sent that nobody got": """
        SELECT i.id FROM invitation AS i WHERE state IN ('sent', 'accepted')
           AND NOT EXISTS (SELECT FROM pg_temp.mail AS m WHERE m.message_id = i.message_id)""",
}

_EVENTS: Final = """
SELECT target_id, action, diff FROM audit_event
 WHERE target_type = 'User' AND phase = 'applied' AND starts_with(action, 'scim.user.')
 ORDER BY xid, id
"""
_USERS: Final = "SELECT id::text, doc, version, active, external_id FROM users"


async def broken(
    connection: asyncpg.Connection,
    *,
    diary: Diary | None = None,
    mails: Sequence[Mapping[str, Any]] | None = None,
    copies: int | None = None,
    audit_key: Path | None = None,
) -> dict[str, list[str]]:
    """Return what is not as it must be: by invariant, some of what it found.

    Args:
        connection: with every right, to the database of the experiment.
        diary: what the driver was answered, if there was one.
        mails: what the mail catcher has (`MailboxReader.messages`), if invitations are part of the experiment.
        copies: most copies of one message that the faults of the experiment explain.
        audit_key: the key that seals; without it I10 is not asked.
    """
    asked = dict(_WHOLE)
    if diary is not None:
        await diary.load(connection)
        asked |= _ANSWERED
    if mails is not None:
        await _load(connection, mails)
        asked |= _MAILED
    found = {name: [str(tuple(row)) for row in await connection.fetch(query)] for name, query in asked.items()}
    found["I6 the state is not what the log tells"] = await changed_untold(connection)
    if copies is not None:
        query = "SELECT message_id, count(*) FROM pg_temp.mail GROUP BY 1 HAVING count(*) > $1"
        found["I7 more copies than the faults explain"] = [str(row[0]) for row in await connection.fetch(query, copies)]
    if audit_key is not None:
        found["I10 the log was tampered with"] = await _tampered(connection, audit_key)
    return {name: rows[:_SHOWN] for name, rows in sorted(found.items()) if rows}


async def _load(connection: asyncpg.Connection, mails: Sequence[Mapping[str, Any]]) -> None:
    await connection.execute("DROP TABLE IF EXISTS pg_temp.mail")
    await connection.execute("CREATE TEMPORARY TABLE mail (message_id text, recipient text)")
    rows = [(mail["message_id"], recipient) for mail in mails for recipient in mail["recipients"]]
    await connection.executemany("INSERT INTO pg_temp.mail VALUES ($1, $2)", rows)


async def changed_untold(connection: asyncpg.Connection, schema: ResourceSchema = USER) -> list[str]:
    """Return the users that are not what the diffs of their events come to."""
    users = {row["id"]: row for row in await connection.fetch(_USERS)}
    lives: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for row in await connection.fetch(_EVENTS):
        lives[row["target_id"]].append(dict(row))
    found = []
    for user_id in sorted({*users, *lives}):
        user = users.get(user_id)
        try:
            told = replay(lives[user_id], schema)
        except ReplayError as error:
            found.append(f"{user_id}: {error}")
            continue
        if told is None or user is None:
            if (told is None) != (user is None):
                found.append(f"{user_id}: {'gone' if user is None else 'there'}, and the log tells otherwise")
            continue
        as_told = (in_any_order(told.doc), told.version, told.doc.get("active", True), told.doc.get("externalId"))
        if as_told != (in_any_order(user["doc"]), user["version"], user["active"], user["external_id"]):
            found.append(f"{user_id}: version {user['version']}, told {told.version}")
    return found


async def _tampered(connection: asyncpg.Connection, key: Path) -> list[str]:
    """Seal what is not sealed yet, verify the whole log, and return what does not fit."""
    await seal_waiting(connection, read_signer(key))
    report = await verify(connection, read_verifiers(public_file(key)))
    late = [line for line in report.incomplete if "not sealed" in line]
    return [str(finding.as_dict()) for finding in report.findings] + late
