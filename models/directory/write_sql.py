"""The statements by which users are changed (`models.directory.write` runs them)."""

from __future__ import annotations

from models.db import for_tenant
from models.directory.read import GROUPS_OF, WAITING
from models.jobs import KINDS

_INVITE = KINDS["invitation.send"]

# As `GROUPS_OF`, of the user `d` of a `wanted` row, if that says what the groups' addresses begin with.
GROUPS_IF_WANTED = f"""CASE WHEN wanted.url IS NOT NULL THEN
    {GROUPS_OF.replace("$1", "wanted.tenant_id").format(url="wanted.url")} END"""

# Users of a tenant by id, each from whichever half of the directory has it. The LIMITs make the planner probe the
# indexes for each, however many there are; that it is not shown the arrays keeps it from making a plan for each call,
# which takes ten times as long as to read.
READ = for_tenant(f"""
WITH wanted AS MATERIALIZED (
    SELECT $1::uuid AS tenant_id, w.*
      FROM unnest((SELECT $2::uuid[]), (SELECT $3::text[])) WITH ORDINALITY AS w (user_id, url, place)
)
SELECT d.*, {GROUPS_IF_WANTED}, false AS waiting, place FROM wanted CROSS JOIN LATERAL (
    SELECT id, doc::text, version, created_at, last_modified FROM users
     WHERE users.tenant_id = wanted.tenant_id AND id = user_id LIMIT 1) AS d
UNION ALL
SELECT d.*, {GROUPS_IF_WANTED}, true, place FROM wanted CROSS JOIN LATERAL (
    SELECT resource_id AS id, (payload -> 'doc')::text, 1, staged_at, staged_at FROM job
     WHERE job.tenant_id = wanted.tenant_id AND resource_id = user_id AND {WAITING} LIMIT 1) AS d
""")  # noqa: S608  constants only

# A row that had to be waited for is read again, and then this transaction has its id already: it is older than that of
# what was waited for, which the audit log would show as later.
LOCK = f"""
WITH wanted AS (SELECT $1::uuid AS tenant_id, $3::text AS url)
SELECT d.id, d.doc::text, d.version, d.created_at, d.last_modified, {GROUPS_IF_WANTED},
       pg_current_xact_id_if_assigned() IS NOT NULL AS waited
  FROM users AS d JOIN wanted USING (tenant_id) WHERE d.id = $2 FOR NO KEY UPDATE OF d
"""  # noqa: S608  constants only

KNOWN = for_tenant(f"""
SELECT EXISTS (SELECT FROM users WHERE tenant_id = $1 AND id = $2)
    OR EXISTS (SELECT FROM job WHERE tenant_id = $1 AND resource_id = $2 AND {WAITING})
""")  # noqa: S608  constants only

RESERVE = """
INSERT INTO identifier (tenant_id, kind, value_key, resource_id) VALUES ($1, 'userName', $2, $3)
ON CONFLICT DO NOTHING RETURNING resource_id
"""
RELEASE = """
DELETE FROM identifier WHERE tenant_id = $1 AND kind = 'userName' AND value_key = $2 AND resource_id = $3
"""

# One round trip and one commit, as a create's (`models.intake`). What it speaks for is set where its input comes from,
# before the first row of that, and every row of a table is looked for by a row of the input: an UPDATE ... FROM could
# read users first and would see none. So the new version comes as an INSERT that finds its row there already.
# Rows are locked in the order of their key, so that two statements wait for each other and never deadlock; one whose
# version has moved while waiting falls out. A change that comes to nothing is recorded and touches no user. Whoever was
# shut out at the moment of sending is invited anew; the locks make that moment the same for both sides.
WRITE = f"""
WITH input AS MATERIALIZED (
    SELECT i.* FROM (SELECT set_config('usher.tenants', $22, true)) AS scope (tenants)
     CROSS JOIN LATERAL (
        SELECT * FROM unnest($1::uuid[], $2::uuid[], $3::int[], $4::boolean[], $5::text[], $6::text[], $7::text[],
                             $8::boolean[], $9::text[], $10::uuid[], $11::uuid[], $12::uuid[], $13::text[],
                             $14::smallint[], $15::text[], $16::text[], $17::text[], $18::text[], $19::uuid[],
                             $20::text[], $21::text[])
            AS i (tenant_id, id, version, changes, doc, external_id, work_email_keys,
                  active, invite, invitation_id, invitation_job_id, event_id, action,
                  severity, actor_type, actor_id, actor_label, targets, correlation_id,
                  context, diff)
         WHERE scope.tenants IS NOT NULL OFFSET 0) AS i
),
held AS MATERIALIZED (
    SELECT input.*, created_at FROM (SELECT * FROM input WHERE changes ORDER BY tenant_id, id) AS input
     CROSS JOIN LATERAL (
        SELECT created_at FROM users
         WHERE users.tenant_id = input.tenant_id AND users.id = input.id AND users.version = input.version
         LIMIT 1 FOR NO KEY UPDATE) AS found
),
written AS (
    INSERT INTO users (tenant_id, id, external_id, work_email_keys, active, doc, version, created_at, last_modified)
    SELECT tenant_id, id, external_id, ARRAY(SELECT jsonb_array_elements_text(held.work_email_keys::jsonb)), active,
           doc::jsonb, version + 1, created_at, clock_timestamp()
      FROM held
    ON CONFLICT (tenant_id, id) DO UPDATE
       SET external_id = excluded.external_id, work_email_keys = excluded.work_email_keys, active = excluded.active,
           doc = excluded.doc, version = excluded.version,
           last_modified = greatest(users.last_modified, excluded.last_modified)
    RETURNING tenant_id, id, last_modified
),
audited AS (
    INSERT INTO audit_event (id, tenant_id, action, phase, outcome, reason, severity, actor_type, actor_id,
                             actor_label, targets, correlation_id, context, diff, changed)
    SELECT event_id, tenant_id, action, 'applied', 'success', CASE WHEN changes THEN NULL ELSE 'no_change' END,
           severity, actor_type, actor_id, actor_label, targets::jsonb, correlation_id, context::jsonb, diff::jsonb,
           ARRAY(SELECT item ->> 'path' FROM jsonb_array_elements(diff::jsonb) AS item)
      FROM input LEFT JOIN written USING (tenant_id, id)
     WHERE NOT changes OR last_modified IS NOT NULL
),
invited AS (
    INSERT INTO invitation (id, tenant_id, user_id, generation, email)
    SELECT invitation_id, tenant_id, input.id, known.newest + 1, invite
      FROM input JOIN written USING (tenant_id, id)
     CROSS JOIN LATERAL (SELECT FROM tenant WHERE tenant.id = tenant_id AND invitations LIMIT 1) AS inviting
     CROSS JOIN LATERAL (
        SELECT coalesce(max(generation), 0) AS newest,
               coalesce(bool_and(state = 'failed' AND error_code = 'user_inactive'), true) AS in_vain
          FROM (SELECT generation, state, error_code FROM invitation
                 WHERE invitation.tenant_id = input.tenant_id AND user_id = input.id FOR UPDATE) AS invitation) AS known
     WHERE invite IS NOT NULL AND known.in_vain
    RETURNING id, user_id
),
staged AS (
    INSERT INTO job (id, tenant_id, kind, queue, resource_id, payload, correlation_id, run_at)
    SELECT invitation_job_id, tenant_id, '{_INVITE.name}', '{_INVITE.queue}', invitation_id, '{{}}', correlation_id,
           now() + make_interval(secs => invitation_delay_seconds)
      FROM input JOIN invited ON invited.id = invitation_id
     CROSS JOIN LATERAL (SELECT invitation_delay_seconds FROM tenant WHERE tenant.id = tenant_id LIMIT 1) AS inviting
    RETURNING id, resource_id, run_at
)
SELECT written.*, staged.id AS job_id, staged.run_at <= now() AS due
  FROM written LEFT JOIN invited ON invited.user_id = written.id LEFT JOIN staged ON staged.resource_id = invited.id
"""  # noqa: S608  constants only
