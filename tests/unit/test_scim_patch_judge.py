"""PATCH as the RFC defines it, with scim2-models' ``PatchOp`` as the judge; and PATCH on anything at all.

Where the two differ on purpose, and what is therefore left out of the random operations or made equal first:

* An element of which only ``type`` and ``primary`` are left is taken away here: a label labels nothing then. There it
  stays.
* A value added with the ``value`` and ``type`` of one that is there is that one here, as RFC 7643 §2.4 wants no such
  pair twice; there it is appended when anything else differs. Random lists are therefore without ``display``, and
  ``add`` takes values that are new.
* An empty string unassigns here (entra-cases.md 79); there it is a value.
* A manager is one value here: another id takes away the old ``$ref``. There it is merged.
* To remove the ``value`` of a manager is to have none here (entra-cases.md 88); there ``value`` is required and may
  not be removed. Random operations leave it.
* ``emails.value`` without a filter on a user without e-mail makes one here, as a value path does; there it is
  nothing.
* What is unassigned by ``add`` with null, and operations that Entra sends and the RFC forbids, are judged by
  test_scim_patch.py alone.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from scim2_models import URN, Context, EnterpriseUser, Extension, PatchOp, SCIMException, ScimPolicy, User

from models.errors import ClientError
from models.scim.document import read_user
from models.scim.patch import apply_patch
from models.scim.schema import ENTERPRISE_URN, USER, USER_URN

BADGE_URN = "urn:example:scim:Badge:2.0:User"


class Badge(Extension):
    __schema__ = URN(BADGE_URN)

    level: int | None = None
    trusted: bool | None = None
    tags: list[str] | None = None


SCHEMA = USER.with_extensions([Badge.to_schema().model_dump()])
POLICY = ScimPolicy(unmatched_path_filter=ScimPolicy.UnmatchedPathFilter.create)
Person = User[EnterpriseUser | Badge]

TEXTS = st.sampled_from(["a", "B", "é", "x y", 'q"\\'])
EMAILS = st.sampled_from(["a@x.example", "b@x.example", "c@x.example"])
TYPES = st.sampled_from(["work", "home", "other"])
ELEMENTS = {
    "emails": st.fixed_dictionaries({"value": EMAILS, "type": TYPES}, optional={"primary": st.booleans()}),
    "roles": st.fixed_dictionaries({"value": TEXTS, "type": TEXTS}, optional={"primary": st.booleans()}),
}
SINGLES: dict[str, st.SearchStrategy[Any]] = {
    "userName": TEXTS,
    "title": TEXTS,
    "displayName": TEXTS,
    "name.familyName": TEXTS,
    "name.givenName": TEXTS,
    f"{USER_URN}:title": TEXTS,
    f"{ENTERPRISE_URN}:department": TEXTS,
    f"{ENTERPRISE_URN}:manager.value": TEXTS,
    f"{BADGE_URN}:level": st.integers(0, 3),
    f"{BADGE_URN}:trusted": st.booleans(),
}
NAMES = st.fixed_dictionaries({}, optional={"familyName": TEXTS, "givenName": TEXTS}).filter(bool)
DEPARTMENTS = st.fixed_dictionaries({}, optional={"department": TEXTS, "division": TEXTS}).filter(bool)


def lists(name: str) -> st.SearchStrategy[list[dict[str, Any]]]:
    def one_primary(elements: list[dict[str, Any]]) -> bool:
        return sum(element.get("primary") is True for element in elements) <= 1

    def pair(element: dict[str, Any]) -> tuple[str, str]:
        return element["value"].lower(), element["type"].lower()

    return st.lists(ELEMENTS[name], min_size=1, max_size=3, unique_by=pair).filter(one_primary)


DOCUMENTS = st.fixed_dictionaries(
    {"userName": TEXTS, "active": st.booleans()},
    optional={
        "title": TEXTS,
        "name": NAMES,
        "emails": lists("emails"),
        "roles": lists("roles"),
        ENTERPRISE_URN: DEPARTMENTS,
        BADGE_URN: st.fixed_dictionaries({"level": st.integers(0, 3), "tags": st.just(["a", "b"])}),
    },
)


@st.composite
def single_operations(draw: st.DrawFn) -> dict[str, Any]:
    path = draw(st.sampled_from(sorted(SINGLES)))
    verbs = ["add", "replace"] if path.endswith("manager.value") else ["add", "replace", "remove"]
    verb = draw(st.sampled_from(verbs))
    operation = {"op": verb, "path": path}
    return operation if verb == "remove" else operation | {"value": draw(SINGLES[path])}


@st.composite
def list_operations(draw: st.DrawFn) -> dict[str, Any]:
    name = draw(st.sampled_from(sorted(ELEMENTS)))
    values = EMAILS if name == "emails" else TEXTS
    verb = draw(st.sampled_from(["add", "replace", "remove"]))
    kind = draw(st.sampled_from(["whole", "selected", "sub"]))
    if kind == "whole":
        operation: dict[str, Any] = {"op": verb, "path": name}
        if verb == "add":  # of values that no random document has
            operation["value"] = [{"value": draw(st.sampled_from(["n1@x.example", "n2@x.example"])), "type": "new"}]
        if verb == "replace":
            operation["value"] = draw(st.one_of(lists(name), st.just([])))
        return operation
    attribute, operand = draw(st.sampled_from([("type", TYPES), ("value", values)]))
    operator = draw(st.sampled_from(["eq", "eq", "eq", "ne", "sw"] if attribute == "type" else ["eq", "co"]))
    text = draw(operand).replace("\\", "\\\\").replace('"', '\\"')
    path = f'{name}[{attribute} {operator} "{text}"]'
    if operator == "eq" and draw(st.booleans()):
        path = f"{path[:-1]} and primary eq true]"
    sub, sub_values = draw(st.sampled_from([("value", values), ("display", TEXTS), ("primary", st.booleans())]))
    if kind == "sub":
        operation = {"op": verb, "path": f"{path}.{sub}"}
        return operation if verb == "remove" else operation | {"value": draw(sub_values)}
    operation = {"op": verb, "path": path}
    return operation if verb == "remove" else operation | {"value": {sub: draw(sub_values)}}


@st.composite
def object_operations(draw: st.DrawFn) -> dict[str, Any]:
    verb = draw(st.sampled_from(["add", "replace"]))
    target = draw(st.sampled_from(["", "name", ENTERPRISE_URN]))
    if target:
        return {"op": verb, "path": target, "value": draw(NAMES if target == "name" else DEPARTMENTS)}
    keys = draw(st.lists(st.sampled_from(sorted(SINGLES)), min_size=1, max_size=3, unique=True))
    value = {key: draw(SINGLES[key]) for key in keys if key != f"{USER_URN}:title"}
    if draw(st.booleans()):
        value["name"] = draw(NAMES)
        value.pop("name.familyName", None)
        value.pop("name.givenName", None)
    return {"op": verb, "value": value}


FORBIDDEN = st.sampled_from(
    [
        {"op": "remove", "path": "userName"},
        {"op": "replace", "path": "userName", "value": None},
        {"op": "replace", "path": "id", "value": "x"},
        {"op": "add", "path": "groups", "value": [{"value": "x"}]},
        {"op": "remove"},
        {"op": "replace", "path": 'emails[type eq "none" or type eq "nil"].value', "value": "a@x.example"},
        {"op": "add", "path": 'roles[not (type pr) and value eq "none"]', "value": {"display": "x"}},
        {"op": "replace", "path": f"{BADGE_URN}:level", "value": "high"},
        {"op": "replace", "path": "title", "value": {"x": "y"}},
        {"op": "replace", "path": "a b", "value": "x"},
        {"op": "replace", "path": "emails[", "value": "x"},
    ]
)
OPERATIONS = st.lists(
    st.one_of(*[single_operations(), list_operations(), object_operations()] * 4, FORBIDDEN), min_size=1, max_size=4
)


def judged(doc: dict[str, Any], operations: list[dict[str, Any]]) -> tuple[dict[str, Any] | None, str, bool]:
    """Return what scim2-models makes of it: the document, or the scimType of the error; and whether it changed."""
    person = Person.model_validate(deepcopy(doc))
    body = {"schemas": ["urn:ietf:params:scim:api:messages:2.0:PatchOp"], "Operations": deepcopy(operations)}
    try:
        patch = PatchOp[Person].model_validate(body, scim_ctx=Context.RESOURCE_PATCH_REQUEST, scim_policy=POLICY)
        changed = patch.patch(person, scim_policy=POLICY)
    except ValidationError as error:
        return None, str(error.errors()[0]["type"]), False
    except SCIMException as error:
        return None, error.scim_type, False
    return person.model_dump(), "", changed


def without_labels_only(doc: dict[str, Any]) -> dict[str, Any]:
    """Take away what the first difference is about, and what both leave out anyway."""
    result = {name: value for name, value in doc.items() if name not in ("schemas", "active")}
    for name in ELEMENTS:
        left = [element for element in result.get(name, ()) if not element.keys() <= {"type", "primary"}]
        result.pop(name, None)
        if left:
            result[name] = left
    return result


@settings(max_examples=250, deadline=None)
@given(DOCUMENTS, OPERATIONS)
def test_random_patches_agree_with_scim2_models(doc: dict[str, Any], operations: list[dict[str, Any]]) -> None:
    doc = read_user(doc, SCHEMA).doc
    expected, scim_type, changed = judged(doc, operations)
    if expected is None:
        with pytest.raises(ClientError) as caught:
            apply_patch(doc, {"Operations": operations}, SCHEMA)
        if len(operations) == 1:  # of several errors, there the one that shows before anything is applied comes first
            assert scim_type.removeprefix("scim_") == caught.value.scim_type
        return
    result = apply_patch(doc, {"Operations": operations}, SCHEMA)
    assert without_labels_only(result.doc) == without_labels_only(expected)
    assert changed or not result.changed


ANYTHING = st.recursive(
    st.one_of(
        st.none(), st.booleans(), st.integers(-5, 5), st.floats(allow_nan=False, allow_infinity=False), st.text()
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(), inner, max_size=3)),
    max_leaves=6,
)
PATHS = st.one_of(
    st.sampled_from(
        [*SINGLES, "emails", "roles", "emails.value", ENTERPRISE_URN, USER_URN, "manager", "members", "id"]
    ),
    st.sampled_from(
        ['emails[type eq "work"]', 'emails[type eq "work"].value', "roles[primary eq true].value", "x[y pr]"]
    ),
    st.text(),
    ANYTHING,
)
BODIES = st.one_of(
    ANYTHING,
    st.fixed_dictionaries(
        {
            "Operations": st.lists(
                st.fixed_dictionaries(
                    {"op": st.one_of(st.sampled_from(["Add", "replace", "REMOVE"]), ANYTHING)},
                    optional={
                        "path": PATHS,
                        "value": st.one_of(
                            ANYTHING, st.dictionaries(PATHS.filter(lambda p: isinstance(p, str)), ANYTHING)
                        ),
                    },
                ),
                max_size=3,
            )
        }
    ),
)


@settings(max_examples=400, deadline=None)
@given(DOCUMENTS, BODIES)
def test_nothing_raises_anything_but_a_client_error_and_every_outcome_can_be_stored(
    doc: dict[str, Any], body: Any
) -> None:
    doc = read_user(doc, SCHEMA).doc
    before = deepcopy(doc)
    try:
        result = apply_patch(doc, body, SCHEMA)
    except ClientError:
        pass
    else:
        assert read_user(result.doc, SCHEMA).doc == result.doc
        assert result.changed == (result.doc != before)
    assert doc == before
