"""FunctionService on the wire."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import replace
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from grpc import StatusCode

from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1 import function_service_pb2 as pb
from skybridge_server.runtimes.base import Credentials
from tests.api.served import Served, all_of, refusal, serve
from tests.fakes.runtime import IMAGE
from tests.limits import LIMITS
from tests.support.waiting import PATIENCE

HELLO = "namespaces/default/functions/hello"


async def get(served: Served, name: str = "hello") -> function_pb2.Function:
    answer = await served.functions.GetFunction(pb.GetFunctionRequest(name=name))
    return answer.function


async def update(
    served: Served, *mask: str, etag: str = "", **fields: Any
) -> function_pb2.Function:
    request = pb.UpdateFunctionRequest(
        function=function_pb2.Function(name="hello", **fields),
        update_mask=FieldMask(paths=mask),
        etag=etag,
    )
    return (await served.functions.UpdateFunction(request)).function


async def test_a_created_function_shows_all_its_defaults(served: Served) -> None:
    created = await served.create(
        description="d", labels={"team": "blue"}, uid="ignored", generation=9
    )
    assert created.name == HELLO
    assert uuid.UUID(created.uid).version == 7
    assert created.state == function_pb2.FUNCTION_STATE_UNDEPLOYED
    assert (created.generation, created.active_revision) == (1, "")
    assert (created.description, dict(created.labels)) == ("d", {"team": "blue"})
    assert created.etag
    assert created.create_time == created.update_time
    assert created.spec.resources.memory_bytes == 128 << 20
    assert created.spec.scaling.max_queue_depth == 1000
    assert created.spec.isolation.user == "65532:65532"
    assert created.spec.runtime == "docker"
    assert await get(served) == created
    assert await get(served, HELLO) == created


async def test_a_name_is_taken_once(served: Served) -> None:
    await served.create()
    refused = await refusal(served.create)
    assert (refused.code, refused.reason) == (StatusCode.ALREADY_EXISTS, "FUNCTION_EXISTS")


async def test_a_request_id_gives_the_first_answer_again(served: Served) -> None:
    request = pb.CreateFunctionRequest(
        function_id="hello",
        function=function_pb2.Function(spec=function_pb2.FunctionSpec(image="busybox")),
        request_id=str(uuid.uuid4()),
    )
    first = await served.functions.CreateFunction(request)
    assert await served.functions.CreateFunction(request) == first
    request.function.description = "another request"
    refused = await refusal(lambda: served.functions.CreateFunction(request))
    assert (refused.code, refused.reason) == (StatusCode.ALREADY_EXISTS, "REQUEST_ID_REUSED")


async def test_validate_only_checks_and_changes_nothing(served: Served) -> None:
    request = pb.CreateFunctionRequest(
        function_id="hello",
        function=function_pb2.Function(spec=function_pb2.FunctionSpec(image="busybox")),
        validate_only=True,
    )
    answer = await served.functions.CreateFunction(request)
    assert answer.function.name == HELLO
    assert (await refusal(lambda: get(served))).code is StatusCode.NOT_FOUND
    created = await served.create()
    await served.functions.UpdateFunction(
        pb.UpdateFunctionRequest(
            function=function_pb2.Function(name="hello", description="new"), validate_only=True
        )
    )
    assert await get(served) == created


async def test_namespaces_are_apart(served: Served) -> None:
    request = pb.CreateFunctionRequest(
        parent="namespaces/other",
        function_id="hello",
        function=function_pb2.Function(spec=function_pb2.FunctionSpec(image="busybox")),
    )
    answer = await served.functions.CreateFunction(request)
    assert answer.function.name == "namespaces/other/functions/hello"
    refused = await refusal(lambda: get(served))
    assert (refused.code, refused.reason) == (StatusCode.NOT_FOUND, "NOT_FOUND")
    page = await served.functions.ListFunctions(pb.ListFunctionsRequest(parent="namespaces/other"))
    assert [function.name for function in page.functions] == [answer.function.name]


async def names_of(served: Served, **fields: Any) -> tuple[list[str], str]:
    page = await served.functions.ListFunctions(pb.ListFunctionsRequest(**fields))
    names = [function.name.rpartition("/")[2] for function in page.functions]
    return names, page.next_page_token


async def test_lists_come_in_pages(served: Served) -> None:
    for name in ("e", "b", "d", "a", "c"):
        await served.create(name)
    assert await names_of(served) == (["a", "b", "c", "d", "e"], "")
    assert await names_of(served, page_size=5000) == (["a", "b", "c", "d", "e"], "")
    seen: list[list[str]] = []
    token = ""
    while not seen or token:
        names, token = await names_of(served, page_size=2, page_token=token, order_by="name desc")
        seen.append(names)
    assert seen == [["e", "d"], ["c", "b"], ["a"]]


async def test_lists_are_filtered_and_ordered(served: Served) -> None:
    await served.create("apple", labels={"team": "blue"})
    await served.create("apricot", labels={"team": "red"})
    await served.create("banana")
    await served.deploy("banana")
    assert (await names_of(served, filter='name : "ap"'))[0] == ["apple", "apricot"]
    assert (await names_of(served, filter='labels.team = "red"'))[0] == ["apricot"]
    assert (await names_of(served, filter="labels.team : *"))[0] == ["apple", "apricot"]
    assert (await names_of(served, filter="state = ACTIVE"))[0] == ["banana"]
    newest_first = await names_of(served, order_by="create_time desc")
    assert newest_first[0] == ["banana", "apricot", "apple"]


async def test_a_token_belongs_to_its_list(served: Served) -> None:
    for name in ("a", "b", "c"):
        await served.create(name)
    _, token = await names_of(served, page_size=1)
    for fields in (
        {"filter": "state = UNDEPLOYED"},
        {"order_by": "name desc"},
        {"parent": "namespaces/other"},
    ):
        refused = await refusal(lambda f=fields: names_of(served, page_token=token, **f))  # type: ignore[misc] # the loop's value
        assert (refused.code, refused.fields) == (StatusCode.INVALID_ARGUMENT, ["page_token"])
    parent = "namespaces/default/functions/a"
    request = pb.ListRevisionsRequest(parent=parent, page_token=token)
    refused = await refusal(lambda: served.functions.ListRevisions(request))
    assert refused.fields == ["page_token"]
    assert (await names_of(served, page_token=token, parent="namespaces/default"))[0] == ["b", "c"]


async def test_an_update_changes_what_its_mask_names(served: Served) -> None:
    created = await served.create(
        description="old", spec={"image": "busybox", "env": {"A": "1"}, "resources": {"pids": 9}}
    )
    changed = await update(served, "spec.resources.pids", "description", spec={"image": "other"})
    assert changed.spec.resources.pids == 128
    assert (changed.spec.image, dict(changed.spec.env)) == ("busybox", {"A": "1"})
    assert changed.description == ""
    assert changed.generation == created.generation + 1
    assert changed.etag != created.etag
    changed = await update(served, description="new", spec={"env": {"B": "2"}})
    assert (changed.description, dict(changed.spec.env)) == ("new", {"B": "2"})
    changed = await update(served, "*", spec={"image": "other"})
    assert (changed.description, dict(changed.spec.env)) == ("", {})
    assert await get(served) == changed


async def test_an_update_is_judged_by_what_it_changes() -> None:
    """Neither fields beside the mask nor what was written under older limits stand in its way."""
    async with serve() as served:
        await served.create(spec={"image": "busybox", "timeouts": {"execution": {"seconds": 60}}})
        await update(served, "description", description="new", spec={"network": 99})
        refused = await refusal(
            lambda: update(
                served,
                "spec.network",
                "spec.image",
                "labels",
                spec={"network": 99, "pull_policy": 99},
                labels={"A": "x"},
            )
        )
        assert refused.code is StatusCode.INVALID_ARGUMENT
        assert sorted(refused.fields) == [
            "function.labels[A]",
            "function.spec.image",
            "function.spec.network",
        ]


async def test_an_update_with_a_stale_etag_is_aborted(served: Served) -> None:
    created = await served.create()
    changed = await update(served, etag=created.etag, description="new")
    refused = await refusal(lambda: update(served, etag=created.etag, description="newer"))
    assert (refused.code, refused.reason) == (StatusCode.ABORTED, "ETAG_MISMATCH")
    assert await get(served) == changed


async def test_delete(served: Served) -> None:
    created = await served.create()
    stale = pb.DeleteFunctionRequest(name="hello", etag="stale")
    refused = await refusal(lambda: served.functions.DeleteFunction(stale))
    assert refused.code is StatusCode.ABORTED
    request = pb.DeleteFunctionRequest(
        name="hello", etag=created.etag, request_id=str(uuid.uuid4())
    )
    await served.functions.DeleteFunction(request)
    assert (await refusal(lambda: get(served))).code is StatusCode.NOT_FOUND
    await served.functions.DeleteFunction(request)
    again = pb.DeleteFunctionRequest(name="hello")
    refused = await refusal(lambda: served.functions.DeleteFunction(again))
    assert refused.code is StatusCode.NOT_FOUND


async def test_disable_and_enable(served: Served) -> None:
    await served.create()
    await served.deploy()
    disabled = await served.functions.DisableFunction(pb.DisableFunctionRequest(name="hello"))
    assert disabled.function.state == function_pb2.FUNCTION_STATE_DISABLED
    refused = await refusal(served.start)
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "FUNCTION_DISABLED")
    enabled = await served.functions.EnableFunction(
        pb.EnableFunctionRequest(name="hello", etag=disabled.function.etag)
    )
    assert enabled.function.state == function_pb2.FUNCTION_STATE_ACTIVE


async def test_a_deployment_tells_its_progress_and_ends_with_the_revision(served: Served) -> None:
    served.runtime.images.registry["ghcr.io/acme/app:2"] = replace(IMAGE, id="sha256:" + "9" * 64)
    await served.create(spec={"image": "ghcr.io/acme/app:2"})
    request = pb.DeployFunctionRequest(
        name="hello",
        registry_credentials=pb.RegistryCredentials(username="u", password="p"),
    )
    steps = await all_of(served.functions.DeployFunction(request, timeout=PATIENCE))
    assert [step.phase for step in steps if step.WhichOneof("progress") == "phase"] == [1, 2, 3, 4]
    layer = next(step.layer for step in steps if step.WhichOneof("progress") == "layer")
    assert layer == pb.LayerProgress(
        layer="layer", status="Downloading", current_bytes=1_000_000, total_bytes=2_000_000
    )
    revision = steps[-1].revision
    assert (revision.name, revision.number) == (f"{HELLO}/revisions/1", 1)
    assert revision.active
    assert revision.image_id == "sha256:" + "9" * 64
    assert (await get(served)).active_revision == revision.name
    assert served.runtime.images.pulled_with == [Credentials("u", "p")]


async def test_a_deployment_fails_with_the_reason(served: Served) -> None:
    await served.create(spec={"image": "nowhere"})
    refused = await refusal(served.deploy)
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "IMAGE_NOT_FOUND")
    assert (await refusal(lambda: served.deploy("unknown"))).code is StatusCode.NOT_FOUND
    assert "nowhere" in (await get(served)).state_message


async def test_a_deployment_goes_on_without_its_caller(served: Served) -> None:
    await served.create()
    release = served.runtime.gate.hold("get_image")
    stream = served.functions.DeployFunction(pb.DeployFunctionRequest(name="hello"))
    assert (await anext(aiter(stream))).phase == pb.DEPLOYMENT_PHASE_RESOLVING
    stream.cancel()
    release.set()
    async with asyncio.timeout(PATIENCE):
        await asyncio.gather(*served.services.deployments._tasks)
    assert (await get(served)).active_revision == f"{HELLO}/revisions/1"


async def test_revisions(served: Served) -> None:
    await served.create()
    first, second = await served.deploy(), await served.deploy()
    request = pb.GetRevisionRequest(name="hello/revisions/1")
    found = (await served.functions.GetRevision(request)).revision
    assert (found.name, found.active) == (first.name, False)
    found = (await served.functions.GetRevision(pb.GetRevisionRequest(name=second.name))).revision
    assert found == second
    page = await served.functions.ListRevisions(pb.ListRevisionsRequest(parent="hello"))
    assert [(each.number, each.active) for each in page.revisions] == [(2, True), (1, False)]
    page = await served.functions.ListRevisions(
        pb.ListRevisionsRequest(parent="hello", page_size=1)
    )
    page = await served.functions.ListRevisions(
        pb.ListRevisionsRequest(parent="hello", page_token=page.next_page_token)
    )
    assert ([each.number for each in page.revisions], page.next_page_token) == ([1], "")
    for call in (
        lambda: served.functions.GetRevision(pb.GetRevisionRequest(name="hello/revisions/3")),
        lambda: served.functions.ListRevisions(pb.ListRevisionsRequest(parent="unknown")),
    ):
        assert (await refusal(call)).code is StatusCode.NOT_FOUND


async def test_rollback(served: Served) -> None:
    await served.create()
    await served.deploy()
    await served.deploy()
    answer = await served.functions.RollbackFunction(pb.RollbackFunctionRequest(name="hello"))
    assert answer.function.active_revision == f"{HELLO}/revisions/1"
    answer = await served.functions.RollbackFunction(
        pb.RollbackFunctionRequest(name="hello", revision=2)
    )
    assert answer.function.active_revision == f"{HELLO}/revisions/2"
    for revision in (5, 2**63 - 1):
        request = pb.RollbackFunctionRequest(name="hello", revision=revision)
        refused = await refusal(lambda r=request: served.functions.RollbackFunction(r))  # type: ignore[misc] # the loop's value
        assert refused.code is StatusCode.NOT_FOUND


@pytest.mark.parametrize("when", ["written", "deployed"])
async def test_an_image_that_the_operator_does_not_trust(when: str) -> None:
    strict = replace(LIMITS, allowed_images=("ghcr.io/acme/*",))
    if when == "written":
        async with serve(strict) as served:
            refused = await refusal(served.create)
            assert (refused.code, refused.fields) == (
                StatusCode.INVALID_ARGUMENT,
                ["function.spec.image"],
            )
    else:
        async with serve() as served:
            await served.create()
            served.services.deployments._limits = strict
            refused = await refusal(served.deploy)
            assert (refused.code, refused.reason) == (
                StatusCode.FAILED_PRECONDITION,
                "IMAGE_REFUSED",
            )
