"""Compiled filters on a real PostgreSQL: whom they find, and by which index."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any
from unicodedata import normalize

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models.scim.filter import parse_filter
from models.scim.filter_sql import Column, Relation, compile_filter
from models.scim.schema import ENTERPRISE_URN, GROUP, USER_URN
from tests.support.people import BADGE_URN, SCHEMA, Directory, people_directory

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable


@pytest.fixture
async def directory(database_url: str) -> AsyncIterator[Directory]:
    async with people_directory(database_url) as made:
        yield made


ANA: dict[str, Any] = {
    "userName": "Ana@x.example",
    "externalId": "B3c2",
    "active": True,
    "name": {"familyName": "Nováková"},
    "emails": [
        {"type": "work", "value": "Ana@x.example", "primary": True},
        {"type": "home", "value": "home@x.example"},
    ],
    "roles": [{"value": "Admin", "primary": True}, {"value": "Buyer"}],
    "x509Certificates": [{"value": "QUJD"}],
    ENTERPRISE_URN: {"employeeNumber": "4711", "manager": {"value": "9c1E"}},
    BADGE_URN: {"level": 3, "code": "aB", "since": "2024-02-29T12:00:00+01:00", "tags": ["red", "Blue"]},
    "schemas": [USER_URN, ENTERPRISE_URN],
}
BORIS: dict[str, Any] = {"userName": "boris@x.example", "active": False, "title": "", "schemas": [USER_URN]}


FINDINGS = [  # filter, does it find Ana, does it find Boris
    # entra-cases.md 20, 26, 28, 29, 33 and entra-wire.md §3
    ('userName eq "ANA@X.EXAMPLE"', True, False),
    ('emails[type eq "work"].value eq "ana@x.example"', True, False),
    ('emails[type eq "home"].value eq "ana@x.example"', False, False),
    ('emails[type eq "work"] eq "ana@x.example"', True, False),
    ('emails.value eq "HOME@x.example"', True, False),
    ('emails eq "home@x.example"', True, False),
    (f'{USER_URN}:userName eq "ana@x.example"', True, False),
    (f'{ENTERPRISE_URN.upper()}:EmployeeNumber eq "4711"', True, False),
    (f'{ENTERPRISE_URN}:manager eq "9c1E"', True, False),
    (f'{ENTERPRISE_URN}:manager eq "9c1e"', False, False),
    (f'{ENTERPRISE_URN}:manager[value eq "9c1E"]', True, False),
    ('roles[primary eq "True"].value eq "admin"', True, False),
    ('roles[primary eq "True"].value eq "buyer"', False, False),
    ("externalId eq B3c2", True, False),
    ('externalId eq "b3c2"', False, False),
    ('active eq "False"', False, True),
    ("active eq false", False, True),
    ("active ne true", False, True),
    # case-exact and plain conditions on one element, and conditions that contradict each other
    (f'{BADGE_URN}:code eq "aB" and {BADGE_URN}:tags eq "blue"', True, False),
    (f'{BADGE_URN}:code eq "AB"', False, False),
    (f'{BADGE_URN}:tags[value sw "bl"]', True, False),
    ('emails[type eq "work" and type eq "home"]', False, False),
    ('emails[type eq "work" and not (value co "boris")]', True, False),
    ('x509Certificates eq "QUJD"', True, False),
    ('x509Certificates[value eq "qujd"]', False, False),
    # nothing, empty and absent
    ("title pr", False, False),
    ("title eq null", True, False),
    ('title eq ""', False, True),
    ("title co null", False, False),
    ('title ne "x"', True, True),
    ("name eq null", False, True),
    (f"{ENTERPRISE_URN} pr", True, False),
    ("emails.display eq null", True, True),
    # numbers and moments
    (f"{BADGE_URN}:level eq 3.0", True, False),
    (f"{BADGE_URN}:level lt 3", False, False),
    (f'{BADGE_URN}:since eq "2024-02-29T11:00:00Z"', True, False),
    (f'{BADGE_URN}:since le "2024-02-29T11:00:00"', True, False),
    # what the row holds beside the document
    ('meta.resourceType eq "User" and meta pr', True, True),
    ('meta.resourceType eq "Group"', False, False),
    ("meta.resourceType eq null", False, False),
    ('meta.created eq "2026-01-02T03:04:05Z"', True, True),
    ('meta.lastModified gt "2026-01-02T03:04:05Z"', False, False),
    ('meta.version eq "W/\\"1\\""', True, True),
    ('meta.location sw "https://x.example/scim/v2/Users/"', True, True),
    ("meta.location co null", False, False),
    ('schemas eq "urn:ietf:params:scim:schemas:extension:enterprise:2.0:User"', True, False),
    ('id eq "not a uuid"', False, False),
    (f'id eq "{"0" * 32}"', False, False),
    ('id ne "not a uuid" and id pr', True, True),
    ("meta.lastModified pr and not (externalId pr)", False, True),
    # values that are SQL or jsonpath to those who forget to keep them apart
    ('userName eq "\' OR TRUE --"', False, False),
    ('title ne "\\"; DROP TABLE r_people; --"', True, True),
    ('userName co "%"', False, False),
    ('userName co "$1"', False, False),
]


async def test_a_filter_finds_whom_it_should(directory: Directory) -> None:
    ana, boris = await directory.fill([ANA, BORIS])
    for text, finds_ana, finds_boris in FINDINGS:
        found = await directory.find(text, base_url="https://x.example/scim/v2")
        assert (ana in found, boris in found) == (finds_ana, finds_boris), text


async def test_id_and_location_find_one(directory: Directory) -> None:
    ana, _ = await directory.fill([ANA, BORIS])
    for text in (f'id eq "{ana}"', f'id sw "{str(ana)[:20]}"', f'meta.location eq "https://x/Users/{ana}"'):
        assert await directory.find(text, base_url="https://x") == {ana}
    assert await directory.find(f'id eq "{str(ana).upper()}"') == set()  # id is case-exact
    assert await directory.find(f'id eq "{ana}" and {ENTERPRISE_URN}:manager eq "9c1E"') == {ana}


async def test_documents_that_an_older_schema_let_in_break_no_filter(directory: Directory) -> None:
    docs = [
        {"userName": "a", BADGE_URN: {"since": value, "level": value, "tags": value, "passes": value}}
        for value in ("2023-02-30T00:00:00Z", "x", "2024-13-01T00:00:00Z", "24", {"value": 1}, 5, [[1]], None, True)
    ]
    await directory.fill(docs)
    for text in (
        'since gt "2000-01-01T00:00:00Z"',
        "level ge 0",
        "level eq null",
        "passes.value gt 0",
        'tags co "x"',
        "passes[value eq 1 and valid ne true]",
        "passes pr",
    ):
        name, _, rest = text.partition(" ")
        await directory.find(f"{BADGE_URN}:{name} {rest}")
    late = f'{BADGE_URN}:since gt "2023-03-01T00:00:00Z"'
    assert len(await directory.find(late)) == 1  # 30 February is read as 2 March rather than failing everyone's query


MEMBERS = {
    "members": Relation(
        "membership AS m WHERE m.group_id = r.id",
        {"value": Column("m.member_id", "uuid"), "type": Column("m.member_type")},
    )
}


async def test_rows_of_another_table_are_filtered_like_a_list(directory: Directory) -> None:
    sales, empty = await directory.fill([{"displayName": "Sales"}, {"displayName": "Empty"}])
    user, other = uuid.uuid4(), uuid.uuid4()
    await directory.connection.execute("CREATE TEMP TABLE membership (group_id uuid, member_id uuid, member_type text)")
    await directory.connection.executemany(
        "INSERT INTO membership VALUES ($1, $2, $3)", [(sales, user, "User"), (sales, other, "Group")]
    )
    for text, expected in {
        f'id eq "{sales}" and members eq "{user}"': {sales},
        f'members eq "{user}" and id eq "{empty}"': set(),
        f'members.value eq "{uuid.uuid4()}"': set(),
        f'members[value eq "{user}" and type eq "user"]': {sales},
        f'members[value eq "{user}" and type eq "Group"]': set(),
        f'members ne "{user}"': {empty},
        "members pr": {sales},
        "members.type pr": {sales},
        "members eq null": {empty},
        "members eq nonsense": set(),
        'not (members.type co "oup")': {empty},
    }.items():
        fragment = compile_filter(parse_filter(text), GROUP, first_param=2, relations=MEMBERS)
        rows = await directory.connection.fetch(
            f"SELECT r.id FROM r_people r WHERE r.version = $1 AND ({fragment.sql})",  # noqa: S608 - as above
            1,
            *fragment.params,
        )
        assert {row["id"] for row in rows} == expected, text


INDEXED = [
    'title eq "x"',
    'name.familyName eq "Nováková"',
    "active eq false",
    'emails.value eq "a@x"',
    'emails[type eq "work"].value eq "a@x"',
    'emails[type eq "work" and primary eq true].display eq "c"',
    'emails[value co "x" and display eq "c"]',
    f'{ENTERPRISE_URN}:employeeNumber eq "4711"',
    f'{ENTERPRISE_URN}:manager eq "9c1e"',
    f"{BADGE_URN}:level eq 3",
    'emails.type eq "holiday"',
    'roles[type eq "work"]',
    f'{BADGE_URN}:tags eq "red"',
    f'{BADGE_URN}:passes[label eq "x" and code eq "Y"]',
    f'{BADGE_URN}:code eq "x" or title eq "y"',
    'title eq "x" and name.givenName sw "y"',
]


# What nearly everyone has is quicker to find by reading everyone.
UNINDEXED = [
    "active eq true",
    "emails.primary eq false",
    'emails.type eq "Work"',
    'emails[type eq "work"]',
    'emails[type eq "work" and primary eq true and value co "x"]',
    'title co "x"',
    'not (title eq "x")',
    'title eq "x" or nickName sw "y"',
]


async def test_eq_is_answered_by_the_index(directory: Directory) -> None:
    people = [BORIS | {"userName": f"{n}@x.example", "active": True} for n in range(2000)]
    await directory.fill([ANA, *people])
    await directory.connection.execute("ANALYZE r_people; SET enable_seqscan = off")
    for text in [*INDEXED, *UNINDEXED]:
        fragment = compile_filter(parse_filter(text), SCHEMA, first_param=1)
        plan = await directory.connection.fetch(
            f"EXPLAIN SELECT r.id FROM r_people r WHERE {fragment.sql}",  # noqa: S608 - as above
            *fragment.params,
        )
        lines = "\n".join(row[0] for row in plan)
        assert ("Index Scan on r_people_fold" in lines) == (text in INDEXED), f"{text}\n{lines}"
        assert ("Seq Scan on r_people" in lines) == (text in UNINDEXED), f"{text}\n{lines}"


FOLDABLE = st.one_of(
    st.text(alphabet='aAÉé\u0301\u0303\u034f\n\t\b\\"\x01\x1f/u0', max_size=8),
    st.text(alphabet=st.characters(codec="utf-8", exclude_characters="\x00")),
)
VARIANTS = st.sampled_from(
    [str, str.upper, str.lower, str.swapcase, lambda text: normalize("NFD", text), lambda text: normalize("NFC", text)]
)


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@example(text="\n\u0301", variant=str, other="\n")
@example(text="\x1f\u0307", variant=str, other="\x1f\u034f\u0307")
@example(text="\\n\u0301", variant=str, other="\n\u0301")
@given(text=FOLDABLE, variant=VARIANTS, other=FOLDABLE)
async def test_documents_fold_alike_when_their_strings_do(
    directory: Directory, text: str, variant: Callable[[str], str], other: str
) -> None:
    # Lower case and NFC are applied to the JSON text: a combining mark must not merge with the escape before it.
    for one in (variant(text), other):
        row = await directory.connection.fetchrow(
            "SELECT usher_fold_json($1::jsonb) = usher_fold_json($2::jsonb), usher_fold($3) = usher_fold($4)",
            *(json.dumps({"X": [each]}) for each in (text, one)),
            *(text, one),
        )
        assert row is not None
        assert row[0] == row[1], (text, one)


_FOLDED_AT_LENGTH = r"""
SELECT lower(normalize(regexp_replace($1::jsonb::text, '(\\u[0-9a-f]{4}|\\.)', '\1' || U&'\034F', 'g'), NFC))::jsonb
"""


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@example(text="A\u0301")
@example(text="\u0344")  # the first that no normal text has
@example(text="\u02ff")
@example(text="\u212b")
@given(text=FOLDABLE)
async def test_what_folding_spares_itself_changes_nothing(directory: Directory, text: str) -> None:
    # Values in indexes were folded by any of the functions there have been.
    document = json.dumps({"X": [text, normalize("NFD", text)]})
    folded = await directory.connection.fetchrow(f"SELECT usher_fold_json($1::jsonb), ({_FOLDED_AT_LENGTH})", document)
    assert folded is not None
    assert folded[0] == folded[1], text
