"""What has had its time goes: executions, revisions, and images that only we had use for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from docker.errors import ImageNotFound

from skybridge_client import AsyncClient
from tests.contract.test_docker_pulls import Registry
from tests.e2e.conftest import Serve
from tests.support.functions import BUSYBOX, deploy, deploy_spec
from tests.support.waiting import until

pytestmark = pytest.mark.docker


async def test_executions_and_revisions_go_by_number(serve: Serve) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        name = await deploy(client, "cat")
        for _ in range(2):
            _ = [step async for step in client.deploy(name)]
        executions = [(await client.execute(name, b"%d" % n)).name for n in range(5)]
    server.stop()

    server.set(FAAS_MAX_EXECUTIONS_PER_FUNCTION="2", FAAS_MAX_REVISIONS_PER_FUNCTION="1")
    server.start()
    async with AsyncClient(server.address) as client:

        async def tidy() -> bool:
            kept = [each.name async for each in client.list_executions()]
            revisions = [each.number async for each in client.list_revisions(name)]
            return (kept, revisions) == (executions[:2:-1], [3])

        await until(tidy, "the oldest to go")
        assert (await client.execute(name, b"again")).output == b"again"
        _ = [step async for step in client.deploy(name)]
        assert [each.number async for each in client.list_revisions(name)] == [4, 3]
    server.stop()


async def test_executions_go_by_age(serve: Serve) -> None:
    server = serve()
    async with AsyncClient(server.address) as client:
        name = await deploy(client, "cat")
        await client.execute(name)
    server.stop()
    server.set(FAAS_EXECUTION_RETENTION="1ms")
    server.start()
    async with AsyncClient(server.address) as client:

        async def gone() -> bool:
            return [each async for each in client.list_executions()] == []

        await until(gone, "the execution to go")
    server.stop()


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    folder = tmp_path / "registry"
    folder.mkdir()
    started = Registry(folder, None)
    yield started
    started.stop()


@pytest.mark.registry
async def test_only_images_that_we_pulled_go(
    serve: Serve, registry: Registry, docker_client: docker.DockerClient
) -> None:
    def present(image: str) -> bool:
        try:
            docker_client.images.get(image)
        except ImageNotFound:
            return False
        return True

    server = serve()
    async with AsyncClient(server.address) as client:
        for fields in ({"image": registry.name, "pull_policy": "always"}, {"image": BUSYBOX}):
            name = await deploy_spec(client, command=["true"], **fields)  # type: ignore[arg-type]
            await client.delete_function(name)
    server.stop()
    assert present(registry.name)
    server.set(FAAS_PRUNE_IMAGES="true")
    server.start()

    async def pruned() -> bool:
        return not present(registry.name)

    await until(pruned, "the image to go")
    assert present(BUSYBOX)
    server.stop()
