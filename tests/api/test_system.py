"""SystemService on the wire."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from google.protobuf.duration_pb2 import Duration
from grpc import StatusCode

from skybridge.faas.v1 import function_pb2
from skybridge.faas.v1 import function_service_pb2 as functions_pb
from skybridge.faas.v1 import system_service_pb2 as pb
from skybridge_server import __version__
from skybridge_server.models.shutdown import ShutdownPolicy
from skybridge_server.runtimes.base import Credentials
from tests.api.served import Served, all_of, refusal, serve
from tests.fakes.runtime import IMAGE
from tests.limits import LIMITS
from tests.support.waiting import PATIENCE

APP = "ghcr.io/acme/app:2"


async def test_system_info() -> None:
    limits = replace(LIMITS, allowed_images=("docker.io/library/*",), require_digest=True)
    async with serve(limits) as served:
        info = await served.system.GetSystemInfo(pb.GetSystemInfoRequest(), timeout=PATIENCE)
    assert (info.version, info.server_id) == (__version__, "server-id")
    assert info.uptime.ToTimedelta() > timedelta(0)
    assert list(info.contracts) == [
        function_pb2.CONTRACT_KIND_STDIO,
        function_pb2.CONTRACT_KIND_HTTP,
        function_pb2.CONTRACT_KIND_LAMBDA,
    ]
    assert info.default_runtime == "docker"
    assert (info.running_executions, info.queued_executions) == (0, 0)
    found = info.limits
    assert list(found.allowed_images) == ["docker.io/library/*"]
    assert found.require_digest
    assert found.max_execution_timeout.ToTimedelta() == limits.max_execution_timeout
    for name in (
        "max_concurrent_executions",
        "max_queued_executions",
        "max_input_bytes",
        "max_memory_bytes",
        "max_cpu_millis",
        "max_pids",
        "max_tmp_bytes",
        "max_output_bytes",
    ):
        assert getattr(found, name) == getattr(limits, name)


async def test_runtimes(served: Served) -> None:
    answer = await served.system.ListRuntimes(pb.ListRuntimesRequest(), timeout=PATIENCE)
    assert list(answer.runtimes) == [
        pb.Runtime(
            name="docker",
            default=True,
            state=pb.RUNTIME_STATE_READY,
            engine="fake 1.0",
            api_version="1.0",
            platform="linux/amd64",
            cgroup_version=2,
            oci_runtimes=["runc"],
        )
    ]


async def test_a_runtime_that_does_not_answer_says_why_and_what_it_was(served: Served) -> None:
    served.runtime.gate.away = True
    for engine in served.services.executions._engines._engines.values():
        await served.services.executions._engines._look(engine)
    answer = await served.system.ListRuntimes(pb.ListRuntimesRequest(), timeout=PATIENCE)
    (runtime,) = answer.runtimes
    assert runtime.state == pb.RUNTIME_STATE_UNAVAILABLE
    assert "does not answer" in runtime.state_message
    assert runtime.engine == "fake 1.0"


async def pull(served: Served, image: str = APP, **fields: Any) -> list[pb.PullImageResponse]:
    request = pb.PullImageRequest(image=image, **fields)
    return await all_of(served.system.PullImage(request, timeout=PATIENCE))


async def test_pull(served: Served) -> None:
    served.runtime.images.registry[APP] = IMAGE
    steps = await pull(
        served,
        registry_credentials=functions_pb.RegistryCredentials(username="u", password="p"),
    )
    assert [step.WhichOneof("progress") for step in steps] == ["layer", "layer", "image"]
    assert steps[0].layer.total_bytes == IMAGE.size_bytes
    assert steps[-1].image == pb.PulledImage(
        image_id=IMAGE.id,
        image_digest=IMAGE.digest,
        platform=IMAGE.platform,
        image_bytes=IMAGE.size_bytes,
    )
    assert served.runtime.images.pulled_with == [Credentials("u", "p")]


async def test_pulls_that_are_refused() -> None:
    async with serve(replace(LIMITS, allowed_images=("ghcr.io/acme/*",))) as served:
        refused = await refusal(lambda: pull(served))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "IMAGE_NOT_FOUND")
        refused = await refusal(lambda: pull(served, "busybox"))
        assert (refused.code, refused.reason) == (StatusCode.FAILED_PRECONDITION, "IMAGE_REFUSED")
        refused = await refusal(lambda: pull(served, "No Image", runtime="unknown"))
        assert (refused.code, refused.fields) == (
            StatusCode.INVALID_ARGUMENT,
            ["image", "runtime"],
        )


async def test_drain_asks_for_a_stop_once(served: Served) -> None:
    for policy in (pb.SHUTDOWN_POLICY_HANDOVER, pb.SHUTDOWN_POLICY_CANCEL):
        request = pb.DrainServerRequest(grace=Duration(seconds=7), policy=policy)
        answer = await served.system.DrainServer(request, timeout=PATIENCE)
        assert (answer.running_executions, answer.queued_executions) == (0, 0)
    shutdown = served.shutdown
    assert shutdown.asked.is_set()
    assert (shutdown.grace, shutdown.policy) == (timedelta(seconds=7), ShutdownPolicy.HANDOVER)


async def test_drain_names_every_wrong_field(served: Served) -> None:
    unknown = pb.ShutdownPolicy.ValueType(99)
    request = pb.DrainServerRequest(grace=Duration(seconds=2 * 86_400), policy=unknown)
    refused = await refusal(lambda: served.system.DrainServer(request, timeout=PATIENCE))
    assert (refused.code, refused.fields) == (StatusCode.INVALID_ARGUMENT, ["grace", "policy"])
    assert not served.shutdown.asked.is_set()
