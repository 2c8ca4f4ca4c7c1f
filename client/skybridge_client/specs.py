"""The keywords that describe a function, and where each stands in the Function message."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypedDict, TypeVar

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message import Message

from skybridge.faas.v1.function_pb2 import Function
from skybridge_client.calls import duration

M = TypeVar("M", bound=Message)


class FunctionFields(TypedDict, total=False):
    """What may be said about a function, by keyword. Times are in seconds.

    Limits and defaults stand at the fields of FunctionSpec, whose names these are.
    """

    description: str
    labels: Mapping[str, str]
    image: str
    command: Sequence[str]
    args: Sequence[str]
    env: Mapping[str, str]
    secrets: Mapping[str, str]
    working_dir: str
    contract: Literal["stdio", "http", "lambda"]
    input_mode: Literal["stdin", "env"]
    port: int
    path: str
    health_path: str
    memory_bytes: int
    cpu_millis: int
    pids: int
    tmp_bytes: int
    output_bytes: int
    queue_timeout: float
    start_timeout: float
    execution_timeout: float
    shutdown_grace: float
    idle_timeout: float
    max_concurrency: int
    max_queue_depth: int
    min_instances: int
    max_instances: int
    instance_concurrency: int
    max_executions_per_instance: int
    reuse: Literal["allowed", "never"]
    pause_after: float
    durability: Literal["committed", "deferred"]
    network: Literal["none", "egress"]
    user: str
    writable_root: bool
    oci_runtime: str
    pull_policy: Literal["always", "if_not_present", "never"]
    runtime: str
    execution_age: float
    max_executions: int
    max_revisions: int
    max_attempts: int
    initial_backoff: float
    max_backoff: float
    backoff_coefficient: float
    backoff_jitter: float
    retry_max_age: float
    retry_on: Sequence[str]
    retry_exit_codes: Sequence[int]
    dead_letters: bool
    on_success_function: str
    on_success_url: str
    on_success_secret: str
    on_failure_function: str
    on_failure_url: str
    on_failure_secret: str


PATHS: dict[str, str] = {
    "description": "description",
    "labels": "labels",
    "image": "spec.image",
    "command": "spec.command",
    "args": "spec.args",
    "env": "spec.env",
    "secrets": "spec.secrets",
    "working_dir": "spec.working_dir",
    "contract": "spec.contract.kind",
    "input_mode": "spec.contract.input",
    "port": "spec.contract.port",
    "path": "spec.contract.path",
    "health_path": "spec.contract.health_path",
    "memory_bytes": "spec.resources.memory_bytes",
    "cpu_millis": "spec.resources.cpu_millis",
    "pids": "spec.resources.pids",
    "tmp_bytes": "spec.resources.tmp_bytes",
    "output_bytes": "spec.resources.output_bytes",
    "queue_timeout": "spec.timeouts.queue",
    "start_timeout": "spec.timeouts.start",
    "execution_timeout": "spec.timeouts.execution",
    "shutdown_grace": "spec.timeouts.shutdown_grace",
    "idle_timeout": "spec.timeouts.idle",
    "max_concurrency": "spec.scaling.max_concurrency",
    "max_queue_depth": "spec.scaling.max_queue_depth",
    "min_instances": "spec.scaling.min_instances",
    "max_instances": "spec.scaling.max_instances",
    "instance_concurrency": "spec.scaling.instance_concurrency",
    "max_executions_per_instance": "spec.scaling.max_executions_per_instance",
    "reuse": "spec.scaling.reuse",
    "pause_after": "spec.scaling.pause_after",
    "durability": "spec.durability",
    "network": "spec.network",
    "user": "spec.isolation.user",
    "writable_root": "spec.isolation.writable_root",
    "oci_runtime": "spec.isolation.oci_runtime",
    "pull_policy": "spec.pull_policy",
    "runtime": "spec.runtime",
    "execution_age": "spec.retention.execution_age",
    "max_executions": "spec.retention.executions",
    "max_revisions": "spec.retention.revisions",
    "max_attempts": "spec.retry_policy.max_attempts",
    "initial_backoff": "spec.retry_policy.initial_backoff",
    "max_backoff": "spec.retry_policy.max_backoff",
    "backoff_coefficient": "spec.retry_policy.backoff_coefficient",
    "backoff_jitter": "spec.retry_policy.jitter",
    "retry_max_age": "spec.retry_policy.max_age",
    "retry_on": "spec.retry_policy.retry_on",
    "retry_exit_codes": "spec.retry_policy.exit_codes",
    "dead_letters": "spec.retry_policy.dead_letters",
    "on_success_function": "spec.destinations.on_success.function",
    "on_success_url": "spec.destinations.on_success.url",
    "on_success_secret": "spec.destinations.on_success.secret",
    "on_failure_function": "spec.destinations.on_failure.function",
    "on_failure_url": "spec.destinations.on_failure.url",
    "on_failure_secret": "spec.destinations.on_failure.secret",
}
"""Keyword to path in Function."""


def build_function(base: Function | None, fields: Mapping[str, Any]) -> Function:
    """A Function with the fields set over a copy of `base`. Raises as `build`."""
    return build(Function(), base, fields, PATHS)


def build_mask(fields: Mapping[str, Any], more: Sequence[str] = ()) -> FieldMask:
    """A mask of the fields' paths and of `more` paths."""
    return mask(fields, PATHS, more)


def build(empty: M, base: M | None, fields: Mapping[str, Any], paths: Mapping[str, str]) -> M:
    """The `empty` message with `base`, and the fields set over it at their paths.

    Raises TypeError for an unknown keyword and ValueError for an unknown word of an enum.
    """
    unknown = sorted(fields.keys() - paths.keys())
    if unknown:
        noun = empty.DESCRIPTOR.name.lower()
        raise TypeError(f"unknown fields of a {noun}: {', '.join(unknown)}")
    if base is not None:
        empty.CopyFrom(base)
    for keyword, value in fields.items():
        _set(empty, paths[keyword], value)
    return empty


def mask(
    fields: Mapping[str, Any], paths: Mapping[str, str], more: Sequence[str] = ()
) -> FieldMask:
    """A mask of the fields' paths and of `more` paths."""
    return FieldMask(paths=[*(paths[keyword] for keyword in fields), *more])


def enum_value(enum: EnumDescriptor, word: str) -> int:
    """The value of an enum by its short name, such as `egress` of NETWORK_EGRESS.

    Raises ValueError that lists what there is.
    """
    words = {enum_word(value.name, enum): value.number for value in enum.values if value.number}
    if word not in words:
        raise ValueError(f"{word!r} is none of {', '.join(words)}")
    return words[word]


def enum_word(name: str, enum: EnumDescriptor) -> str:
    """The short name of an enum's value: without the enum's name, in lower case."""
    prefix = enum.values_by_number[0].name.removesuffix("UNSPECIFIED")
    return name.removeprefix(prefix).lower()


def _set(message: Message, path: str, value: Any) -> None:
    """Sets the field at a dotted path; messages on the way come into being."""
    *parents, name = path.split(".")
    for parent in parents:
        message = getattr(message, parent)
    field = message.DESCRIPTOR.fields_by_name[name]
    if isinstance(value, Mapping):
        message.ClearField(name)
        getattr(message, name).update(value)
    elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
        message.ClearField(name)
        kind: Any = field.enum_type
        items = [enum_value(kind, word) for word in value] if kind else value
        getattr(message, name).extend(items)
    elif field.message_type is Duration.DESCRIPTOR:
        getattr(message, name).CopyFrom(duration(value))
    else:
        enum: Any = field.enum_type
        setattr(message, name, enum_value(enum, value) if enum else value)
