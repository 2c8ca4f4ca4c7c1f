"""How instances are spoken to, by the contract of their function."""

from __future__ import annotations

from functools import partial

from skybridge_server.contracts import http, lambda_events
from skybridge_server.contracts.base import Conversation
from skybridge_server.contracts.http import HttpConversation
from skybridge_server.contracts.lambda_api import LambdaConversation
from skybridge_server.errors import FailedPreconditionError
from skybridge_server.models.functions import ContractKind, Revision
from skybridge_server.runtimes.base import Runtime, SupportsPorts
from skybridge_server.services.pool.instances import Instance


def environment(revision: Revision) -> dict[str, str]:
    """Return the environment of an instance."""
    spec, name = revision.spec, revision.name
    if spec.contract.kind is ContractKind.LAMBDA:
        return lambda_events.environment(
            spec,
            name.function,
            name.number,
            max_concurrency=spec.scaling.instance_concurrency,
        )
    return http.environment(spec, name.function, name.number, spec.contract.port)


async def open_conversation(runtime: Runtime, instance: Instance) -> Conversation:
    """Prepare to speak to an instance whose container was created, and is not started yet.

    FailedPreconditionError: the runtime cannot reach into containers.
    """
    if not isinstance(runtime, SupportsPorts):
        raise FailedPreconditionError(
            f"the runtime '{runtime.name}' cannot reach into containers: use spec.contract.kind "
            "STDIO, or another runtime",
            reason="PORTS_UNSUPPORTED",
        )
    name, contract = instance.revision.name, instance.revision.spec.contract
    if contract.kind is ContractKind.LAMBDA:
        conversation = LambdaConversation(name.function, name.number)
        # It ends with the container.
        await runtime.listen(
            instance.container_id, lambda_events.RUNTIME_PORT, conversation.accepted
        )
        return conversation
    return HttpConversation(
        partial(runtime.connect, instance.container_id, contract.port),
        name.function,
        path=contract.path,
        health_path=contract.health_path,
    )
