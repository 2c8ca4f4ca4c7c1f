"""Functions, their specifications and revisions."""

from __future__ import annotations

from skybridge.faas.v1 import function_pb2 as pb
from skybridge_server.api.convert.retries import retry_policy_from_proto, retry_policy_to_proto
from skybridge_server.api.convert.values import (
    duration_from_proto,
    duration_to_proto,
    enum_from_proto,
    timestamp_to_proto,
)
from skybridge_server.models.destinations import (
    NO_DESTINATIONS,
    NOBODY,
    Destination,
    Destinations,
)
from skybridge_server.models.functions import (
    Contract,
    ContractKind,
    Function,
    FunctionSpec,
    Isolation,
    Resources,
    Retention,
    Revision,
    Scaling,
    Timeouts,
)
from skybridge_server.models.names import RevisionName
from skybridge_server.services.requests import FunctionDraft
from skybridge_server.services.violations import Violations


def draft_from_proto(
    message: pb.Function, defaults: FunctionSpec, wrong: Violations
) -> FunctionDraft:
    """Return what the user wrote of the field `function`; output-only fields are ignored.

    `defaults`: what a specification has where its writer says nothing.
    """
    return FunctionDraft(
        spec=_spec_from_proto(message.spec, defaults, wrong),
        description=message.description,
        labels=dict(message.labels),
    )


def _spec_from_proto(
    message: pb.FunctionSpec, defaults: FunctionSpec, wrong: Violations
) -> FunctionSpec:
    prefix = "function.spec."
    return FunctionSpec(
        image=message.image,
        command=tuple(message.command),
        args=tuple(message.args),
        env=dict(message.env),
        working_dir=message.working_dir,
        contract=_contract_from_proto(message.contract, defaults.contract, wrong),
        resources=_resources_from_proto(message.resources, defaults.resources),
        timeouts=_timeouts_from_proto(message.timeouts, defaults.timeouts, wrong),
        scaling=_scaling_from_proto(message.scaling, defaults.scaling, wrong),
        network=enum_from_proto(message.network, defaults.network, f"{prefix}network", wrong),
        isolation=_isolation_from_proto(message.isolation, defaults.isolation),
        pull_policy=enum_from_proto(
            message.pull_policy, defaults.pull_policy, f"{prefix}pull_policy", wrong
        ),
        runtime=message.runtime or defaults.runtime,
        retention=_retention_from_proto(message.retention, defaults.retention, wrong),
        retry_policy=retry_policy_from_proto(
            message.retry_policy, defaults.retry_policy, f"{prefix}retry_policy.", wrong
        ),
        destinations=Destinations(
            on_success=_destination_from_proto(message.destinations.on_success),
            on_failure=_destination_from_proto(message.destinations.on_failure),
        ),
        durability=enum_from_proto(
            message.durability, defaults.durability, f"{prefix}durability", wrong
        ),
    )


def _contract_from_proto(message: pb.Contract, default: Contract, wrong: Violations) -> Contract:
    prefix = "function.spec.contract."
    return Contract(
        kind=enum_from_proto(message.kind, default.kind, f"{prefix}kind", wrong),
        input=enum_from_proto(message.input, default.input, f"{prefix}input", wrong),
        port=message.port or default.port,
        path=message.path or default.path,
        health_path=message.health_path,
    )


def _resources_from_proto(message: pb.Resources, default: Resources) -> Resources:
    return Resources(
        memory_bytes=message.memory_bytes or default.memory_bytes,
        cpu_millis=message.cpu_millis or default.cpu_millis,
        pids=message.pids or default.pids,
        tmp_bytes=message.tmp_bytes or default.tmp_bytes,
        output_bytes=message.output_bytes or default.output_bytes,
    )


def _timeouts_from_proto(message: pb.Timeouts, default: Timeouts, wrong: Violations) -> Timeouts:
    prefix = "function.spec.timeouts."
    return Timeouts(
        queue=duration_from_proto(message, "queue", default.queue, prefix, wrong),
        start=duration_from_proto(message, "start", default.start, prefix, wrong),
        execution=duration_from_proto(message, "execution", default.execution, prefix, wrong),
        shutdown_grace=duration_from_proto(
            message, "shutdown_grace", default.shutdown_grace, prefix, wrong
        ),
        idle=duration_from_proto(message, "idle", default.idle, prefix, wrong),
    )


def _scaling_from_proto(message: pb.Scaling, default: Scaling, wrong: Violations) -> Scaling:
    prefix = "function.spec.scaling."
    given = message.HasField("max_queue_depth")
    return Scaling(
        max_concurrency=message.max_concurrency,
        max_queue_depth=message.max_queue_depth if given else default.max_queue_depth,
        min_instances=message.min_instances,
        max_instances=message.max_instances,
        instance_concurrency=message.instance_concurrency or default.instance_concurrency,
        max_executions_per_instance=message.max_executions_per_instance,
        reuse=enum_from_proto(message.reuse, default.reuse, f"{prefix}reuse", wrong),
        pause_after=duration_from_proto(message, "pause_after", default.pause_after, prefix, wrong),
    )


def _isolation_from_proto(message: pb.Isolation, default: Isolation) -> Isolation:
    return Isolation(
        user=message.user or default.user,
        writable_root=message.writable_root,
        oci_runtime=message.oci_runtime,
    )


def _retention_from_proto(
    message: pb.Retention, default: Retention, wrong: Violations
) -> Retention:
    prefix = "function.spec.retention."
    return Retention(
        execution_age=duration_from_proto(
            message, "execution_age", default.execution_age, prefix, wrong
        ),
        executions=message.executions,
        revisions=message.revisions,
    )


def _destination_from_proto(message: pb.Destination) -> Destination:
    return Destination(message.function, message.url, message.secret)


def _destinations_to_proto(destinations: Destinations) -> pb.Destinations | None:
    """Return destinations without their secrets; None where there are none."""
    if destinations == NO_DESTINATIONS:
        return None
    told = {
        name: pb.Destination(function=each.function, url=each.url)
        for name in ("on_success", "on_failure")
        if (each := getattr(destinations, name)) != NOBODY
    }
    return pb.Destinations(**told)


def function_to_proto(function: Function) -> pb.Function:
    active = function.active_revision
    return pb.Function(
        name=str(function.name),
        uid=function.uid,
        description=function.description,
        labels=function.labels,
        spec=spec_to_proto(function.spec),
        state=pb.FunctionState.ValueType(function.state),
        state_message=function.state_message,
        generation=function.generation,
        etag=function.etag,
        active_revision=str(RevisionName(function.name, active)) if active else "",
        create_time=timestamp_to_proto(function.create_time),
        update_time=timestamp_to_proto(function.update_time),
    )


def spec_to_proto(spec: FunctionSpec) -> pb.FunctionSpec:
    """Return a specification with every default filled in that has a meaning for its contract."""
    message = _any_spec_to_proto(spec)
    if spec.contract.kind.warm:
        _fill_warm(message, spec)
    return message


def _fill_warm(message: pb.FunctionSpec, spec: FunctionSpec) -> None:
    """Fill in what only functions have whose instances are kept."""
    contract, scaling = spec.contract, spec.scaling
    if contract.kind is ContractKind.HTTP:
        message.contract.port = contract.port
        message.contract.path = contract.path
        message.contract.health_path = contract.health_path
    message.timeouts.idle.CopyFrom(duration_to_proto(spec.timeouts.idle))
    message.scaling.min_instances = scaling.min_instances
    message.scaling.max_instances = scaling.max_instances
    message.scaling.instance_concurrency = scaling.instance_concurrency
    message.scaling.max_executions_per_instance = scaling.max_executions_per_instance
    message.scaling.reuse = pb.Reuse.ValueType(scaling.reuse)
    message.scaling.pause_after.CopyFrom(duration_to_proto(scaling.pause_after))
    message.durability = pb.Durability.ValueType(spec.durability)


def _any_spec_to_proto(spec: FunctionSpec) -> pb.FunctionSpec:
    return pb.FunctionSpec(
        image=spec.image,
        command=spec.command,
        args=spec.args,
        env=spec.env,
        working_dir=spec.working_dir,
        contract=pb.Contract(
            kind=pb.ContractKind.ValueType(spec.contract.kind),
            input=pb.InputMode.ValueType(spec.contract.input),
        ),
        resources=pb.Resources(
            memory_bytes=spec.resources.memory_bytes,
            cpu_millis=spec.resources.cpu_millis,
            pids=spec.resources.pids,
            tmp_bytes=spec.resources.tmp_bytes,
            output_bytes=spec.resources.output_bytes,
        ),
        timeouts=pb.Timeouts(
            queue=duration_to_proto(spec.timeouts.queue),
            start=duration_to_proto(spec.timeouts.start),
            execution=duration_to_proto(spec.timeouts.execution),
            shutdown_grace=duration_to_proto(spec.timeouts.shutdown_grace),
        ),
        scaling=pb.Scaling(
            max_concurrency=spec.scaling.max_concurrency,
            max_queue_depth=spec.scaling.max_queue_depth,
        ),
        network=pb.Network.ValueType(spec.network),
        isolation=pb.Isolation(
            user=spec.isolation.user,
            writable_root=spec.isolation.writable_root,
            oci_runtime=spec.isolation.oci_runtime,
        ),
        pull_policy=pb.PullPolicy.ValueType(spec.pull_policy),
        runtime=spec.runtime,
        retention=pb.Retention(
            execution_age=duration_to_proto(spec.retention.execution_age),
            executions=spec.retention.executions,
            revisions=spec.retention.revisions,
        ),
        retry_policy=retry_policy_to_proto(spec.retry_policy),
        destinations=_destinations_to_proto(spec.destinations),
    )


def revision_to_proto(revision: Revision, *, active: bool) -> pb.Revision:
    return pb.Revision(
        name=str(revision.name),
        number=revision.name.number,
        spec=spec_to_proto(revision.spec),
        image_id=revision.image_id,
        image_digest=revision.image_digest,
        platform=revision.platform,
        image_bytes=revision.image_bytes,
        generation=revision.generation,
        active=active,
        create_time=timestamp_to_proto(revision.create_time),
    )
