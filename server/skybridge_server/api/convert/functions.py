"""Functions, their specifications and revisions."""

from __future__ import annotations

from skybridge.faas.v1 import function_pb2 as pb
from skybridge_server.api.convert.retries import fill_retry_policy, retry_policy_from_proto
from skybridge_server.api.convert.values import (
    duration_from_proto,
    enum_from_proto,
    fill_duration,
    fill_timestamp,
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
    """Return a specification; what is not set at all is the very part of `defaults`."""
    prefix = "function.spec."
    return FunctionSpec(
        image=message.image,
        command=tuple(message.command),
        args=tuple(message.args),
        env=dict(message.env),
        working_dir=message.working_dir,
        contract=_contract_from_proto(message, defaults.contract, wrong),
        resources=_resources_from_proto(message, defaults.resources),
        timeouts=_timeouts_from_proto(message, defaults.timeouts, wrong),
        scaling=_scaling_from_proto(message, defaults.scaling, wrong),
        network=enum_from_proto(message.network, defaults.network, f"{prefix}network", wrong),
        isolation=_isolation_from_proto(message, defaults.isolation),
        pull_policy=enum_from_proto(
            message.pull_policy, defaults.pull_policy, f"{prefix}pull_policy", wrong
        ),
        runtime=message.runtime or defaults.runtime,
        retention=_retention_from_proto(message, defaults.retention, wrong),
        retry_policy=retry_policy_from_proto(
            message, defaults.retry_policy, f"{prefix}retry_policy.", wrong
        ),
        destinations=_destinations_from_proto(message, defaults.destinations),
        durability=enum_from_proto(
            message.durability, defaults.durability, f"{prefix}durability", wrong
        ),
        secrets=dict(message.secrets),
    )


def _contract_from_proto(spec: pb.FunctionSpec, default: Contract, wrong: Violations) -> Contract:
    if not spec.HasField("contract"):
        return default
    message = spec.contract
    prefix = "function.spec.contract."
    return Contract(
        kind=enum_from_proto(message.kind, default.kind, f"{prefix}kind", wrong),
        input=enum_from_proto(message.input, default.input, f"{prefix}input", wrong),
        port=message.port or default.port,
        path=message.path or default.path,
        health_path=message.health_path,
    )


def _resources_from_proto(spec: pb.FunctionSpec, default: Resources) -> Resources:
    if not spec.HasField("resources"):
        return default
    message = spec.resources
    return Resources(
        memory_bytes=message.memory_bytes or default.memory_bytes,
        cpu_millis=message.cpu_millis or default.cpu_millis,
        pids=message.pids or default.pids,
        tmp_bytes=message.tmp_bytes or default.tmp_bytes,
        output_bytes=message.output_bytes or default.output_bytes,
    )


def _timeouts_from_proto(spec: pb.FunctionSpec, default: Timeouts, wrong: Violations) -> Timeouts:
    if not spec.HasField("timeouts"):
        return default
    message = spec.timeouts
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


def _scaling_from_proto(spec: pb.FunctionSpec, default: Scaling, wrong: Violations) -> Scaling:
    if not spec.HasField("scaling"):
        return default
    message = spec.scaling
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


def _isolation_from_proto(spec: pb.FunctionSpec, default: Isolation) -> Isolation:
    if not spec.HasField("isolation"):
        return default
    message = spec.isolation
    return Isolation(
        user=message.user or default.user,
        writable_root=message.writable_root,
        oci_runtime=message.oci_runtime,
    )


def _retention_from_proto(
    spec: pb.FunctionSpec, default: Retention, wrong: Violations
) -> Retention:
    if not spec.HasField("retention"):
        return default
    message = spec.retention
    prefix = "function.spec.retention."
    return Retention(
        execution_age=duration_from_proto(
            message, "execution_age", default.execution_age, prefix, wrong
        ),
        executions=message.executions,
        revisions=message.revisions,
    )


def _destinations_from_proto(spec: pb.FunctionSpec, default: Destinations) -> Destinations:
    if not spec.HasField("destinations"):
        return default
    return Destinations(
        on_success=_destination_from_proto(spec.destinations.on_success),
        on_failure=_destination_from_proto(spec.destinations.on_failure),
    )


def _destination_from_proto(message: pb.Destination) -> Destination:
    return Destination(message.function, message.url, message.secret)


# Filled in place: a message that is built apart and then set is copied, which costs more than all
# else.


def function_to_proto(function: Function) -> pb.Function:
    message = pb.Function()
    message.name = str(function.name)
    message.uid = function.uid
    message.description = function.description
    message.labels.update(function.labels)
    _fill_spec(message.spec, function.spec)
    message.state = pb.FunctionState.ValueType(function.state)
    message.state_message = function.state_message
    message.generation = function.generation
    message.etag = function.etag
    if function.active_revision:
        message.active_revision = str(RevisionName(function.name, function.active_revision))
    fill_timestamp(message.create_time, function.create_time)
    fill_timestamp(message.update_time, function.update_time)
    return message


def _fill_spec(message: pb.FunctionSpec, spec: FunctionSpec) -> None:
    """Fill in a specification with every default that has a meaning for its contract."""
    message.image = spec.image
    message.command.extend(spec.command)
    message.args.extend(spec.args)
    message.env.update(spec.env)
    message.secrets.update(spec.secrets)
    message.working_dir = spec.working_dir
    message.contract.kind = pb.ContractKind.ValueType(spec.contract.kind)
    message.contract.input = pb.InputMode.ValueType(spec.contract.input)
    _fill_resources(message.resources, spec.resources)
    fill_duration(message.timeouts.queue, spec.timeouts.queue)
    fill_duration(message.timeouts.start, spec.timeouts.start)
    fill_duration(message.timeouts.execution, spec.timeouts.execution)
    fill_duration(message.timeouts.shutdown_grace, spec.timeouts.shutdown_grace)
    message.scaling.max_concurrency = spec.scaling.max_concurrency
    message.scaling.max_queue_depth = spec.scaling.max_queue_depth
    message.network = pb.Network.ValueType(spec.network)
    message.isolation.user = spec.isolation.user
    message.isolation.writable_root = spec.isolation.writable_root
    message.isolation.oci_runtime = spec.isolation.oci_runtime
    message.pull_policy = pb.PullPolicy.ValueType(spec.pull_policy)
    message.runtime = spec.runtime
    fill_duration(message.retention.execution_age, spec.retention.execution_age)
    message.retention.executions = spec.retention.executions
    message.retention.revisions = spec.retention.revisions
    fill_retry_policy(message.retry_policy, spec.retry_policy)
    if spec.destinations != NO_DESTINATIONS:
        _fill_destinations(message.destinations, spec.destinations)
    if spec.contract.kind.warm:
        _fill_warm(message, spec)


def _fill_warm(message: pb.FunctionSpec, spec: FunctionSpec) -> None:
    """Fill in what only functions have whose instances are kept."""
    contract, scaling = spec.contract, spec.scaling
    if contract.kind is ContractKind.HTTP:
        message.contract.port = contract.port
        message.contract.path = contract.path
        message.contract.health_path = contract.health_path
    fill_duration(message.timeouts.idle, spec.timeouts.idle)
    message.scaling.min_instances = scaling.min_instances
    message.scaling.max_instances = scaling.max_instances
    message.scaling.instance_concurrency = scaling.instance_concurrency
    message.scaling.max_executions_per_instance = scaling.max_executions_per_instance
    message.scaling.reuse = pb.Reuse.ValueType(scaling.reuse)
    fill_duration(message.scaling.pause_after, scaling.pause_after)
    message.durability = pb.Durability.ValueType(spec.durability)


def _fill_resources(message: pb.Resources, resources: Resources) -> None:
    message.memory_bytes = resources.memory_bytes
    message.cpu_millis = resources.cpu_millis
    message.pids = resources.pids
    message.tmp_bytes = resources.tmp_bytes
    message.output_bytes = resources.output_bytes


def _fill_destinations(message: pb.Destinations, destinations: Destinations) -> None:
    """Fill in destinations without their secrets."""
    for name in ("on_success", "on_failure"):
        destination: Destination = getattr(destinations, name)
        if destination != NOBODY:
            getattr(message, name).function = destination.function
            getattr(message, name).url = destination.url


def revision_to_proto(revision: Revision, *, active: bool) -> pb.Revision:
    message = pb.Revision(
        name=str(revision.name),
        number=revision.name.number,
        image_id=revision.image_id,
        image_digest=revision.image_digest,
        platform=revision.platform,
        image_bytes=revision.image_bytes,
        generation=revision.generation,
        active=active,
        create_time=timestamp_to_proto(revision.create_time),
    )
    _fill_spec(message.spec, revision.spec)
    return message
