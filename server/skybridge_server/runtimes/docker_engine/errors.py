"""What docker-py raises, in the domain's words. Nobody else looks at an engine's messages."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import requests
import urllib3
from docker.errors import APIError, DockerException, ImageNotFound

from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    EntryPointError,
    FieldViolation,
    ImageAccessDeniedError,
    ImageNotFoundError,
    InvalidArgumentError,
    PauseUnsupportedError,
    RegistryUnavailableError,
    RuntimeUnavailableError,
    SkybridgeError,
)

Translation = Callable[[APIError], SkybridgeError]

# Nothing of ours but engine calls runs where these are caught. APIError, which is an answer, is
# one of them by inheritance: `unavailable` lets it through.
UNREACHABLE = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    DockerException,
    OSError,
)

_NO_ENTRY_POINT = re.compile(
    r'exec: ".*"|executable file .* not found|exec format error|no command specified'
    r"|finding executable|open executable",
    re.IGNORECASE,
)
_RUNTIME_PREFIX = re.compile(
    r"^.*(?:start container process|starting container process|OCI runtime error): ", re.DOTALL
)
_NO_IMAGE = re.compile(
    r"manifest unknown|name unknown|no such image|no matching manifest", re.IGNORECASE
)
_NO_ACCESS = re.compile(
    r"no basic auth credentials|unauthorized|authentication required|denied|forbidden",
    re.IGNORECASE,
)
_AWAKE = ("is not paused", "resume a running process", "a stopped container")
"""The second comes where the engine has not yet heard of the first unpause."""
_NO_PAUSE = re.compile(
    r"not supported|unsupported|not implemented|cgroups not configured", re.IGNORECASE
)
_BAD_REFERENCE = re.compile(
    r"invalid reference format|invalid tag format|repository name", re.IGNORECASE
)


def unavailable(error: Exception) -> Exception:
    """Translate a failure to reach the engine; an answer of the engine stays what it is."""
    if isinstance(error, APIError) and error.status_code != 503:
        return error
    return RuntimeUnavailableError(f"the container engine does not answer: {_cause(error)}")


@contextmanager
def translating(translate: Translation) -> Iterator[None]:
    """Turn what an engine answers into one of our errors."""
    try:
        yield
    except APIError as error:
        raise translate(error) from error


def of_engine(error: APIError) -> SkybridgeError:
    """Translate an answer that no call expects."""
    return RuntimeUnavailableError(f"the container engine failed: {explanation(error)}")


def of_container(container_id: str) -> Translation:
    """Translate answers about a container."""

    def translate(error: APIError) -> SkybridgeError:
        return ContainerGoneError(container_id) if is_missing(error) else of_engine(error)

    return translate


def of_creation(image_id: str) -> Translation:
    """Translate answers to the creation of a container."""

    def translate(error: APIError) -> SkybridgeError:
        if isinstance(error, ImageNotFound):
            return ImageNotFoundError(
                f"the container engine no longer has image {image_id}: deploy the function again"
            )
        return _of_launch(error)

    return translate


def of_start(container_id: str) -> Translation:
    """Translate answers to the start of a container."""

    def translate(error: APIError) -> SkybridgeError:
        text = explanation(error).lower()
        # A network may be missing, too.
        gone = (is_missing(error) and "container" in text) or "marked for removal" in text
        return ContainerGoneError(container_id) if gone else _of_launch(error)

    return translate


def of_pause(container_id: str) -> Translation:
    """Translate answers to a pause: a kernel may not manage to freeze processes that are busy."""

    def translate(error: APIError) -> SkybridgeError:
        text = explanation(error)
        if error.status_code == 501 or _NO_PAUSE.search(text):
            return PauseUnsupportedError(f"the engine cannot pause containers: {text}")
        return of_container(container_id)(error)

    return translate


def of_pull(reference: str, text: str) -> SkybridgeError:
    """Translate what the engine says of a pull, as an answer or within the stream."""
    if _BAD_REFERENCE.search(text):
        return InvalidArgumentError(
            FieldViolation("image", f"'{reference}' is not an image reference: {text}")
        )
    if _NO_IMAGE.search(text):
        return ImageNotFoundError(f"no registry has image '{reference}': {text}")
    if _NO_ACCESS.search(text):
        return ImageAccessDeniedError(
            f"the registry does not hand out image '{reference}' ({text}): "
            "give it valid credentials, and check the name"
        )
    if "not found" in text:
        return ImageNotFoundError(f"no registry has image '{reference}': {text}")
    return RegistryUnavailableError(f"image '{reference}' cannot be pulled: {text}")


def is_missing(error: APIError) -> bool:
    return error.status_code == 404


def is_conflict(error: APIError) -> bool:
    return error.status_code == 409


def _of_launch(error: APIError) -> SkybridgeError:
    text = explanation(error)
    reason = _RUNTIME_PREFIX.sub("", text).removesuffix(": unknown")
    if _NO_ENTRY_POINT.search(text):
        return EntryPointError(f"the image has no such command: {reason}")
    return ContainerStartError(f"the container engine cannot start the function: {reason}")


def is_awake(error: APIError) -> bool:
    """Whether a container could not be unpaused because it was not paused, or has ended."""
    return any(each in explanation(error) for each in _AWAKE)


def explanation(error: APIError) -> str:
    """Return what the engine says."""
    return str(error.explanation or error).strip()


def _cause(error: BaseException) -> str:
    """Return the innermost reason: requests and urllib3 wrap it up to five times."""
    inner = error
    while inner.__cause__ or inner.__context__:
        inner = inner.__cause__ or inner.__context__ or inner
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return str(inner) or type(inner).__name__
