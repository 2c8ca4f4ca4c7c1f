"""Deployments: which revisions a function has, and which one executions run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from dataclasses import dataclass

import structlog

from skybridge_server.errors import FailedPreconditionError, SkybridgeError
from skybridge_server.models.functions import Function, PulledImage, Revision
from skybridge_server.models.names import FunctionName, RevisionName
from skybridge_server.models.paging import Page, PageRequest
from skybridge_server.models.requests import Request
from skybridge_server.repositories.base import Repositories
from skybridge_server.runtimes.base import Credentials, Image, PullProgress
from skybridge_server.services import idempotency
from skybridge_server.services.deployer import Deployer, activated, check_same
from skybridge_server.services.engines import Engines
from skybridge_server.services.etags import check_etag
from skybridge_server.services.functions import FunctionService, first_answer
from skybridge_server.services.instances import InstanceService
from skybridge_server.services.limits import Limits
from skybridge_server.services.progress import Progress, Step
from skybridge_server.services.pulled_images import PulledImages
from skybridge_server.services.pulling import pull
from skybridge_server.services.requests import RequestKey
from skybridge_server.services.rules import check_image
from skybridge_server.services.secrets import SecretService

log = structlog.get_logger(__name__)


@dataclass(slots=True, eq=False)
class _Deployment:
    """A deployment under way."""

    key: RequestKey | None
    task: asyncio.Task[Revision]
    progress: Progress

    def asked_by(self, key: RequestKey | None) -> bool:
        """Tell whether a request is a repeat of the one that asked for this deployment."""
        if self.key is None or key is None or self.key.request_id != key.request_id:
            return False
        idempotency.check_same(key, self.key.fingerprint)
        return True


class DeploymentService:
    """Makes revisions, and decides which one executions run."""

    def __init__(
        self,
        repositories: Repositories,
        functions: FunctionService,
        engines: Engines,
        pulled_images: PulledImages,
        limits: Limits,
        instances: InstanceService,
        secrets: SecretService,
    ) -> None:
        self._repositories = repositories
        self._functions = functions
        self._engines = engines
        self._pulled_images = pulled_images
        self._limits = limits
        self._instances = instances
        self._secrets = secrets
        self._tasks: dict[asyncio.Task[Revision], _Deployment] = {}

    async def deploy(
        self,
        name: FunctionName,
        *,
        etag: str,
        credentials: Credentials | None,
        key: RequestKey | None,
    ) -> AsyncGenerator[Step]:
        """Deploy a function and yield the steps; the last is the revision.

        The deployment goes on when nobody reads the steps any more, and a repeat of its request
        joins it. NotFoundError, AbortedError, FailedPreconditionError and UnavailableError of all
        kinds.
        """

        async def do() -> _Deployment | Revision:
            function = await self._repositories.functions.get(name)
            check_etag(function, etag)
            return self._under_way(key) or self._begin(function, credentials, key)

        async def repeat(recorded: Request) -> _Deployment | Revision:
            return await self.get_revision(RevisionName(name, int(recorded.resource)))

        found = await idempotency.once(self._repositories.requests, key, do, repeat)
        if isinstance(found, Revision):
            yield found
            return
        async with aclosing(found.progress.steps()) as steps:
            async for step in steps:
                yield step
        yield found.task.result()

    async def rollback(
        self,
        name: FunctionName,
        number: int,
        *,
        etag: str,
        key: RequestKey | None,
        check: Callable[[Revision], None] = lambda _: None,
    ) -> Function:
        """Activate an earlier revision; `number` 0 is the one before the active one.

        `check` may refuse it, by an error. NotFoundError, AbortedError, FailedPreconditionError,
        RuntimeUnavailableError.
        """

        async def do() -> Function:
            function = await self._repositories.functions.get(name)
            revision = await self._earlier_revision(function, number)
            check(revision)
            await self._secrets.check(revision.spec, name.namespace)
            await self._check_image(revision)

            def change(current: Function) -> Function:
                check_same(current, function)
                return activated(current, revision.name.number)

            rolled_back = await self._functions.change(name, change, etag=etag, key=key)
            await self._instances.follow(name, function.uid)
            return rolled_back

        return await idempotency.once(self._repositories.requests, key, do, first_answer)

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
        self._engines.check(runtime)
        engine = self._engines.get(runtime)
        async with aclosing(pull(engine.images, image, self._limits, credentials)) as steps:
            async for step in steps:
                if isinstance(step, Image):
                    reference = str(check_image(image, self._limits))
                    await self._pulled_images.keep(PulledImage(engine.name, step.id, reference))
                yield step

    async def close(self) -> None:
        """Give up what is being deployed; nothing half-made is kept."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # -- inside ---------------------------------------------------------------------------------

    def _under_way(self, key: RequestKey | None) -> _Deployment | None:
        """Return the deployment that the same request began before."""
        return next((each for each in self._tasks.values() if each.asked_by(key)), None)

    def _begin(
        self, function: Function, credentials: Credentials | None, key: RequestKey | None
    ) -> _Deployment:
        progress = Progress()
        deployer = Deployer(
            self._repositories,
            self._functions,
            self._engines,
            self._pulled_images,
            self._limits,
            self._instances,
            self._secrets,
        )
        task = asyncio.create_task(deployer.deploy(function, credentials, key, progress))
        self._tasks[task] = _Deployment(key, task, progress)
        task.add_done_callback(self._ended)
        return self._tasks[task]

    def _ended(self, task: asyncio.Task[Revision]) -> None:
        self._tasks.pop(task).progress.end()
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, SkybridgeError):
            log.error("deployment broke", exc_info=error)  # perhaps nobody else sees it

    async def _earlier_revision(self, function: Function, number: int) -> Revision:
        number = number or await self._repositories.revisions.latest_number(
            function.name, before=function.active_revision
        )
        if not number:
            raise FailedPreconditionError(
                f"function '{function.name}' has no revision before the active one",
                reason="NO_EARLIER_REVISION",
            )
        return await self.get_revision(RevisionName(function.name, number))

    async def _check_image(self, revision: Revision) -> None:
        self._engines.check(revision.spec.runtime)
        images = self._engines.get(revision.spec.runtime).images
        if await images.get(revision.image_id) is None:
            raise FailedPreconditionError(
                f"the engine no longer has the image of revision '{revision.name}' "
                f"({revision.image_id}): pull or build it again, or deploy the function",
                reason="IMAGE_GONE",
            )
