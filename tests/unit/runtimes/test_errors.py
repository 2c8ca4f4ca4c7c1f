"""The messages are those of real engines: Docker 20.10 and 28, podman 4.3, runc, crun, runsc."""

from __future__ import annotations

import pytest
import requests
from docker.errors import APIError, DockerException, ImageNotFound, NotFound

from skybridge_server.errors import (
    ContainerGoneError,
    ContainerStartError,
    EntryPointError,
    ImageAccessDeniedError,
    ImageNotFoundError,
    InvalidArgumentError,
    PauseUnsupportedError,
    RegistryUnavailableError,
    RuntimeUnavailableError,
)
from skybridge_server.runtimes.docker_engine import errors

OCI = "failed to create shim task: OCI runtime create failed: runc create failed: "
START = "unable to start container process: "


def answer(status: int, text: str, kind: type[APIError] = APIError) -> APIError:
    response = requests.Response()
    response.status_code = status
    response.url = "http+docker://localhost/v1.41/containers/x"
    return kind("failed", response=response, explanation=text)


@pytest.mark.parametrize(
    "text",
    [
        f'{OCI}{START}exec: "/nope": stat /nope: no such file or directory: unknown',
        f'{OCI}{START}exec: "nope": executable file not found in $PATH: unknown',
        f'{OCI}{START}exec: "/etc": permission denied: unknown',
        f'{OCI}{START}exec: "/etc": is a directory: unknown',
        "crun: executable file `/nope` not found in $PATH: No such file or directory",
        'starting container: creating process: error finding executable "/nope" in PATH',
        "No command specified",
        f"{OCI}{START}exec /entry: exec format error: unknown",
    ],
)
def test_entry_points(text: str) -> None:
    for status in (400, 500):  # Docker's, podman's
        assert isinstance(errors.of_start("x")(answer(status, text)), EntryPointError)


@pytest.mark.parametrize(
    "text",
    [
        f'{OCI}{START}chdir to cwd ("/nope") set in config.json failed: no such file or directory',
        "Unknown runtime specified runsc",
        "Minimum memory limit allowed is 6MB",
        "unable to find user nobody: no matching entries in passwd file",
        "network skybridge-egress is being removed",
    ],
)
def test_other_refusals_to_start(text: str) -> None:
    assert type(errors.of_start("x")(answer(500, text))) is ContainerStartError


def test_messages_lose_what_only_engines_care_for() -> None:
    text = f'{OCI}{START}exec: "/nope": stat /nope: no such file or directory: unknown'
    error = errors.of_start("x")(answer(400, text))
    assert error.message == (
        'the image has no such command: exec: "/nope": stat /nope: no such file or directory'
    )


def test_images_and_containers_that_are_gone() -> None:
    gone = answer(404, "No such image: sha256:1", ImageNotFound)
    assert isinstance(errors.of_creation("sha256:1")(gone), ImageNotFoundError)
    gone = answer(404, "No such container: x", NotFound)
    assert isinstance(errors.of_start("x")(gone), ContainerGoneError)
    assert isinstance(errors.of_container("x")(gone), ContainerGoneError)


def test_a_network_that_is_gone_is_not_a_container_that_is() -> None:
    gone = answer(404, "network skybridge-egress not found", NotFound)
    assert isinstance(errors.of_start("x")(gone), ContainerStartError)


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("manifest for r/x:1 not found: manifest unknown: manifest unknown", ImageNotFoundError),
        ("repository r/x not found: name unknown", ImageNotFoundError),
        ("no matching manifest for linux/arm64/v8 in the manifest list", ImageNotFoundError),
        ('Head "http://r/v2/x/manifests/1": no basic auth credentials', ImageAccessDeniedError),
        ("unauthorized: authentication required", ImageAccessDeniedError),
        (
            "pull access denied for x, repository does not exist or may require 'docker login'",
            ImageAccessDeniedError,
        ),
        ("dial tcp 127.0.0.1:5599: connect: connection refused", RegistryUnavailableError),
        ("lookup r.invalid: no such host", RegistryUnavailableError),
        ("toomanyrequests: You have reached your pull rate limit", RegistryUnavailableError),
        ("x509: certificate signed by unknown authority", RegistryUnavailableError),
        ("invalid reference format", InvalidArgumentError),
        ("invalid reference format: repository name must be lowercase", InvalidArgumentError),
    ],
)
def test_pulls(text: str, kind: type[Exception]) -> None:
    assert type(errors.of_pull("r/x:1", text)) is kind


def test_words_in_the_name_of_an_image_decide_nothing() -> None:
    text = "manifest for r/denied:1 not found: manifest unknown"
    assert isinstance(errors.of_pull("r/denied:1", text), ImageNotFoundError)


def test_an_engine_that_cannot_be_reached() -> None:
    cause = ConnectionRefusedError(111, "Connection refused")
    error = requests.ConnectionError("five layers of text")
    error.__cause__ = cause
    translated = errors.unavailable(error)
    assert isinstance(translated, RuntimeUnavailableError)
    assert translated.message == "the container engine does not answer: Connection refused"
    assert "silence" in str(errors.unavailable(DockerException("silence")))


def test_answers_are_let_through_unless_the_engine_is_ending() -> None:
    refused = answer(409, "conflict")
    assert errors.unavailable(refused) is refused
    ending = answer(503, "server is shutting down")
    assert isinstance(errors.unavailable(ending), RuntimeUnavailableError)


def test_answers_that_nothing_explains() -> None:
    error = errors.of_engine(answer(500, "layer store is broken"))
    assert isinstance(error, RuntimeUnavailableError)
    assert "layer store is broken" in error.message


@pytest.mark.parametrize(
    ("text", "awake"),
    [
        ("Container 1a is not paused", True),
        ("Cannot unpause container 1a: cannot resume a running process: unknown", True),
        ("Cannot unpause container 1a: cannot resume a stopped container: unknown", True),
        ("Cannot unpause container 1a: freezer is not supported", False),
    ],
)
def test_what_needs_no_unpause(text: str, awake: bool) -> None:
    assert errors.is_awake(answer(500, text)) is awake


PAUSE = "Cannot pause container 1a: "


@pytest.mark.parametrize(
    ("status", "text", "kind"),
    [
        (
            500,
            f"{PAUSE}OCI runtime pause failed: unable to freeze: unknown",
            RuntimeUnavailableError,
        ),
        (500, f"{PAUSE}freezer is not supported: unknown", PauseUnsupportedError),
        (500, f"{PAUSE}rpc error: code = Unimplemented: not implemented", PauseUnsupportedError),
        (
            500,
            f"{PAUSE}cannot toggle freezer: cgroups not configured for container: unknown",
            PauseUnsupportedError,
        ),
        (500, "pause is not supported for cgroup V1 rootless containers", PauseUnsupportedError),
        (501, "this engine does not pause", PauseUnsupportedError),
        (404, "No such container: 1a", ContainerGoneError),
    ],
)
def test_pauses_that_fail_once_and_those_that_always_will(
    status: int, text: str, kind: type[Exception]
) -> None:
    assert type(errors.of_pause("1a")(answer(status, text))) is kind
