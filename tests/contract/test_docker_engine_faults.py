"""What an engine of one's own can show: that it goes away, comes back, and is reached by TLS."""

from __future__ import annotations

import asyncio
import gc
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager, closing, suppress
from datetime import timedelta

import pytest

from skybridge_server.errors import ContainerGoneError, RuntimeUnavailableError
from skybridge_server.models.executions import Usage
from skybridge_server.models.functions import Isolation, Network, Resources
from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.base import Attachment, ContainerSpec
from skybridge_server.runtimes.docker_engine import DockerRuntime
from tests.contract.own_engine import OwnEngine
from tests.contract.test_runtimes import BYTES, read_all, read_until
from tests.support.waiting import PATIENCE

pytestmark = pytest.mark.docker

IMAGE = "skybridge-local/busybox"
LABELS = {"skybridge.test": "faults"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnEngine]:
    OwnEngine.require()
    made = OwnEngine(tmp_path_factory.mktemp("engine"))
    try:
        made.start()
        made.load(IMAGE)
        yield made
    finally:
        made.discard()


@asynccontextmanager
async def reached(environment: Mapping[str, str]) -> AsyncIterator[DockerRuntime]:
    runtime = DockerRuntime(environment=environment)
    async with asyncio.timeout(PATIENCE):
        yield runtime
    await runtime.close()
    gc.collect()  # what is dropped is told of here


async def create(runtime: DockerRuntime, script: str, network: Network = Network.NONE) -> str:
    image = await runtime.images.get(IMAGE)
    assert image
    spec = ContainerSpec(
        name=f"skybridge-test-{uuid.uuid4().hex}",
        image_id=image.id,
        command=("sh", "-c"),
        args=(script,),
        env={},
        labels=LABELS,
        working_dir="",
        resources=Resources(),
        network=network,
        isolation=Isolation(),
        stop_grace=timedelta(seconds=1),
    )
    return await runtime.containers.create(spec)


async def launch(runtime: DockerRuntime, script: str) -> tuple[str, Attachment]:
    container_id = await create(runtime, script)
    attachment = await runtime.containers.attach(container_id)
    await runtime.containers.start(container_id)
    return container_id, attachment


async def test_an_engine_that_stops_and_comes_back(engine: OwnEngine) -> None:
    async with reached(engine.environment) as runtime:
        assert (await runtime.check()).engine
        engine.stop()
        for _ in range(3):
            with pytest.raises(RuntimeUnavailableError, match="does not answer"):
                await runtime.check()
        engine.start()
        assert (await runtime.check()).engine
        container_id, attachment = await launch(runtime, "echo back")
        assert await read_all(attachment) == (b"back\n", b"")
        await attachment.close()
        await runtime.containers.remove(container_id)


async def test_an_engine_that_dies_while_a_container_runs(engine: OwnEngine) -> None:
    async with reached(engine.environment) as runtime:
        container_id, attachment = await launch(runtime, "echo ready; sleep 1000")
        await read_until(attachment, b"ready")
        waiting = asyncio.create_task(runtime.containers.wait(container_id))
        late = asyncio.create_task(runtime.containers.wait(container_id))
        engine.kill()
        for each in (waiting, late):
            with pytest.raises(RuntimeUnavailableError):
                await each
        assert [chunk async for chunk in attachment.output()] == []
        with pytest.raises(BrokenPipeError):
            await attachment.write(b"too late")
        await attachment.close()

        engine.start()  # the container has lived on
        waiting = asyncio.create_task(runtime.containers.wait(container_id))
        await runtime.containers.signal(container_id, "SIGKILL")
        assert (await waiting).code == 137
        await runtime.containers.remove(container_id)


@pytest.mark.parametrize("way", ["environment", "tls_environment"])
async def test_an_engine_that_dies_tells_nothing_more(engine: OwnEngine, way: str) -> None:
    async with reached(getattr(engine, way)) as runtime:
        async with aclosing(await runtime.container_ends(LABELS)) as ends:
            container_id = await create(runtime, "true")
            await runtime.containers.remove(container_id)
            assert (await anext(ends)).id == container_id
            engine.kill()
            with suppress(RuntimeUnavailableError):  # or it just ends
                assert [end async for end in ends] == []
        engine.start()
        async with aclosing(await runtime.container_ends(LABELS)) as ends:
            container_id = await create(runtime, "true")
            await runtime.containers.remove(container_id)
            assert (await anext(ends)).id == container_id


async def test_an_engine_that_hangs(engine: OwnEngine) -> None:
    async with reached(engine.environment) as runtime:
        assert (await runtime.check()).engine
        engine.freeze()
        try:
            with pytest.raises(RuntimeUnavailableError, match="does not answer"):
                await runtime.check()
        finally:
            engine.thaw()
        assert (await runtime.check()).engine


async def test_an_engine_behind_tls(engine: OwnEngine) -> None:
    async with reached(engine.tls_environment) as runtime:
        data = BYTES * 4096
        container_id, attachment = await launch(runtime, "cat; echo done >&2; exit 3")
        waiting = asyncio.create_task(runtime.containers.wait(container_id))
        writing = asyncio.create_task(_write_and_end(attachment, data))
        read = dict.fromkeys(OutputStream, b"")
        async for stream, chunk in attachment.output():
            read[stream] += chunk
        await writing
        assert read[OutputStream.STDOUT] == data
        assert read[OutputStream.STDERR] == b"done\n"
        assert (await waiting).code == 3
        assert await runtime.usage(container_id) == Usage()  # it may be on any host
        await attachment.close()
        await runtime.containers.remove(container_id)
        with pytest.raises(ContainerGoneError):
            await runtime.containers.attach(container_id)


async def test_letting_go_of_an_attachment_behind_tls(engine: OwnEngine) -> None:
    async with reached(engine.tls_environment) as runtime:
        container_id, attachment = await launch(runtime, "echo ready; sleep 1000")
        await read_until(attachment, b"ready")
        await attachment.close()
        (record,) = await runtime.containers.list({})
        assert (record.id, record.running) == (container_id, True)
        await runtime.containers.remove(container_id)


async def _write_and_end(attachment: Attachment, data: bytes) -> None:
    await attachment.write(data)
    await attachment.close_input()


async def test_an_engine_that_does_not_know_us(engine: OwnEngine) -> None:
    stranger = {**engine.tls_environment, "DOCKER_TLS_VERIFY": "", "DOCKER_CERT_PATH": ""}
    async with reached(stranger) as runtime:
        with pytest.raises(RuntimeUnavailableError):
            await runtime.check()


async def test_many_make_the_bridge_at_once(engine: OwnEngine) -> None:
    async with reached(engine.environment) as runtime, reached(engine.environment) as other:
        made = await asyncio.gather(
            *(create(each, "true", Network.EGRESS) for each in (runtime, other) for _ in range(4))
        )
        for container_id in made:  # a name that two networks had could not be joined
            await runtime.containers.start(container_id)
            assert (await runtime.containers.wait(container_id)).code == 0
            await runtime.containers.remove(container_id)


async def test_a_second_bridge_of_the_same_name_goes(engine: OwnEngine) -> None:
    with closing(engine.client()) as client:
        for _ in range(2):
            client.networks.create("skybridge-egress")
        async with reached(engine.environment) as runtime:
            container_id = await create(runtime, "true", Network.EGRESS)
            await runtime.containers.start(container_id)
            await runtime.containers.remove(container_id)
        assert len(client.networks.list(names=["skybridge-egress"])) == 1
