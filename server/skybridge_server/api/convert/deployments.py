"""Progress of deployments and pulls, and the credentials for them."""

from __future__ import annotations

from skybridge.faas.v1 import function_service_pb2 as pb
from skybridge.faas.v1 import system_service_pb2 as system_pb
from skybridge_server.api.convert.functions import revision_to_proto
from skybridge_server.models.functions import Revision
from skybridge_server.runtimes.base import Credentials, Image, PullProgress
from skybridge_server.services.requests import DeploymentPhase
from skybridge_server.services.violations import Violations

MAX_USERNAME_LENGTH = 255
MAX_PASSWORD_BYTES = 8 * 1024


def credentials_from_proto(
    message: pb.RegistryCredentials, wrong: Violations
) -> Credentials | None:
    """Return the field `registry_credentials`; None, the operator's, if it is empty."""
    if not message.username and not message.password:
        return None
    if len(message.username) > MAX_USERNAME_LENGTH:
        wrong.add(
            "registry_credentials.username", f"must have at most {MAX_USERNAME_LENGTH} characters"
        )
    if not message.password:
        wrong.add("registry_credentials.password", "is required with a username")
    if len(message.password.encode()) > MAX_PASSWORD_BYTES:
        wrong.add("registry_credentials.password", f"must have at most {MAX_PASSWORD_BYTES} bytes")
    for name, value in (("username", message.username), ("password", message.password)):
        if "\0" in value:
            wrong.add(f"registry_credentials.{name}", "must not contain NUL")
    return Credentials(message.username, message.password)


def deployment_to_proto(
    step: DeploymentPhase | PullProgress | Revision,
) -> pb.DeployFunctionResponse:
    if isinstance(step, DeploymentPhase):
        return pb.DeployFunctionResponse(phase=pb.DeploymentPhase.ValueType(step))
    if isinstance(step, PullProgress):
        return pb.DeployFunctionResponse(layer=_layer_to_proto(step))
    return pb.DeployFunctionResponse(revision=revision_to_proto(step, active=True))


def pull_to_proto(step: PullProgress | Image) -> system_pb.PullImageResponse:
    if isinstance(step, PullProgress):
        return system_pb.PullImageResponse(layer=_layer_to_proto(step))
    return system_pb.PullImageResponse(
        image=system_pb.PulledImage(
            image_id=step.id,
            image_digest=step.digest,
            platform=step.platform,
            image_bytes=step.size_bytes,
        )
    )


def _layer_to_proto(progress: PullProgress) -> pb.LayerProgress:
    return pb.LayerProgress(
        layer=progress.layer,
        status=progress.status,
        current_bytes=progress.current_bytes,
        total_bytes=progress.total_bytes,
    )
