"""One deployment: from a function's specification to a revision that executions run."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime

import structlog

from skybridge_server.errors import (
    AbortedError,
    FailedPreconditionError,
    ImageNotFoundError,
    NotFoundError,
    SkybridgeError,
)
from skybridge_server.models.functions import (
    Function,
    FunctionSpec,
    FunctionState,
    PulledImage,
    PullPolicy,
    Revision,
)
from skybridge_server.models.names import RevisionName, new_id
from skybridge_server.repositories.base import Repositories
from skybridge_server.runtimes.base import Credentials, Image, Runtime
from skybridge_server.services import idempotency
from skybridge_server.services.engines import Engines
from skybridge_server.services.functions import FunctionService
from skybridge_server.services.instances import InstanceService
from skybridge_server.services.limits import Limits
from skybridge_server.services.progress import Progress
from skybridge_server.services.pulled_images import PulledImages
from skybridge_server.services.pulling import pull
from skybridge_server.services.requests import DeploymentPhase, RequestKey
from skybridge_server.services.rules import check_image, check_spec
from skybridge_server.services.secrets import SecretService
from skybridge_server.services.violations import Violations

log = structlog.get_logger(__name__)


class Deployer:
    """Makes revisions."""

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

    async def deploy(
        self,
        function: Function,
        credentials: Credentials | None,
        key: RequestKey | None,
        progress: Progress,
    ) -> Revision:
        """Deploy a function as it was given, and return the revision that it then runs."""
        try:
            await self._secrets.check(function.spec, function.name.namespace)
            async with self._pulled_images.deploying():
                image = await self._prepare_image(function.spec, credentials, progress)
                progress.tell(DeploymentPhase.ACTIVATING)
                return await self._activate(function, image, key)
        except SkybridgeError as error:
            await self._note_failure(function, error)
            raise

    async def _prepare_image(
        self, spec: FunctionSpec, credentials: Credentials | None, progress: Progress
    ) -> Image:
        progress.tell(DeploymentPhase.RESOLVING)
        reference = str(check_image(spec.image, self._limits))
        self._check_allowed(spec)
        self._engines.check(spec.runtime)
        runtime = self._engines.get(spec.runtime)
        image = await runtime.images.get(reference)
        if spec.pull_policy is PullPolicy.NEVER and image is None:
            raise ImageNotFoundError(
                f"the engine has no image '{spec.image}', and spec.pull_policy is NEVER: build or "
                "load it there, or set IF_NOT_PRESENT"
            )
        if image is None or spec.pull_policy is PullPolicy.ALWAYS:
            before = image
            image = await self._pull(runtime, spec, credentials, progress)
            if before is None or before.id != image.id:
                await self._pulled_images.add(PulledImage(runtime.name, image.id, reference))
        progress.tell(DeploymentPhase.CHECKING)
        await _check_runnable(image, spec, runtime)
        return image

    async def _pull(
        self,
        runtime: Runtime,
        spec: FunctionSpec,
        credentials: Credentials | None,
        progress: Progress,
    ) -> Image:
        progress.tell(DeploymentPhase.PULLING)
        image: Image | None = None
        async for step in pull(runtime.images, spec.image, self._limits, credentials):
            if isinstance(step, Image):
                image = step
            else:
                progress.tell(step)
        assert image is not None  # noqa: S101 - pull ends with an image, or raises
        return image

    def _check_allowed(self, spec: FunctionSpec) -> None:
        """Check what the operator allows now, which may be less than when it was written."""
        wrong = Violations()
        check_spec(spec, self._limits, wrong, "spec")
        found = "; ".join(f"{each.field} {each.description}" for each in wrong)
        if found:
            raise FailedPreconditionError(
                f"update the function, its specification is not allowed any more: {found}",
                reason="SPEC_REFUSED",
            )

    async def _activate(self, function: Function, image: Image, key: RequestKey | None) -> Revision:
        """Store the revision and switch to it; again, if somebody else wrote in between."""
        while True:
            current = await self._get_same(function)
            number = 1 + await self._repositories.revisions.latest_number(function.name)
            revision = _revision(function, number, image)
            try:
                await self._instances.warm(current, revision)
                # Then the next look finds another etag, another number, or another function.
                with suppress(AbortedError, NotFoundError):
                    await self._repositories.revisions.activate_new(
                        activated(current, number),
                        revision,
                        expected_etag=current.etag,
                        request=idempotency.record(key, resource=str(number)),
                    )
                    await self._instances.follow(function.name, function.uid)
                    return revision
            finally:
                self._instances.dismiss(function, revision)

    async def _get_same(self, function: Function) -> Function:
        """Return the function as it now is. AbortedError if it is not the same any more."""
        try:
            current = await self._repositories.functions.get(function.name)
        except NotFoundError as error:
            raise _replaced(function) from error
        check_same(current, function)
        return current

    async def _note_failure(self, function: Function, error: SkybridgeError) -> None:
        """Leave a word about the failure at the function; the caller may be gone."""

        def note(current: Function) -> Function:
            check_same(current, function)
            return replace(current, state_message=f"last deployment failed: {error.message}")

        log.info("deployment failed", function=str(function.name), detail=error.message)
        try:
            await self._functions.change(function.name, note, etag="", key=None)
        except SkybridgeError as second:
            log.warning("failure not noted", function=str(function.name), detail=second.message)


def activated(function: Function, number: int) -> Function:
    """Return a function that runs another revision; a disabled one stays so."""
    disabled = function.state is FunctionState.DISABLED
    return replace(
        function,
        active_revision=number,
        state=FunctionState.DISABLED if disabled else FunctionState.ACTIVE,
        state_message="",
        etag=new_id(),
        update_time=datetime.now(UTC),
    )


def check_same(current: Function, function: Function) -> None:
    """Raise AbortedError if there is another function of that name by now."""
    if current.uid != function.uid:
        raise _replaced(function)


def _replaced(function: Function) -> AbortedError:
    return AbortedError(
        f"function '{function.name}' was deleted meanwhile", reason="FUNCTION_REPLACED"
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
