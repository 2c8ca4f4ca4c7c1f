"""Pulls images, under the operator's trust policy."""

from __future__ import annotations

from collections.abc import AsyncGenerator

from skybridge_server.errors import ImageNotFoundError
from skybridge_server.runtimes.base import Credentials, Image, Images, PullProgress
from skybridge_server.services.limits import Limits
from skybridge_server.services.rules import check_image


async def pull(
    images: Images, image: str, limits: Limits, credentials: Credentials | None
) -> AsyncGenerator[PullProgress | Image]:
    """Pull an image, and yield its progress; the last is the image."""
    reference = str(check_image(image, limits))
    async for progress in images.pull(reference, credentials):
        yield progress
    pulled = await images.get(reference)
    if pulled is None:
        raise ImageNotFoundError(f"image '{image}' vanished from the engine after its pull")
    yield pulled
