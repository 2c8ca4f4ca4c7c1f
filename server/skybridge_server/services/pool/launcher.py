"""Makes an instance out of a container, and takes it away again."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from skybridge_server.contracts.base import Conversation
from skybridge_server.errors import (
    FailedPreconditionError,
    PauseUnsupportedError,
    SkybridgeError,
    StaleContainerError,
)
from skybridge_server.models.functions import Revision
from skybridge_server.models.instances import InstanceState
from skybridge_server.runtimes.base import (
    Attachment,
    Runtime,
    SupportsAdoption,
    SupportsBoundaries,
    SupportsPause,
    WriteBoundary,
)
from skybridge_server.services import labels
from skybridge_server.services.engines import Engines
from skybridge_server.services.maker import Maker
from skybridge_server.services.pool.instances import Ended, Instance
from skybridge_server.services.pool.marks import Marks
from skybridge_server.services.pool.processes import ProcessWatch
from skybridge_server.services.pool.speaking import environment, open_conversation

log = structlog.get_logger(__name__)

Open = Callable[[Runtime, Instance], Awaitable[Conversation]]


class ContainerLauncher:
    """Starts and removes instances in containers."""

    def __init__(
        self,
        engines: Engines,
        maker: Maker,
        server_id: str,
        marks: Marks,
        open_: Open = open_conversation,
    ) -> None:
        self.marks = marks
        self._engines = engines
        self._maker = maker
        self._server_id = server_id
        self._open = open_
        self._attachments: dict[Instance, Attachment] = {}
        self._readers: dict[Instance, asyncio.Task[None]] = {}
        self._pauses: dict[Instance, asyncio.Task[None]] = {}
        self._cannot_pause: set[str] = set()
        self._processes = ProcessWatch()

    async def start(self, instance: Instance) -> None:
        runtime = self._runtime(instance)
        if instance.adopted:
            await self._take_over(runtime, instance)
        else:
            await self._start_anew(runtime, instance)
        await self._processes.begin(runtime, instance)
        if instance.revision.spec.scaling.instance_concurrency == 1:
            instance.log.write_boundary = await _boundary_writer(runtime, instance)
        instance.thaw = lambda: self._thaw(runtime, instance)
        if instance.revision.spec.contract.kind.adoptable and not instance.adopted:
            instance.mark = self.marks.begin(instance.facts())

    async def _start_anew(self, runtime: Runtime, instance: Instance) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        while True:
            try:
                await self._create_and_start(runtime, instance)
                break
            except StaleContainerError as error:
                log.info("container created anew", detail=error.message)
                await self._take_apart(runtime, instance)
        started = loop.time()
        instance.start = timedelta(seconds=started - began)
        await instance.conversation.ready()
        instance.init = timedelta(seconds=loop.time() - started)
        log.info(
            "instance ready",
            instance=str(instance.name),
            revision=str(instance.revision.name),
            seconds=round(loop.time() - began, 3),
        )

    async def _take_over(self, runtime: Runtime, instance: Instance) -> None:
        """Speak to an instance that an earlier process has left, and hear what it writes now."""
        if not isinstance(runtime, SupportsAdoption):
            raise FailedPreconditionError(
                f"the runtime '{runtime.name}' cannot take instances over",
                reason="ADOPTION_UNSUPPORTED",
            )
        if isinstance(runtime, SupportsPause):
            await runtime.unpause(instance.container_id)
        await runtime.adopt(instance.container_id, instance.revision.spec.network)
        attachment = await self._attach(runtime, instance)
        await self._follow(runtime, instance, attachment)
        await instance.conversation.ready()
        log.info("instance taken over", instance=str(instance.name))

    async def leave(self, instance: Instance) -> None:
        runtime = self._runtime(instance)
        await self._let_go(instance)
        if isinstance(runtime, SupportsAdoption):
            await runtime.leave(instance.container_id)
        log.info("instance left", instance=str(instance.name))

    async def remove(self, instance: Instance) -> None:
        runtime = self._runtime(instance)
        try:
            if instance.polite and instance.container_id and not instance.ended.done():
                await self._ask_to_end(runtime, instance)
        finally:
            await self._take_apart(runtime, instance)
            instance.mark.free()
            log.info("instance removed", instance=str(instance.name))

    def ready(self, revision: Revision) -> bool:
        try:
            self._engines.check(revision.spec.runtime)
        except SkybridgeError:
            return False  # it is looked again when executions wait
        engine = self._engines.get(revision.spec.runtime).name
        # What was left may do.
        return not self.marks.await_decision(revision.name.number, revision.create_time, engine)

    def pause(self, instance: Instance) -> None:
        runtime = self._runtime(instance)
        if isinstance(runtime, SupportsPause) and runtime.name not in self._cannot_pause:
            instance.state, instance.frozen = InstanceState.PAUSED, True
            self._pauses[instance] = asyncio.create_task(self._freeze(runtime, instance))

    def look(self, instance: Instance) -> None:
        self._processes.look(instance)

    # -- starting -------------------------------------------------------------------------------

    async def _create_and_start(self, runtime: Runtime, instance: Instance) -> None:
        containers = runtime.containers
        instance.container_id = await self._create(instance)
        attachment = await self._attach(runtime, instance)
        await containers.start(instance.container_id)
        await self._follow(runtime, instance, attachment)

    async def _attach(self, runtime: Runtime, instance: Instance) -> Attachment:
        """Prepare to hear it, and to speak to it."""
        attachment = await runtime.containers.attach(instance.container_id)
        self._attachments[instance] = attachment
        instance.conversation = await self._open(runtime, instance)
        return attachment

    async def _follow(self, runtime: Runtime, instance: Instance, attachment: Attachment) -> None:
        await attachment.close_input()
        self._readers[instance] = asyncio.create_task(self._read(runtime, instance, attachment))

    async def _create(self, instance: Instance) -> str:
        revision = instance.revision
        return await self._maker.create(
            revision,
            f"skybridge-{revision.name.function.function}-{instance.name.instance}",
            environment(revision),
            labels.of_instance(self._server_id, instance.name, revision.name),
            reachable=True,
        )

    async def _read(self, runtime: Runtime, instance: Instance, attachment: Attachment) -> None:
        """Take what the instance writes, to the end of its container."""
        try:
            async for stream, data in attachment.output():
                await instance.log.add(stream, data)
            instance.end(Ended(await runtime.containers.wait(instance.container_id)))
        except SkybridgeError as error:
            instance.end(Ended(error=error))
        except Exception:
            log.exception("output broke", instance=str(instance.name))
            instance.end(Ended(error=SkybridgeError("internal error of the server")))
        instance.log.end()
        # Not every contract can see the end by itself.
        await instance.conversation.close()

    # -- ending ---------------------------------------------------------------------------------

    async def _ask_to_end(self, runtime: Runtime, instance: Instance) -> None:
        grace = instance.revision.spec.timeouts.shutdown_grace.total_seconds()
        if grace <= 0:
            return
        with contextlib.suppress(SkybridgeError):
            await self._thaw(runtime, instance)
            await runtime.containers.signal(instance.container_id, "SIGTERM")
            await asyncio.wait({instance.ended}, timeout=grace)

    async def _take_apart(self, runtime: Runtime, instance: Instance) -> None:
        await self._let_go(instance)
        if instance.container_id:
            # What fails here is found again by its label, when the engine is back.
            with contextlib.suppress(SkybridgeError):
                await runtime.containers.remove(instance.container_id)

    async def _let_go(self, instance: Instance) -> None:
        await self._processes.end(instance)
        for task in (self._readers.pop(instance, None), self._pauses.pop(instance, None)):
            if task is not None:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        conversation: Conversation | None = getattr(instance, "conversation", None)
        if conversation is not None:
            await conversation.close()
        attachment = self._attachments.pop(instance, None)
        if attachment is not None:
            await attachment.close()

    # -- pausing --------------------------------------------------------------------------------

    async def _freeze(self, runtime: SupportsPause, instance: Instance) -> None:
        try:
            await runtime.pause(instance.container_id)
        except PauseUnsupportedError as error:
            self._cannot_pause.add(self._runtime(instance).name)
            log.warning("instances are not paused", detail=error.message)
            instance.not_paused()
            instance.frozen = False
        except SkybridgeError as error:
            log.warning("instance not paused", instance=str(instance.name), detail=error.message)
            instance.not_paused()

    async def _thaw(self, runtime: Runtime, instance: Instance) -> None:
        """Let an instance run that is paused, or is being paused."""
        pause = self._pauses.get(instance)
        if pause is not None:
            await asyncio.wait({pause})
        if instance.frozen and isinstance(runtime, SupportsPause):
            await runtime.unpause(instance.container_id)
            instance.frozen = False
        self._pauses.pop(instance, None)

    def _runtime(self, instance: Instance) -> Runtime:
        return self._engines.get(instance.revision.spec.runtime)


async def _boundary_writer(runtime: Runtime, instance: Instance) -> WriteBoundary | None:
    """Return what writes into the output of an instance, so that executions' logs can be parted."""
    # Other OCI runtimes may have other streams behind those of the first process.
    if not isinstance(runtime, SupportsBoundaries) or instance.revision.spec.isolation.oci_runtime:
        return None
    return await runtime.boundary_writer(instance.container_id)
