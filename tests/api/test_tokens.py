"""TokenService on the wire, and the door that it keeps: who is let in to what."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.timestamp_pb2 import Timestamp
from grpc import StatusCode
from structlog.testing import capture_logs

from skybridge.faas.v1 import execution_service_pb2 as executions_pb
from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1 import function_service_pb2 as functions_pb
from skybridge.faas.v1 import instance_service_pb2 as instances_pb
from skybridge.faas.v1 import token_service_pb2 as pb
from skybridge.faas.v1.token_pb2 import (
    ROLE_ADMIN,
    ROLE_DEVELOPER,
    ROLE_INVOKER,
    ROLE_VIEWER,
    Role,
    Token,
)
from skybridge_server.api import calls
from skybridge_server.api.access import Access
from skybridge_server.api.permissions import RULES
from skybridge_server.models import tokens as models
from skybridge_server.services.clock import SYSTEM_CLOCK
from skybridge_server.services.tokens import TokenService
from tests.api.served import Served, refusal, serve
from tests.fakes.repositories import FakeTokens
from tests.support import descriptors
from tests.support.waiting import PATIENCE, until

ADMIN = "x" * 32
Metadata = tuple[tuple[str, str], ...]


def bearer(secret: str, scheme: str = "Bearer") -> Metadata:
    return (("authorization", f"{scheme} {secret}"),)


@pytest.fixture
async def guarded() -> AsyncGenerator[Served, None]:
    """A server that asks for tokens."""
    async with serve(admin_token=ADMIN) as running:
        yield running


async def create(served: Served, id_: str, role: Role.ValueType, **fields: Any) -> str:
    """Create a token, and return its secret."""
    request = pb.CreateTokenRequest(token_id=id_, token=Token(role=role, **fields))
    answer = await served.tokens.CreateToken(request, metadata=bearer(ADMIN), timeout=PATIENCE)
    return answer.secret


async def code_of(served: Served, rpc: MethodDescriptor, metadata: Metadata) -> StatusCode:
    """Make a call with an empty request, and return how it ends."""
    path = f"/{rpc.containing_service.full_name}/{rpc.name}"
    kind = ("stream" if rpc.client_streaming else "unary") + (
        "_stream" if rpc.server_streaming else "_unary"
    )
    call: Any = getattr(served.channel, kind)(path)
    # Callers of InvokeStream hear of a refusal before they have sent anything.
    requests = [] if rpc.name == "InvokeStream" else [b""]
    request = iter(requests) if rpc.client_streaming else b""
    try:
        answer = call(request, metadata=metadata, timeout=PATIENCE)
        if rpc.server_streaming:
            _ = [message async for message in answer]
        else:
            await answer
    except grpc.aio.AioRpcError as error:
        return error.code()
    return StatusCode.OK


# -- the service ---------------------------------------------------------------------------------


async def test_creates_gets_lists_and_deletes(guarded: Served) -> None:
    later = Timestamp()
    later.FromDatetime(datetime.now(UTC) + timedelta(days=1))
    wanted = Token(
        role=ROLE_DEVELOPER,
        namespaces=["namespaces/red", "namespaces/blue"],
        description="for CI",
        expire_time=later,
        name="tokens/ignored",
    )
    mine: Any = {"metadata": bearer(ADMIN), "timeout": PATIENCE}
    created = await guarded.tokens.CreateToken(
        pb.CreateTokenRequest(token_id="ci", token=wanted), **mine
    )
    token = created.token
    assert (token.name, token.role, token.description) == ("tokens/ci", ROLE_DEVELOPER, "for CI")
    assert token.namespaces == ["namespaces/blue", "namespaces/red"]
    assert abs(token.expire_time.ToNanoseconds() - later.ToNanoseconds()) < 1000
    assert token.HasField("create_time")

    for name in ("ci", "tokens/ci"):
        found = await guarded.tokens.GetToken(pb.GetTokenRequest(name=name), **mine)
        assert found.token == token
    await create(guarded, "web", ROLE_INVOKER)
    first = await guarded.tokens.ListTokens(pb.ListTokensRequest(page_size=1), **mine)
    assert [*first.tokens] == [token]
    rest = await guarded.tokens.ListTokens(
        pb.ListTokensRequest(page_token=first.next_page_token), **mine
    )
    assert [each.name for each in rest.tokens] == ["tokens/web"]
    assert not rest.next_page_token

    await guarded.tokens.DeleteToken(pb.DeleteTokenRequest(name="ci"), **mine)
    refused = await refusal(lambda: guarded.tokens.GetToken(pb.GetTokenRequest(name="ci"), **mine))
    assert refused.code is StatusCode.NOT_FOUND


async def test_every_wrong_field_is_told(guarded: Served) -> None:
    past = Timestamp(seconds=1)
    token = Token(namespaces=["blue", "", "namespaces/A"], description="\0", expire_time=past)
    token.role = 99  # type: ignore[assignment]
    request = pb.CreateTokenRequest(token_id="UP", token=token)
    refused = await refusal(
        lambda: guarded.tokens.CreateToken(request, metadata=bearer(ADMIN), timeout=PATIENCE)
    )
    assert refused.code is StatusCode.INVALID_ARGUMENT
    assert {*refused.fields} == {
        "token_id",
        "token.role",
        "token.namespaces",
        "token.namespaces[0]",
        "token.namespaces[1]",
        "token.namespaces[2]",
        "token.description",
        "token.expire_time",
    }
    request = pb.CreateTokenRequest(token_id="ok")
    refused = await refusal(
        lambda: guarded.tokens.CreateToken(request, metadata=bearer(ADMIN), timeout=PATIENCE)
    )
    assert refused.fields == ["token.role"]


async def test_a_name_is_taken_once(guarded: Served) -> None:
    await create(guarded, "ci", ROLE_VIEWER)
    refused = await refusal(lambda: create(guarded, "ci", ROLE_ADMIN))
    assert (refused.code, refused.reason) == (StatusCode.ALREADY_EXISTS, "TOKEN_EXISTS")


async def test_callers_learn_who_they_are(guarded: Served) -> None:
    secret = await create(guarded, "ci", ROLE_VIEWER, namespaces=["namespaces/blue"])
    for key, name, role in ((secret, "tokens/ci", ROLE_VIEWER), (ADMIN, "", ROLE_ADMIN)):
        answer = await guarded.tokens.GetCaller(
            pb.GetCallerRequest(), metadata=bearer(key), timeout=PATIENCE
        )
        assert (answer.token.name, answer.token.role) == (name, role)
        assert answer.token_required


# -- who is let in -------------------------------------------------------------------------------


async def test_a_server_that_asks_for_no_token_takes_any(served: Served) -> None:
    for metadata in ((), bearer("nonsense")):
        answer = await served.tokens.GetCaller(
            pb.GetCallerRequest(), metadata=metadata, timeout=PATIENCE
        )
        assert (answer.token, answer.token_required) == (Token(role=ROLE_ADMIN), False)
    await served.create()
    refused = await refusal(lambda: create(served, "ci", ROLE_VIEWER))
    assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "TOKENS_OFF")


@pytest.mark.parametrize("rpc", [*descriptors.rpcs()], ids=lambda rpc: rpc.name)
async def test_each_rpc_is_for_those_who_may(rpc: MethodDescriptor, guarded: Served) -> None:
    rule = RULES[f"{rpc.containing_service.full_name}/{rpc.name}"]
    assert await code_of(guarded, rpc, ()) is StatusCode.UNAUTHENTICATED
    assert await code_of(guarded, rpc, bearer("y" * 32)) is StatusCode.UNAUTHENTICATED
    for role in models.Role:
        secret = await create(guarded, role.name.lower(), Role.ValueType(role))
        code = await code_of(guarded, rpc, bearer(secret))
        if rule.permission in models.GRANTS[role]:
            assert code not in {StatusCode.UNAUTHENTICATED, StatusCode.PERMISSION_DENIED}
        else:
            assert code is StatusCode.PERMISSION_DENIED


async def test_health_and_reflection_are_open_to_all(guarded: Served) -> None:
    check: Any = guarded.channel.unary_unary("/grpc.health.v1.Health/Check")
    assert await check(b"", timeout=PATIENCE) == b"\x08\x01"
    for version in ("v1", "v1alpha"):
        path = f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo"
        call: Any = guarded.channel.stream_stream(path)
        (answer,) = [each async for each in call(iter([b":\x00"]), timeout=PATIENCE)]
        assert b"skybridge.faas.v1.TokenService" in answer


@pytest.mark.parametrize(
    ("metadata", "reason"),
    [
        ((), "TOKEN_REQUIRED"),
        ((("authorization", ADMIN),), "TOKEN_REQUIRED"),
        (bearer(ADMIN, "Basic"), "TOKEN_REQUIRED"),
        (bearer("y" * 32), "TOKEN_UNKNOWN"),
        (bearer(""), "TOKEN_UNKNOWN"),
        (bearer(ADMIN[:-1]), "TOKEN_UNKNOWN"),
        (bearer(ADMIN), ""),
        (bearer(ADMIN, "bearer"), ""),
        (bearer(ADMIN, "BEARER"), ""),
    ],
)
async def test_how_a_token_is_sent(metadata: Metadata, reason: str, guarded: Served) -> None:
    async def call() -> pb.GetCallerResponse:
        return await guarded.tokens.GetCaller(
            pb.GetCallerRequest(), metadata=metadata, timeout=PATIENCE
        )

    if not reason:
        assert (await call()).token.role == ROLE_ADMIN
        return
    refused = await refusal(call)
    assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, reason)
    assert ADMIN[:-1] not in refused.message


async def test_who_may_not_is_told_who_may(guarded: Served) -> None:
    viewer = await create(guarded, "ci", ROLE_VIEWER)
    request = functions_pb.DeleteFunctionRequest(name="hello")
    refused = await refusal(
        lambda: guarded.functions.DeleteFunction(request, metadata=bearer(viewer), timeout=PATIENCE)
    )
    assert (refused.code, refused.reason) == (StatusCode.PERMISSION_DENIED, "ROLE_INSUFFICIENT")
    assert refused.message == (
        "tokens/ci has the role VIEWER: FunctionService.DeleteFunction needs DEVELOPER or ADMIN"
    )


# -- where ---------------------------------------------------------------------------------------


async def test_a_token_is_good_in_its_namespaces(guarded: Served) -> None:
    secret = await create(guarded, "ci", ROLE_DEVELOPER, namespaces=["namespaces/blue"])
    mine: Any = {"metadata": bearer(secret), "timeout": PATIENCE}
    spec = function_pb2.FunctionSpec(image="busybox")

    async def make(parent: str) -> Any:
        request = functions_pb.CreateFunctionRequest(
            parent=parent, function_id="hello", function=function_pb2.Function(spec=spec)
        )
        return await guarded.functions.CreateFunction(request, **mine)

    async def get(name: str) -> Any:
        return await guarded.functions.GetFunction(
            functions_pb.GetFunctionRequest(name=name), **mine
        )

    await make("namespaces/blue")
    assert (await get("namespaces/blue/functions/hello")).function.spec.image
    for denied in (
        lambda: make(""),
        lambda: make("namespaces/red"),
        lambda: get("hello"),  # whether it is there or not
        lambda: get("namespaces/red/functions/no-such"),
    ):
        refused = await refusal(denied)
        assert (refused.code, refused.reason) == (StatusCode.PERMISSION_DENIED, "NAMESPACE_DENIED")
    assert "it is in namespaces/blue" in refused.message
    listed = await guarded.functions.ListFunctions(
        functions_pb.ListFunctionsRequest(parent="namespaces/blue"), **mine
    )
    assert len(listed.functions) == 1
    instances = instances_pb.ListInstancesRequest(
        parent="namespaces/blue", function="namespaces/red/functions/x"
    )
    refused = await refusal(lambda: guarded.instances.ListInstances(instances, **mine))
    assert refused.reason == "NAMESPACE_DENIED"


async def test_a_destination_elsewhere_needs_a_token_that_is_good_there(guarded: Served) -> None:
    secret = await create(guarded, "ci", ROLE_DEVELOPER, namespaces=["namespaces/blue"])
    mine: Any = {"metadata": bearer(secret), "timeout": PATIENCE}

    def request(id_: str, target: str) -> functions_pb.CreateFunctionRequest:
        destinations = function_pb2.Destinations(
            on_failure=function_pb2.Destination(function=target)
        )
        spec = function_pb2.FunctionSpec(image="busybox", destinations=destinations)
        return functions_pb.CreateFunctionRequest(
            parent="namespaces/blue", function_id=id_, function=function_pb2.Function(spec=spec)
        )

    await guarded.functions.CreateFunction(request("a", "other"), **mine)
    await guarded.functions.CreateFunction(request("b", "namespaces/blue/functions/other"), **mine)
    elsewhere = request("c", "namespaces/red/functions/other")
    refused = await refusal(lambda: guarded.functions.CreateFunction(elsewhere, **mine))
    assert refused.reason == "NAMESPACE_DENIED"
    change = functions_pb.UpdateFunctionRequest(function=elsewhere.function)
    change.function.name = "namespaces/blue/functions/a"
    for mask in ([], ["*"], ["spec"], ["spec.destinations"], ["spec.destinations.on_failure"]):
        change.update_mask.paths[:] = mask
        refused = await refusal(lambda: guarded.functions.UpdateFunction(change, **mine))
        assert refused.reason == "NAMESPACE_DENIED", mask
    # What somebody else has set stays, and hinders nobody who changes something else.
    change.function.description = "mine"
    change.update_mask.paths[:] = ["description"]
    await guarded.functions.UpdateFunction(change, **mine)


async def test_a_rollback_brings_no_destination_back_that_its_caller_may_not_set(
    guarded: Served,
) -> None:
    all_: Any = {"metadata": bearer(ADMIN), "timeout": PATIENCE}
    name = "namespaces/blue/functions/a"
    for target in ("namespaces/red/functions/x", ""):
        destination = function_pb2.Destination(function=target)
        destinations = function_pb2.Destinations(on_success=destination)
        spec = function_pb2.FunctionSpec(image="busybox", destinations=destinations)
        function = function_pb2.Function(name=name, spec=spec)
        if target:
            await guarded.functions.CreateFunction(
                functions_pb.CreateFunctionRequest(
                    parent="namespaces/blue", function_id="a", function=function
                ),
                **all_,
            )
        else:
            function.spec.ClearField("destinations")
            update = functions_pb.UpdateFunctionRequest(function=function)
            update.update_mask.paths[:] = ["spec.destinations"]
            await guarded.functions.UpdateFunction(update, **all_)
        deploy = functions_pb.DeployFunctionRequest(name=name)
        _ = [step async for step in guarded.functions.DeployFunction(deploy, **all_)]
    secret = await create(guarded, "ci", ROLE_DEVELOPER, namespaces=["namespaces/blue"])
    back = functions_pb.RollbackFunctionRequest(name=name)
    refused = await refusal(
        lambda: guarded.functions.RollbackFunction(back, metadata=bearer(secret), timeout=PATIENCE)
    )
    assert refused.reason == "NAMESPACE_DENIED"
    await guarded.functions.RollbackFunction(back, **all_)


async def test_what_is_no_name_is_told_as_such(guarded: Served) -> None:
    secret = await create(guarded, "ci", ROLE_VIEWER, namespaces=["namespaces/blue"])
    mine: Any = {"metadata": bearer(secret), "timeout": PATIENCE}

    async def get(name: str) -> Any:
        request = functions_pb.GetFunctionRequest(name=name)
        return await guarded.functions.GetFunction(request, **mine)

    for name in ("/namespaces/blue/functions/x", "UP", "a b", "é", "namespaces/blue/functions/X"):
        refused = await refusal(partial(get, name))
        assert (refused.code, refused.fields) == (StatusCode.INVALID_ARGUMENT, ["name"]), name
    refused = await refusal(partial(get, "x"))
    assert "namespaces/default, which a name without a namespace means" in refused.message


async def test_one_of_many_that_is_elsewhere_is_refused_alone(guarded: Served) -> None:
    secret = await create(guarded, "web", ROLE_INVOKER, namespaces=["namespaces/blue"])
    mine: Any = {"metadata": bearer(secret), "timeout": PATIENCE}
    spaces = ("red", "blue")
    names = [f"namespaces/{space}/functions/x" for space in spaces]
    requests = [executions_pb.ExecuteFunctionRequest(function=name) for name in names]
    batch = await guarded.executions.ExecuteBatch(
        executions_pb.ExecuteBatchRequest(requests=requests), **mine
    )
    codes = [StatusCode.PERMISSION_DENIED.value[0], StatusCode.NOT_FOUND.value[0]]
    assert [result.error.code for result in batch.results] == codes
    assert "it is in namespaces/blue" in batch.results[0].error.message

    async def messages() -> AsyncIterator[executions_pb.InvokeStreamRequest]:
        for space in spaces:
            yield invoke(space, space)

    call = guarded.executions.InvokeStream(messages(), **mine)
    answers = {each.id: each async for response in call for each in response.answers}
    assert [answers[space].error.code for space in spaces] == codes


# -- calls that last -----------------------------------------------------------------------------


def invoke(id_: str, space: str = "default") -> executions_pb.InvokeStreamRequest:
    execute = executions_pb.ExecuteFunctionRequest(function=f"namespaces/{space}/functions/x")
    invocation = executions_pb.Invocation(id=id_, execute=execute)
    return executions_pb.InvokeStreamRequest(invocations=[invocation])


async def test_a_stream_of_requests_ends_with_its_token(guarded: Served) -> None:
    secret = await create(guarded, "web", ROLE_INVOKER)
    call = guarded.executions.InvokeStream(metadata=bearer(secret), timeout=PATIENCE)
    await call.write(invoke("1"))
    first: Any = await call.read()
    assert first.answers[0].id == "1"
    request = pb.DeleteTokenRequest(name="web")
    await guarded.tokens.DeleteToken(request, metadata=bearer(ADMIN), timeout=PATIENCE)
    await call.write(invoke("2"))

    async def read() -> None:
        await call.read()

    refused = await refusal(read)
    assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_UNKNOWN")


async def test_a_stream_without_a_token_is_refused_before_its_first_request(
    guarded: Served,
) -> None:
    silent = asyncio.Event()

    async def requests() -> AsyncIterator[executions_pb.InvokeStreamRequest]:
        await silent.wait()
        yield invoke("never")

    async def read() -> None:
        call = guarded.executions.InvokeStream(requests(), timeout=PATIENCE)
        await call.read()

    assert (await refusal(read)).code is StatusCode.UNAUTHENTICATED
    silent.set()


@pytest.mark.parametrize("said", ["nothing", "the end", "nonsense"])
async def test_an_attachment_without_a_token_is_refused_whatever_its_caller_says(
    said: str, guarded: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(calls, "FIRST_REQUEST_SECONDS", 0.05 if said == "nothing" else PATIENCE)
    silent = asyncio.Event()

    async def requests() -> AsyncIterator[bytes]:
        if said == "nothing":
            await silent.wait()
        elif said == "nonsense":
            yield b"\xff"

    attach: Any = guarded.channel.stream_stream(
        "/skybridge.faas.v1.ExecutionService/AttachExecution"
    )

    async def read() -> None:
        await attach(requests(), timeout=PATIENCE).read()

    refused = await refusal(read)
    assert (refused.code, refused.reason) == (StatusCode.UNAUTHENTICATED, "TOKEN_REQUIRED")
    silent.set()


async def test_what_is_followed_is_followed_to_its_end(guarded: Served) -> None:
    mine: Any = {"metadata": bearer(ADMIN), "timeout": PATIENCE}
    spec = function_pb2.FunctionSpec(image="busybox", command=["wait"])
    await guarded.functions.CreateFunction(
        functions_pb.CreateFunctionRequest(
            function_id="x", function=function_pb2.Function(spec=spec)
        ),
        **mine,
    )
    deploy = functions_pb.DeployFunctionRequest(name="x")
    _ = [step async for step in guarded.functions.DeployFunction(deploy, **mine)]
    started = await guarded.executions.StartExecution(
        executions_pb.StartExecutionRequest(function="x"), **mine
    )
    viewer = await create(guarded, "ci", ROLE_VIEWER)
    watch = guarded.executions.WatchExecution(
        executions_pb.WatchExecutionRequest(name=started.execution.name),
        metadata=bearer(viewer),
        timeout=PATIENCE,
    )
    events = aiter(watch)
    await anext(events)
    await guarded.tokens.DeleteToken(pb.DeleteTokenRequest(name="ci"), **mine)
    await guarded.executions.CancelExecution(
        executions_pb.CancelExecutionRequest(name=started.execution.name), **mine
    )
    rest = [answer.event async for answer in events]
    assert rest[-1].HasField("result")


# -- what is logged ------------------------------------------------------------------------------


async def logged(count: int, logs: list[Any]) -> list[dict[str, Any]]:
    """Wait for the lines of so many calls."""

    async def all_there() -> bool:
        return len([entry for entry in logs if entry["event"] == "call"]) == count

    await until(all_there, "the calls to be logged")
    return [entry for entry in logs if entry["event"] == "call"]


async def test_who_changed_what_is_logged(guarded: Served) -> None:
    secret = await create(guarded, "ci", ROLE_DEVELOPER)
    mine: Any = {"metadata": bearer(secret), "timeout": PATIENCE}
    spec = function_pb2.FunctionSpec(image="busybox", env={"KEY": "geheim"})
    function = function_pb2.Function(name="hello", spec=spec)
    with capture_logs() as logs:
        await guarded.functions.CreateFunction(
            functions_pb.CreateFunctionRequest(function_id="hello", function=function), **mine
        )
        await guarded.functions.GetFunction(functions_pb.GetFunctionRequest(name="hello"), **mine)
        await guarded.functions.UpdateFunction(
            functions_pb.UpdateFunctionRequest(function=function), **mine
        )
        delete = pb.DeleteTokenRequest(name="ci")
        await refusal(lambda: guarded.tokens.DeleteToken(delete, **mine))
        entries = await logged(4, logs)
    told = [(each["log_level"], each["code"], each.get("resource")) for each in entries]
    assert told == [
        ("info", "OK", "namespaces/default/functions/hello"),
        ("debug", "OK", None),
        ("info", "OK", "hello"),
        ("info", "PERMISSION_DENIED", None),
    ]
    assert {each["caller"] for each in entries} == {"tokens/ci"}
    assert secret not in str(logs)
    assert "geheim" not in str(logs)


@pytest.mark.parametrize("name", ["sky_SECRET", "x" * 1_000_000, "a\nb", "https://h/SECRET"])
async def test_nothing_but_names_is_logged(name: str, served: Served) -> None:
    with capture_logs() as logs:
        request = pb.DeleteTokenRequest(name=name)
        await refusal(lambda: served.tokens.DeleteToken(request, timeout=PATIENCE))
        (entry,) = await logged(1, logs)
    assert entry["resource"] == "?"
    assert "caller" not in entry


def test_a_method_without_a_rule_is_not_served() -> None:
    guard = Access(TokenService(FakeTokens(), SYSTEM_CLOCK, ADMIN)).guard
    for method in ("skybridge.faas.v2.FunctionService/DeleteFunction", "grpc.channelz.v1.C/X"):
        with pytest.raises(KeyError):
            guard(method)
