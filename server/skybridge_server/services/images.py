"""Image references: their grammar, their normal form, and the operator's trust policy.

The normal form names everything that a short reference leaves out: `busybox` is
`docker.io/library/busybox:latest`. It can never be taken for the id of an image that the engine
happens to have, so whoever talks to an engine should use it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

MAX_REFERENCE_LENGTH = 512
MAX_REPOSITORY_LENGTH = 255

_HOST_PART = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_REGISTRY = re.compile(rf"(?:{_HOST_PART}(?:\.{_HOST_PART})*|\[[0-9a-fA-F:]+\])(?::[0-9]{{1,5}})?")
_PATH_PART = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_PATH = re.compile(rf"{_PATH_PART}(?:/{_PATH_PART})*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_IMAGE_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class ImageReference:
    """A parsed image reference; `str()` is its normal form. It has a tag, a digest, or both."""

    repository: str
    """Registry and path, such as `docker.io/library/busybox`."""
    tag: str
    digest: str

    def __str__(self) -> str:
        tag = self.tag and f":{self.tag}"
        digest = self.digest and f"@{self.digest}"
        return f"{self.repository}{tag}{digest}"


def parse_image(reference: str) -> ImageReference:
    """Parse an image reference. ValueError: it is none; the message says why."""
    if len(reference) > MAX_REFERENCE_LENGTH:
        raise ValueError(f"must have at most {MAX_REFERENCE_LENGTH} characters")
    if _IMAGE_ID.fullmatch(reference):
        raise ValueError("must be a name with a tag or digest, not the id of an image")
    rest, at, digest = reference.partition("@")
    if at and not _DIGEST.fullmatch(digest):
        raise ValueError("digest must be sha256: and 64 hexadecimal digits")
    name, tag = _split_tag(rest)
    repository = _repository(name)
    return ImageReference(repository, tag or ("" if digest else "latest"), digest)


def _split_tag(name: str) -> tuple[str, str]:
    """Split `name:tag`; the colon of a registry's port is followed by a slash."""
    head, colon, tag = name.rpartition(":")
    if not colon or "/" in tag:
        return name, ""
    if not _TAG.fullmatch(tag):
        raise ValueError("tag must have 1 to 128 characters of A-Z a-z 0-9 _ . -")
    return head, tag


def _repository(name: str) -> str:
    registry, slash, path = name.partition("/")
    if not slash or not ("." in registry or ":" in registry or registry == "localhost"):
        registry, path = "docker.io", name
    elif not _REGISTRY.fullmatch(registry):
        raise ValueError("registry must be a host name or address, with an optional port")
    if registry == "index.docker.io":
        registry = "docker.io"
    if registry == "docker.io" and "/" not in path:
        path = f"library/{path}"
    repository = f"{registry}/{path}"
    if not _PATH.fullmatch(path):
        raise ValueError("must be [registry/]name[:tag][@digest], names of a-z 0-9 . _ - only")
    if len(repository) > MAX_REPOSITORY_LENGTH:
        raise ValueError(f"name must have at most {MAX_REPOSITORY_LENGTH} characters")
    return repository


def refusal(
    image: ImageReference, *, allowed_images: Sequence[str], require_digest: bool
) -> str | None:
    """Return why the operator's policy refuses an image; None if it does not.

    Patterns are those of the shell (`*` also matches `/`). One that matches the whole normal form
    or the repository without tag and digest allows the image; no patterns allow every image:
    `docker.io/library/*`, `ghcr.io/acme/resize:2.*`, `registry.example.com/team/app`.
    """
    if require_digest and not image.digest:
        return "must name the image by digest (FAAS_REQUIRE_DIGEST): name@sha256:..."
    if allowed_images and not any(
        fnmatchcase(str(image), pattern) or fnmatchcase(image.repository, pattern)
        for pattern in allowed_images
    ):
        return f"'{image}' matches none of the allowed images (FAAS_ALLOWED_IMAGES)"
    return None
