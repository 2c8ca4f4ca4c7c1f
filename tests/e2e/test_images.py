"""Images: found, pulled, refused, replaced, removed. Against real registries on loopback."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import aclosing
from typing import Any

import docker
import pytest

from skybridge_client import (
    AsyncClient,
    FailedPreconditionError,
    FunctionState,
    InvalidArgumentError,
    RegistryCredentials,
    Revision,
    UnavailableError,
)
from skybridge_client.messages import DeploymentPhase
from tests.support.functions import BUSYBOX, deploy_spec, new_id, run, told
from tests.support.registry import MADE, Registry, bare_image, forget, variant
from tests.support.server import Server
from tests.support.waiting import until

pytestmark = [pytest.mark.docker, pytest.mark.registry]

Serve = Callable[..., Server]
LOGIN = {"username": "operator", "password": "a-secret-of-the-operator"}
CREDENTIALS = RegistryCredentials(**LOGIN)
ECHO = ["/bin/sh", "-c", "echo it runs"]
RESOLVING, PULLING, CHECKING, ACTIVATING = range(1, 5)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    made = Registry(tmp_path_factory.mktemp("registry"))
    made.start()
    yield made
    made.stop()


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    made = Registry(tmp_path_factory.mktemp("private"), LOGIN)
    made.start()
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def _no_images_left(
    docker_client: docker.DockerClient, registry: Registry, private: Registry
) -> Iterator[None]:
    """Remove every image that a test made or pulled."""
    yield
    mine = (MADE, f"{registry.host}/", f"{private.host}/")
    for image in docker_client.api.images():
        names = image["RepoTags"] or image["RepoDigests"] or ()
        forget(docker_client, *(name for name in names if name.startswith(mine)))


async def create(client: AsyncClient, image: str, **fields: Any) -> str:
    name = new_id()
    await client.create_function(name, image=image, **fields)
    return name


async def deploy(
    client: AsyncClient, name: str, credentials: RegistryCredentials | None = None
) -> tuple[Revision, list[DeploymentPhase.ValueType], int]:
    """Deploy; return the revision, the phases, and how many steps of layers there were."""
    phases, layers, revision = [], 0, Revision()
    async for step in client.deploy(name, registry_credentials=credentials):
        match step.WhichOneof("progress"):
            case "phase":
                phases.append(step.phase)
            case "layer":
                layers += 1
            case "revision":
                revision = step.revision
    assert revision.active
    return revision, phases, layers


def push_variant(docker_client: docker.DockerClient, registry: Registry, name: str = "") -> Any:
    image = variant(docker_client)
    pushed = registry.push(docker_client, image, name)
    forget(docker_client, image)
    return pushed


# -- from a registry -----------------------------------------------------------------------------


@pytest.mark.parametrize("by", ["tag", "digest"])
async def test_an_image_is_pulled_pinned_and_runs(
    client: AsyncClient, docker_client: docker.DockerClient, registry: Registry, by: str
) -> None:
    pushed = push_variant(docker_client, registry)
    name = await create(client, getattr(pushed, by), command=ECHO)

    revision, phases, layers = await deploy(client, name)

    assert phases == [RESOLVING, PULLING, CHECKING, ACTIVATING]
    assert layers > 0
    assert revision.image_digest == pushed.digest
    assert revision.image_id.startswith("sha256:")
    assert revision.platform.startswith("linux/")
    assert (await client.execute(name)).output == b"it runs\n"


async def test_an_image_that_is_there_is_not_pulled_again(
    client: AsyncClient, docker_client: docker.DockerClient, registry: Registry
) -> None:
    pushed = push_variant(docker_client, registry)
    name = await create(client, pushed.tag, command=ECHO)
    await deploy(client, name)

    _, phases, layers = await deploy(client, name)

    assert (phases, layers) == ([RESOLVING, CHECKING, ACTIVATING], 0)


async def test_pull_policies(
    client: AsyncClient, docker_client: docker.DockerClient, registry: Registry
) -> None:
    """The tag moves in the registry while the engine has the old image."""
    old = push_variant(docker_client, registry, "test/moves:1")
    never, always, present = [
        await create(client, old.tag, command=ECHO, pull_policy=policy)
        for policy in ("never", "always", "if_not_present")
    ]
    with pytest.raises(FailedPreconditionError, match="pull_policy is NEVER"):
        await deploy(client, never)
    first, _, _ = await deploy(client, present)
    new = push_variant(docker_client, registry, "test/moves:1")
    docker_client.images.pull(old.digest)
    docker_client.images.get(old.digest).tag(old.tag)

    assert (await deploy(client, present))[0].image_id == first.image_id
    assert (await deploy(client, never))[0].image_id == first.image_id
    pulled, phases, _ = await deploy(client, always)

    assert PULLING in phases
    assert pulled.image_digest == new.digest != old.digest
    assert pulled.image_id != first.image_id


async def test_images_can_be_pulled_ahead(
    client: AsyncClient, docker_client: docker.DockerClient, registry: Registry
) -> None:
    pushed = push_variant(docker_client, registry)

    steps = [step async for step in client.pull_image(pushed.tag)]

    assert steps[-1].image.image_digest == pushed.digest
    assert all(step.layer.layer and step.layer.status for step in steps[:-1])
    name = await create(client, pushed.tag, command=ECHO)
    assert PULLING not in (await deploy(client, name))[1]


# -- what is not there, or not for us ------------------------------------------------------------


@pytest.mark.parametrize("suffix", ["no/such:1", f"no/such@sha256:{'0' * 64}"])
async def test_an_image_that_does_not_exist(
    client: AsyncClient, registry: Registry, suffix: str
) -> None:
    name = await create(client, f"{registry.host}/{suffix}")

    with pytest.raises(FailedPreconditionError, match="no registry has image") as caught:
        await deploy(client, name)

    assert caught.value.reason == "IMAGE_NOT_FOUND"
    function = await client.get_function(name)
    assert function.state == FunctionState.FUNCTION_STATE_UNDEPLOYED
    assert "no registry has image" in function.state_message
    with pytest.raises(FailedPreconditionError, match="DeployFunction"):
        await client.execute(name)


async def test_a_registry_that_is_down_leaves_the_active_revision(
    client: AsyncClient,
    docker_client: docker.DockerClient,
    registry: Registry,
) -> None:
    pushed = push_variant(docker_client, registry)
    name = await create(client, pushed.tag, command=ECHO, pull_policy="always")
    first, _, _ = await deploy(client, name)
    registry.stop()
    try:
        with pytest.raises(UnavailableError, match="connection refused") as caught:
            await deploy(client, name)
        assert caught.value.reason == "REGISTRY_UNAVAILABLE"
        assert caught.value.retry_delay
        function = await client.get_function(name)
        assert function.active_revision == first.name
        assert "connection refused" in function.state_message
        assert (await client.execute(name)).output == b"it runs\n"
    finally:
        registry.start()
    await deploy(client, name)
    assert (await client.get_function(name)).state_message == ""


async def test_credentials(
    server: Server,
    client: AsyncClient,
    docker_client: docker.DockerClient,
    private: Registry,
) -> None:
    pushed = push_variant(docker_client, private)
    name = await create(client, pushed.tag, command=ECHO)
    wrong = RegistryCredentials(username="operator", password="a-wrong-secret")
    for given in (None, wrong):
        with pytest.raises(FailedPreconditionError, match="credentials") as caught:
            await deploy(client, name, given)
        assert caught.value.reason == "IMAGE_ACCESS_DENIED"

    await deploy(client, name, CREDENTIALS)

    assert (await client.execute(name)).output == b"it runs\n"
    said = server.log()
    assert "a-wrong-secret" not in said
    assert LOGIN["password"] not in said


async def test_credentials_of_the_operator_serve_every_deployment(
    serve: Serve, docker_client: docker.DockerClient, private: Registry
) -> None:
    pushed = push_variant(docker_client, private)
    server = serve(FAAS_REGISTRY_CREDENTIALS=json.dumps({private.host: LOGIN}))
    async with AsyncClient(server.address) as client:
        name = await create(client, pushed.tag, command=ECHO)

        await deploy(client, name)

        assert (await client.execute(name)).output == b"it runs\n"
    server.settle()
    server.stop()
    assert LOGIN["password"] not in server.log()


# -- trust ---------------------------------------------------------------------------------------


async def test_only_images_that_the_operator_allows(
    serve: Serve, docker_client: docker.DockerClient, registry: Registry
) -> None:
    good = push_variant(docker_client, registry, f"good/{new_id()}:1")
    bad = push_variant(docker_client, registry, f"bad/{new_id()}:1")
    server = serve()
    async with AsyncClient(server.address) as client:
        earlier = await create(client, bad.tag, command=ECHO)
    server.stop()
    server.set(FAAS_ALLOWED_IMAGES=f"{registry.host}/good/*")
    server.start()
    async with AsyncClient(server.address) as client:
        with pytest.raises(InvalidArgumentError, match="FAAS_ALLOWED_IMAGES") as caught:
            await create(client, bad.tag)
        assert [v.field for v in caught.value.violations] == ["function.spec.image"]
        with pytest.raises(FailedPreconditionError, match="FAAS_ALLOWED_IMAGES") as refused:
            await deploy(client, earlier)
        assert refused.value.reason == "IMAGE_REFUSED"
        with pytest.raises(FailedPreconditionError, match="FAAS_ALLOWED_IMAGES"):
            assert [step async for step in client.pull_image(bad.tag)]

        await deploy(client, await create(client, good.tag, command=ECHO))
    server.stop()


async def test_only_images_by_digest_where_the_operator_says_so(
    serve: Serve, docker_client: docker.DockerClient, registry: Registry
) -> None:
    pushed = push_variant(docker_client, registry)
    server = serve(FAAS_REQUIRE_DIGEST="true")
    async with AsyncClient(server.address) as client:
        with pytest.raises(InvalidArgumentError, match="FAAS_REQUIRE_DIGEST"):
            await create(client, pushed.tag)

        await deploy(client, await create(client, pushed.digest, command=ECHO))
    server.stop()


# -- what cannot run -----------------------------------------------------------------------------


async def test_an_image_of_another_platform(
    client: AsyncClient, docker_client: docker.DockerClient
) -> None:
    other = "s390x" if os.uname().machine != "s390x" else "amd64"
    image = bare_image(docker_client, architecture=other)
    name = await create(client, image, command=["/run"], pull_policy="never")

    with pytest.raises(FailedPreconditionError, match=f"is for linux/{other}") as caught:
        await deploy(client, name)

    assert caught.value.reason == "IMAGE_PLATFORM"
    assert caught.value.metadata["image_platform"] == f"linux/{other}"


async def test_an_image_without_an_entry_point(
    client: AsyncClient, docker_client: docker.DockerClient
) -> None:
    name = await create(client, bare_image(docker_client), pull_policy="never")

    with pytest.raises(FailedPreconditionError, match=r"spec\.command") as caught:
        await deploy(client, name)

    assert caught.value.reason == "NO_ENTRY_POINT"


@pytest.mark.parametrize("command", ["/no/such", "no-such", "/data", "/"])
async def test_a_command_that_cannot_be_executed(
    client: AsyncClient, docker_client: docker.DockerClient, command: str
) -> None:
    image = bare_image(docker_client, files={"data": b"no program"})
    name = await deploy_spec(client, image=image, command=[command])

    ended = await client.execute(name)

    assert told(ended) == ("FAILED", "ENTRY_POINT")
    assert not ended.HasField("exit_code")
    assert command in ended.failure.message


async def test_a_working_directory_that_is_no_directory(client: AsyncClient) -> None:
    ended = await run(client, "pwd", working_dir="/bin/busybox")

    assert told(ended) == ("FAILED", "START_FAILED")


# -- what changes afterwards ---------------------------------------------------------------------


async def test_a_deployment_goes_on_when_its_caller_leaves(
    client: AsyncClient, docker_client: docker.DockerClient, registry: Registry
) -> None:
    pushed = push_variant(docker_client, registry)
    name = await create(client, pushed.tag, command=ECHO)

    async with aclosing(client.deploy(name)) as steps:
        step = await anext(steps)
    assert step.phase == DeploymentPhase.DEPLOYMENT_PHASE_RESOLVING

    async def active() -> bool:
        return (await client.get_function(name)).state == FunctionState.FUNCTION_STATE_ACTIVE

    await until(active, "the deployment to end")
    assert (await client.execute(name)).output == b"it runs\n"


async def test_a_rollback_needs_no_registry(
    client: AsyncClient, docker_client: docker.DockerClient, registry: Registry
) -> None:
    old, new = [push_variant(docker_client, registry) for _ in range(2)]
    name = await create(client, old.tag, command=ECHO, pull_policy="always")
    first, _, _ = await deploy(client, name)
    await client.update_function(name, image=new.tag)
    second, _, _ = await deploy(client, name)
    assert (second.image_digest, second.number) == (new.digest, 2)
    registry.stop()
    try:
        function = await client.rollback(name)
        assert function.active_revision == first.name
        assert function.spec.image == new.tag
        ended = await client.execute(name)
        assert (ended.revision, ended.output) == (first.name, b"it runs\n")
        with pytest.raises(FailedPreconditionError, match="no revision before"):
            await client.rollback(name)
        assert (await client.rollback(name, 2)).active_revision == second.name
    finally:
        registry.start()


async def test_an_image_that_vanishes_from_the_engine(
    client: AsyncClient, docker_client: docker.DockerClient
) -> None:
    image = variant(docker_client)
    name = await deploy_spec(client, image=image, command=ECHO)
    first = (await client.get_function(name)).active_revision
    forget(docker_client, image)

    ended = await client.execute(name)

    assert told(ended) == ("FAILED", "IMAGE_UNAVAILABLE")
    assert "deploy" in ended.failure.message
    await client.update_function(name, image=BUSYBOX)
    await deploy(client, name)
    assert (await client.execute(name)).output == b"it runs\n"
    with pytest.raises(FailedPreconditionError, match="no longer has the image") as caught:
        await client.rollback(name)
    assert caught.value.reason == "IMAGE_GONE"
    assert (await client.get_function(name)).active_revision != first
