"""Deployments: from a function's specification to an active revision, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from skybridge_server.errors import (
    AbortedError,
    AlreadyExistsError,
    FailedPreconditionError,
    ImageNotFoundError,
    SkybridgeError,
)
from skybridge_server.models.functions import (
    Function,
    FunctionSpec,
    FunctionState,
    PullPolicy,
    Revision,
)
from skybridge_server.models.names import FunctionName, RevisionName, new_id
from skybridge_server.models.paging import Page, PageRequest
from skybridge_server.repositories.base import Repositories
from skybridge_server.runtimes.base import Credentials, Image, PullProgress, Runtime
from skybridge_server.services import idempotency
from skybridge_server.services.engines import Engines
from skybridge_server.services.functions import FunctionService, check_etag
from skybridge_server.services.requests import DeploymentPhase, RequestKey
from skybridge_server.services.rules import Limits, check_image

Step = DeploymentPhase | PullProgress | Revision

QUEUED_STEPS = 256
"""Steps that wait for a slow caller; layers' progress beyond is left out."""

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Progress:
    """What a running deployment tells; it does not care whether anybody listens."""

    steps: asyncio.Queue[Step | None] = field(default_factory=asyncio.Queue)

    def tell(self, step: Step) -> None:
        if not isinstance(step, PullProgress) or self.steps.qsize() < QUEUED_STEPS:
            self.steps.put_nowait(step)


class DeploymentService:
    """Makes revisions, and decides which one executions run."""

    def __init__(
        self,
        repositories: Repositories,
        functions: FunctionService,
        engines: Engines,
        limits: Limits,
    ) -> None:
        self._repositories = repositories
        self._functions = functions
        self._engines = engines
        self._limits = limits
        self._tasks: set[asyncio.Task[Revision]] = set()

    async def deploy(
        self,
        name: FunctionName,
        *,
        etag: str,
        credentials: Credentials | None,
        key: RequestKey | None,
    ) -> AsyncGenerator[Step]:
        """Deploy a function and yield the steps; the last is the revision.

        The deployment goes on when nobody reads the steps any more. NotFoundError, AbortedError,
        FailedPreconditionError and UnavailableError of all kinds.
        """
        if (first := await self._first_answer(name, key)) is not None:
            yield first
            return
        function = await self._repositories.functions.get(name)
        check_etag(function, etag)
        progress = _Progress()
        task = asyncio.create_task(self._deploy(function, credentials, key, progress))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: progress.steps.put_nowait(None))
        while (step := await progress.steps.get()) is not None:
            yield step
        yield await task

    async def rollback(
        self, name: FunctionName, number: int, *, etag: str, key: RequestKey | None
    ) -> Function:
        """Activate an earlier revision; `number` 0 is the one before the active one.

        NotFoundError, AbortedError, FailedPreconditionError, RuntimeUnavailableError.
        """
        if (first := await idempotency.find(self._repositories.requests, key)) and first.function:
            return first.function
        function = await self._repositories.functions.get(name)
        revision = await self._earlier_revision(function, number)
        image = await self._engines.get(revision.spec.runtime).images.get(revision.image_id)
        if image is None:
            raise FailedPreconditionError(
                f"the engine no longer has the image of revision '{revision.name}' "
                f"({revision.image_id}): pull or build it again, or deploy the function",
                reason="IMAGE_GONE",
            )
        return await self._functions.change(
            name, lambda f: _activated(f, revision.name.number), etag=etag, key=key
        )

    async def get_revision(self, name: RevisionName) -> Revision:
        """Return a revision. NotFoundError."""
        return await self._repositories.revisions.get(name)

    async def list_revisions(self, function: FunctionName, page: PageRequest) -> Page[Revision]:
        """Return a page of revisions, the newest first."""
        return await self._repositories.revisions.list(function, page)

    async def pull(
        self, image: str, runtime: str, credentials: Credentials | None
    ) -> AsyncGenerator[PullProgress | Image]:
        """Pull an image under the trust policy, and yield its progress; the last is the image."""
        reference = str(check_image(image, self._limits))
        images = self._engines.get(runtime).images
        async for progress in images.pull(reference, credentials):
            yield progress
        pulled = await images.get(reference)
        if pulled is None:
            raise ImageNotFoundError(f"image '{image}' vanished from the engine after its pull")
        yield pulled

    async def close(self) -> None:
        """Give up what is being deployed; nothing half-made is kept."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- deploying ------------------------------------------------------------------------------

    async def _first_answer(self, name: FunctionName, key: RequestKey | None) -> Revision | None:
        recorded = await idempotency.find(self._repositories.requests, key)
        if recorded is None:
            return None
        return await self.get_revision(RevisionName(name, int(recorded.resource)))

    async def _deploy(
        self,
        function: Function,
        credentials: Credentials | None,
        key: RequestKey | None,
        progress: _Progress,
    ) -> Revision:
        try:
            image = await self._prepare_image(function.spec, credentials, progress)
            progress.tell(DeploymentPhase.ACTIVATING)
            return await self._activate(function, image, key)
        except SkybridgeError as error:
            await self._note_failure(function, error)
            raise

    async def _prepare_image(
        self, spec: FunctionSpec, credentials: Credentials | None, progress: _Progress
    ) -> Image:
        progress.tell(DeploymentPhase.RESOLVING)
        reference = str(check_image(spec.image, self._limits))
        runtime = self._engines.get(spec.runtime)
        image = await runtime.images.get(reference)
        if spec.pull_policy is PullPolicy.NEVER and image is None:
            raise ImageNotFoundError(
                f"the engine has no image '{spec.image}', and spec.pull_policy is NEVER: build or "
                "load it there, or set IF_NOT_PRESENT"
            )
        if image is None or spec.pull_policy is PullPolicy.ALWAYS:
            progress.tell(DeploymentPhase.PULLING)
            async for step in self.pull(spec.image, spec.runtime, credentials):
                if isinstance(step, Image):
                    image = step
                else:
                    progress.tell(step)
        assert image is not None  # noqa: S101 - pull ends with an image, or raises
        progress.tell(DeploymentPhase.CHECKING)
        await _check_runnable(image, spec, runtime)
        return image

    async def _activate(self, function: Function, image: Image, key: RequestKey | None) -> Revision:
        """Store the revision and switch to it; again, if somebody else wrote in between."""
        while True:
            current = await self._repositories.functions.get(function.name)
            if current.uid != function.uid:
                raise AbortedError(
                    f"function '{function.name}' was deleted and created again meanwhile",
                    reason="FUNCTION_REPLACED",
                )
            number = 1 + await self._repositories.revisions.latest_number(function.name)
            revision = _revision(function, number, image)
            try:
                await self._repositories.revisions.activate_new(
                    _activated(current, number),
                    revision,
                    expected_etag=current.etag,
                    request=idempotency.record(key, resource=str(number)),
                )
            except AbortedError:
                continue
            except AlreadyExistsError:
                if (first := await self._first_answer(function.name, key)) is not None:
                    return first
                raise
            return revision

    async def _note_failure(self, function: Function, error: SkybridgeError) -> None:
        """Leave a word about the failure at the function; the caller may be gone."""

        def note(current: Function) -> Function:
            return replace(current, state_message=f"last deployment failed: {error.message}")

        try:
            await self._functions.change(function.name, note, etag="", key=None)
        except SkybridgeError as second:
            log.warning("failed deployment not noted", function=str(function.name), error=second)

    async def _earlier_revision(self, function: Function, number: int) -> Revision:
        if number:
            return await self.get_revision(RevisionName(function.name, number))
        if function.active_revision <= 1:
            raise FailedPreconditionError(
                f"function '{function.name}' has no revision before the active one",
                reason="NO_EARLIER_REVISION",
            )
        return await self.get_revision(RevisionName(function.name, function.active_revision - 1))


def _activated(function: Function, number: int) -> Function:
    disabled = function.state is FunctionState.DISABLED
    return replace(
        function,
        active_revision=number,
        state=FunctionState.DISABLED if disabled else FunctionState.ACTIVE,
        state_message="",
        etag=new_id(),
        update_time=datetime.now(UTC),
    )


def _revision(function: Function, number: int, image: Image) -> Revision:
    return Revision(
        name=RevisionName(function.name, number),
        spec=function.spec,
        image_id=image.id,
        image_digest=image.digest,
        platform=image.platform,
        image_bytes=image.size_bytes,
        generation=function.generation,
        create_time=datetime.now(UTC),
    )


async def _check_runnable(image: Image, spec: FunctionSpec, runtime: Runtime) -> None:
    engine = await runtime.check()
    if image.platform.split("/")[:2] != engine.platform.split("/")[:2]:
        raise FailedPreconditionError(
            f"image '{spec.image}' is for {image.platform}, the engine runs {engine.platform}: "
            "build it for that platform",
            reason="IMAGE_PLATFORM",
            metadata={"image_platform": image.platform, "engine_platform": engine.platform},
        )
    if not (spec.command or image.entrypoint or spec.args or image.command):
        raise FailedPreconditionError(
            f"image '{spec.image}' has no entry point: set spec.command, or ENTRYPOINT in the "
            "image",
            reason="NO_ENTRY_POINT",
        )
