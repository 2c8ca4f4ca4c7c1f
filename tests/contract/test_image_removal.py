"""Removing images that were pulled: what others have named or use stays."""

from __future__ import annotations

import io
import tarfile
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import docker
import pytest
from docker.errors import ImageNotFound, NotFound

from skybridge_server.runtimes.base import Images, SupportsImageRemoval
from skybridge_server.runtimes.docker_engine import DockerRuntime
from tests.contract.test_docker_pulls import Registry
from tests.fakes.runtime import IMAGE, FakeRuntime


class Bench(Protocol):
    """An engine, and hands to work on its images behind the runtime's back."""

    @property
    def images(self) -> Images: ...

    def make(self, name: str) -> str:
        """Make an image that is like no other; return its id."""
        ...

    def tag(self, image_id: str, name: str) -> None: ...

    def use(self, image_id: str) -> None:
        """Make a container of an image."""
        ...


class FakeBench:
    """Hands for the engine in memory."""

    def __init__(self) -> None:
        runtime = FakeRuntime()
        self.images = runtime.images

    def make(self, name: str) -> str:
        image = replace(IMAGE, id=f"sha256:{uuid.uuid4().hex}")
        self.images.present[name] = image
        return image.id

    def tag(self, image_id: str, name: str) -> None:
        by_id = {image.id: image for image in self.images.present.values()}
        self.images.present[name] = by_id[image_id]

    def use(self, image_id: str) -> None:
        self.images.in_use.add(image_id)


class DockerBench:
    """Hands for a Docker Engine."""

    def __init__(self, images: Images, client: docker.APIClient) -> None:
        self.images = images
        self._client = client
        self._images: list[str] = []
        self._containers: list[str] = []

    def make(self, name: str) -> str:
        repository, _, tag = name.rpartition(":")
        self._client.import_image_from_data(_unique_layer(), repository=repository, tag=tag)
        image_id: str = self._client.inspect_image(name)["Id"]  # type: ignore[no-untyped-call]
        self._images.append(image_id)
        return image_id

    def tag(self, image_id: str, name: str) -> None:
        repository, _, tag = name.rpartition(":")
        self._client.tag(image_id, repository, tag)

    def use(self, image_id: str) -> None:
        made = self._client.create_container(image_id, ["true"])
        self._containers.append(made["Id"])

    def discard(self) -> None:
        for container in self._containers:
            with suppress(NotFound):
                self._client.remove_container(container, force=True)
        for image in self._images:
            with suppress(ImageNotFound):
                self._client.remove_image(image, force=True)


def _unique_layer() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        archive.addfile(tarfile.TarInfo(uuid.uuid4().hex))
    return packed.getvalue()


@pytest.fixture(params=["memory", pytest.param("docker", marks=pytest.mark.docker)])
async def bench(request: pytest.FixtureRequest) -> AsyncIterator[Bench]:
    if request.param == "memory":
        yield FakeBench()
        return
    runtime, client = DockerRuntime(), docker.APIClient(version="auto")
    docker_bench = DockerBench(runtime.images, client)
    yield docker_bench
    docker_bench.discard()
    client.close()
    await runtime.close()


@pytest.fixture
def name() -> str:
    return new_name()


def new_name() -> str:
    return f"skybridge-test/{uuid.uuid4().hex[:12]}:1"


async def remove(bench: Bench, image_id: str, name: str) -> bool:
    assert isinstance(bench.images, SupportsImageRemoval)
    return await bench.images.remove(image_id, name)


async def test_an_image_goes_with_its_last_name(bench: Bench, name: str) -> None:
    image_id = bench.make(name)
    assert await remove(bench, image_id, name)
    assert await bench.images.get(name) is None
    assert await bench.images.get(image_id) is None
    assert await remove(bench, image_id, name), "nothing happens if it is gone"


async def test_an_image_that_has_another_name_only_loses_ours(bench: Bench, name: str) -> None:
    image_id, other = bench.make(name), new_name()
    bench.tag(image_id, other)
    assert await remove(bench, image_id, name)
    assert await bench.images.get(name) is None
    found = await bench.images.get(other)
    assert found
    assert found.id == image_id


async def test_a_name_that_stands_for_another_image_is_left_alone(bench: Bench, name: str) -> None:
    before = bench.make(name)
    after = bench.make(name)
    assert before != after
    assert await remove(bench, before, name)
    assert await bench.images.get(before) is None
    found = await bench.images.get(name)
    assert found
    assert found.id == after


async def test_an_image_that_somebody_renamed_is_left_alone(bench: Bench, name: str) -> None:
    image_id, other = bench.make(name), new_name()
    bench.tag(image_id, other)
    bench.make(name)
    assert await remove(bench, image_id, name)
    found = await bench.images.get(other)
    assert found
    assert found.id == image_id


async def test_an_image_that_a_container_uses_stays(bench: Bench, name: str) -> None:
    image_id = bench.make(name)
    bench.use(image_id)
    assert not await remove(bench, image_id, name)
    assert await bench.images.get(image_id)


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    started = Registry(tmp_path, None)
    yield started
    started.stop()


@pytest.mark.docker
@pytest.mark.registry
async def test_what_was_pulled_by_tag_and_by_digest_goes(registry: Registry) -> None:
    runtime = DockerRuntime()
    try:
        for reference in (registry.name, registry.digest):
            async for _ in runtime.images.pull(reference, None):
                pass
            image = await runtime.images.get(reference)
            assert image
            assert await runtime.images.remove(image.id, reference)
            assert await runtime.images.get(image.id) is None
    finally:
        await runtime.close()
