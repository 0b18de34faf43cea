"""Compiled filters on a real PostgreSQL, with scim2-models' in-memory evaluation as the judge.

Where the two differ on purpose, and what is therefore left out of the random filters:

* A value of another type is refused here; scim2-models reads ``"5"`` as 5 and lets ``co`` on a number match nothing.
* ``emails.value eq`` takes any string here; scim2-models refuses what is no valid address.
* ``manager eq`` means ``manager.value`` here (Entra's reference check); there it matches nothing.
* A ``dateTime`` without offset is UTC here; there it is equal to nothing that has one.
* ``binary`` values are compared as they are written here; there as the bytes that they stand for.
* ``externalId eq`` compares code point by code point here, as its index does; there after NFC.
* Lower case is PostgreSQL's here and Python's there. They differ in a few letters (İ, the final Σ).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from scim2_models import EnterpriseUser, ScimFilter, User
from scim2_models.path import AttrPath, CompareOperator, Comparison, FilterNode, Not, Present, ValuePath

from models.scim.schema import ENTERPRISE_URN, USER_URN
from tests.support.people import BADGE_URN, CREATED, Badge, Directory, people_directory

if TYPE_CHECKING:
    import uuid
    from collections.abc import AsyncIterator

TEXTS = st.text(alphabet='aAbéÉe\u0301\n\t"\\%_\x01 ', max_size=4)
EMAILS = st.sampled_from(["a@x.example", "A@X.example", "b@x.example", "é@x.example"])
TYPES = st.sampled_from(["work", "home", "other"])
NUMBERS = st.integers(-3, 3)
DECIMALS = st.sampled_from([-1.5, 0.0, 0.1, 1e20, 3])
MOMENTS = st.sampled_from(
    [
        "2011-05-13T04:42:34Z",
        "2011-05-13T06:42:34+02:00",
        "2011-05-12T23:42:34.0-05:00",
        "2011-05-13T04:42:34.5Z",
        "1999-12-31T23:59:59-14:00",
        "2000-02-29T00:00:00.000001Z",
    ]
)
BOOLEANS = st.booleans()


def objects(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({}, optional=values)


def lists(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Any]]:
    return st.lists(objects(**values).filter(bool), min_size=1, max_size=3)


PEOPLE = st.fixed_dictionaries(
    {"userName": TEXTS},
    optional={
        "externalId": TEXTS,
        "title": TEXTS,
        "active": BOOLEANS,
        "name": objects(familyName=TEXTS, givenName=TEXTS).filter(bool),
        "emails": lists(value=EMAILS, type=TYPES, display=TEXTS, primary=BOOLEANS),
        "roles": lists(value=TEXTS, type=TEXTS, primary=BOOLEANS),
        ENTERPRISE_URN: objects(department=TEXTS, manager=objects(value=TEXTS).filter(bool)).filter(bool),
        BADGE_URN: objects(
            level=NUMBERS,
            score=DECIMALS,
            since=MOMENTS,
            code=TEXTS,
            trusted=BOOLEANS,
            tags=st.lists(TEXTS, min_size=1, max_size=3),
            passes=lists(value=NUMBERS, label=TEXTS, code=TEXTS, valid=BOOLEANS, until=MOMENTS),
        ).filter(bool),
    },
)

O = CompareOperator  # noqa: E741 - short for a table
EQUAL, SUBSTRING, ORDER = [O.eq, O.ne], [O.co, O.sw, O.ew], [O.gt, O.ge, O.lt, O.le]
KINDS: dict[str, tuple[list[CompareOperator], st.SearchStrategy[Any]]] = {
    "string": (EQUAL + SUBSTRING + ORDER, TEXTS),
    "email": (EQUAL + ORDER, EMAILS),
    "part": (SUBSTRING, TEXTS),
    "type": (EQUAL, TYPES),
    "boolean": (EQUAL, BOOLEANS),
    "integer": (EQUAL + ORDER, NUMBERS),
    "decimal": (EQUAL + ORDER, DECIMALS),
    "dateTime": (EQUAL + ORDER, MOMENTS),
}
PATHS = [
    ("userName", "string"),
    ("title", "string"),
    ("active", "boolean"),
    ("name.familyName", "string"),
    ("emails", "email"),
    ("emails.value", "part"),
    ("emails.type", "type"),
    ("emails.display", "string"),
    ("emails.primary", "boolean"),
    ("roles", "string"),
    ("roles.type", "string"),
    (f"{USER_URN}:title", "string"),
    (f"{ENTERPRISE_URN}:department", "string"),
    (f"{ENTERPRISE_URN}:manager.value", "string"),
    *[(f"{BADGE_URN}:{name}", kind) for name, kind in [("level", "integer"), ("score", "decimal"), ("code", "string")]],
    *[(f"{BADGE_URN}:{name}", kind) for name, kind in [("since", "dateTime"), ("trusted", "boolean")]],
    *[(f"{BADGE_URN}:{name}", kind) for name, kind in [("tags", "string"), ("passes", "integer")]],
    *[(f"{BADGE_URN}:passes.{name}", kind) for name, kind in [("label", "string"), ("until", "dateTime")]],
    ("meta.created", "dateTime"),
]
INNER: dict[str, list[tuple[str, str]]] = {
    "emails": [("type", "type"), ("value", "email"), ("value", "part"), ("display", "string"), ("primary", "boolean")],
    "roles": [("value", "string"), ("type", "string"), ("primary", "boolean")],
    f"{BADGE_URN}:passes": [
        ("value", "integer"),
        ("label", "string"),
        ("code", "string"),
        ("valid", "boolean"),
        ("until", "dateTime"),
    ],
    f"{BADGE_URN}:tags": [("value", "string")],
}
WHOLES = ["name", "emails", ENTERPRISE_URN + ":manager", f"{BADGE_URN}:passes", f"{BADGE_URN}:tags", "externalId", "id"]


def path_of(text: str) -> AttrPath:
    uri, colon, rest = text.rpartition(":")
    attr, _, sub = rest.partition(".")
    return AttrPath(attr, sub or None, uri if colon else None)


@st.composite
def comparisons(draw: st.DrawFn, choices: list[tuple[str, str]]) -> FilterNode:
    path, kind = draw(st.sampled_from(choices))
    operators, values = KINDS[kind]
    if kind != "part" and draw(st.integers(0, 5)) == 0:
        return Comparison(path_of(path), draw(st.sampled_from(EQUAL)), None)
    return Comparison(path_of(path), draw(st.sampled_from(operators)), draw(values))


def logic(leaves: st.SearchStrategy[FilterNode]) -> st.SearchStrategy[FilterNode]:
    return st.recursive(
        leaves,
        lambda below: st.one_of(
            below.map(Not),
            st.tuples(below, below).map(lambda pair: pair[0] & pair[1]),
            st.tuples(below, below).map(lambda pair: pair[0] | pair[1]),
        ),
        max_leaves=4,
    )


def inner(choices: list[tuple[str, str]]) -> st.SearchStrategy[FilterNode]:
    present = st.sampled_from(choices).map(lambda choice: Present(AttrPath(choice[0])))
    return logic(st.one_of(comparisons(choices), comparisons(choices), present))


VALUE_PATHS = st.sampled_from(list(INNER)).flatmap(
    lambda path: st.builds(ValuePath, st.just(path_of(path)), inner(INNER[path]))
)
PRESENT = st.sampled_from([path for path, _ in PATHS] + WHOLES).map(lambda path: Present(path_of(path)))
FILTERS = logic(st.one_of(comparisons(PATHS), comparisons(PATHS), VALUE_PATHS, VALUE_PATHS, PRESENT))


@pytest.fixture
async def directory(database_url: str) -> AsyncIterator[Directory]:
    async with people_directory(database_url) as made:
        yield made


def judge(identifier: uuid.UUID, doc: dict[str, Any]) -> Any:
    meta = {"created": CREATED.isoformat(), "lastModified": CREATED.isoformat(), "resourceType": "User"}
    whole = {"schemas": [USER_URN]} | doc | {"id": str(identifier), "meta": meta}
    return User[EnterpriseUser | Badge].model_validate(whole)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
@given(docs=st.lists(PEOPLE, min_size=1, max_size=4), filters=st.lists(FILTERS, min_size=1, max_size=6))
async def test_random_filters_agree_with_scim2_models(
    directory: Directory, docs: list[dict[str, Any]], filters: list[FilterNode]
) -> None:
    ids = await directory.fill(docs)
    people = {identifier: judge(identifier, doc) for identifier, doc in zip(ids, docs, strict=True)}
    for node in filters:
        bound: ScimFilter[Any] = ScimFilter[User[EnterpriseUser | Badge]](str(node))
        expected = {identifier for identifier, person in people.items() if bound.match(person, strict=True)}
        assert await directory.find(str(node)) == expected, str(node)
