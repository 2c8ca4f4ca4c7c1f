"""The images that deployments pulled: remembered, and removed when no revision needs them.

Images that were there before, that an operator pulled or built, are never touched.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import structlog

from skybridge_server.errors import SkybridgeError
from skybridge_server.models.functions import PulledImage
from skybridge_server.repositories.base import ImageRepository
from skybridge_server.runtimes.base import SupportsImageRemoval
from skybridge_server.services.engines import Engines

log = structlog.get_logger(__name__)


class PulledImages:
    """What is at the engines because of us."""

    def __init__(self, images: ImageRepository, engines: Engines) -> None:
        self._images = images
        self._engines = engines
        self._deployments = 0
        self._removing = asyncio.Lock()

    @asynccontextmanager
    async def deploying(self) -> AsyncGenerator[None]:
        """Let no image be removed between the moment it is found and that a revision needs it."""
        async with self._removing:
            self._deployments += 1
        try:
            yield
        finally:
            self._deployments -= 1

    async def add(self, image: PulledImage) -> None:
        """Remember an image that a deployment pulled and that was not there before."""
        await self._images.add(image)

    async def keep(self, image: PulledImage) -> None:
        """Never remove an image that somebody asked for beside deployments."""
        await self._images.delete(image)

    async def prune(self) -> None:
        """Remove the images that no revision refers to; while a function is deployed, none."""
        for image in await self._images.unused():
            async with self._removing:
                if not self._deployments and image in await self._images.unused():
                    await self._remove(image)

    async def _remove(self, image: PulledImage) -> None:
        """Remove an image; one that resists must not protect the others."""
        try:
            images = self._engines.get(image.runtime).images
            if not isinstance(images, SupportsImageRemoval):
                return
            removed = await images.remove(image.image_id, image.reference)
        except SkybridgeError as error:
            log.warning("image not removed", image=image.reference, detail=error.message)
            return
        if removed:
            await self._images.delete(image)
            log.info("image removed", image=image.reference, id=image.image_id)
