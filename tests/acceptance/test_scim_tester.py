"""scim2-tester, an independent judge, against a running instance."""

from __future__ import annotations

import asyncio
from contextlib import closing
from typing import TYPE_CHECKING

import pytest
from scim2_tester import CheckResult, Status, check_server

from tests.support.judge import JudgeClient

if TYPE_CHECKING:
    from tests.support.api import Caller

pytestmark = pytest.mark.asyncio(loop_scope="module")

# Not asked for: crud:update, crud:delete and patch:*, because users have no PUT and DELETE yet.
CHECKS = {"discovery", "service-provider-config", "resource-types", "schemas", "crud:create", "crud:read", "misc"}
EXPECTED = {
    *("service_provider_config_endpoint", "service_provider_config_endpoint_methods", "query_all_resource_types"),
    *("query_resource_type_by_id", "access_invalid_resource_type", "resource_types_endpoint_methods"),
    *("resource_types_schema_validation", "query_all_schemas", "access_schema_by_id", "access_invalid_schema"),
    *("schemas_endpoint_methods", "random_url", "object_creation", "object_query", "object_query_without_id"),
}
ATTRIBUTES = {"object_query_with_attributes", "object_list_with_attributes", "search_with_attributes"}


def judged(caller: Caller, tags: set[str]) -> list[CheckResult]:
    with closing(JudgeClient(caller.scim_url, str(caller.token))) as client:
        return check_server(client, include_tags=tags)


async def run(caller: Caller, tags: set[str]) -> dict[str | None, list[CheckResult]]:
    results = await asyncio.to_thread(judged, caller, tags)
    by_check: dict[str | None, list[CheckResult]] = {}
    for result in results:
        if result.status is not Status.SKIPPED:
            by_check.setdefault(result.title, []).append(result)
    return by_check


async def test_create_read_list_and_discovery(caller: Caller) -> None:
    results = await run(caller, CHECKS)
    assert set(results) >= EXPECTED
    bad = [one for each in results.values() for one in each if one.status is not Status.SUCCESS]
    assert not bad, bad
    assert {one.resource_type for one in results["object_creation"]} == {"User", "Group"}


async def test_attributes_and_excluded_attributes(caller: Caller) -> None:
    results = await run(caller, {"crud:read:attributes"})
    assert set(results) >= ATTRIBUTES
    bad = [one for each in results.values() for one in each if one.status is not Status.SUCCESS]
    assert not bad, bad
