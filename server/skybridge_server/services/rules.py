"""Rules over what callers write: what a field may hold, and what the operator allows.

Every check takes a collector and goes on after a finding, so that an answer names all that is
wrong at once. Paths are those of the proto.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from skybridge_server.contracts.stdio import MAX_ENV_INPUT_BYTES
from skybridge_server.errors import FailedPreconditionError, FieldViolation, InvalidArgumentError
from skybridge_server.models.destinations import Destination, Destinations
from skybridge_server.models.executions import NO_ENVELOPE, FailureReason
from skybridge_server.models.functions import (
    KIB,
    MIB,
    Contract,
    FunctionSpec,
    InputMode,
    Isolation,
    Resources,
    Retention,
    Scaling,
    Timeouts,
)
from skybridge_server.models.names import ID_PATTERN
from skybridge_server.models.retries import WANTED, RetryPolicy
from skybridge_server.services import images, warm_rules, webhooks
from skybridge_server.services.images import ImageReference
from skybridge_server.services.limits import Limits
from skybridge_server.services.requests import ExecutionRequest, FunctionDraft
from skybridge_server.services.violations import Violations, check_between

MAX_DESCRIPTION_LENGTH = 1024
MAX_LABELS = 64
MAX_LABEL_VALUE_LENGTH = 255
MAX_COMMAND_ITEMS = 128
MAX_COMMAND_ITEM_BYTES = 4 * KIB
MAX_ARG_BYTES = 32 * KIB
MAX_ENV_ENTRIES = 256
MAX_ENV_BYTES = 128 * KIB
MAX_SECRETS = 16
MAX_WORKING_DIR_BYTES = 4 * KIB - 1
MAX_UID = 2**31 - 1
MAX_ATTEMPTS = 100
MAX_URL_LENGTH = 2048
MAX_EXIT_CODES = 64

LABEL_KEY = re.compile(r"[a-z0-9](?:[a-z0-9._/-]{0,61}[a-z0-9])?")
SECRET_FILE = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]{0,63}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
USER = re.compile(r"([0-9]{1,10})(?::([0-9]{1,10}))?")
TRACEPARENT = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
)

_MILLISECOND = timedelta(milliseconds=1)
_SECOND = timedelta(seconds=1)
_HOUR = timedelta(hours=1)
_DAY = timedelta(days=1)
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_CONTROL_IN_TEXT = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_OPERATOR = "see GetSystemInfo for the operator's limits"


def default_spec(limits: Limits) -> FunctionSpec:
    """Return what a specification has where its writer says nothing, within the limits."""
    usual, timeouts = Resources(), Timeouts()
    return FunctionSpec(
        image="",
        resources=Resources(
            memory_bytes=min(usual.memory_bytes, limits.max_memory_bytes),
            cpu_millis=min(usual.cpu_millis, limits.max_cpu_millis),
            pids=min(usual.pids, limits.max_pids),
            tmp_bytes=min(usual.tmp_bytes, limits.max_tmp_bytes),
            output_bytes=min(usual.output_bytes, limits.max_output_bytes),
        ),
        timeouts=replace(timeouts, execution=min(timeouts.execution, limits.max_execution_timeout)),
        runtime=limits.runtimes[0],
    )


def check_draft(
    draft: FunctionDraft,
    limits: Limits,
    wrong: Violations,
    *,
    prefix: str = "function",
    usual: FunctionSpec | None = None,
) -> None:
    """Check what a user writes of a function; `usual` as for `check_spec`."""
    check_description(draft.description, f"{prefix}.description", wrong)
    check_labels(draft.labels, f"{prefix}.labels", wrong)
    check_spec(draft.spec, limits, wrong, f"{prefix}.spec", usual)


def check_description(description: str, field: str, wrong: Violations) -> None:
    """Check what something is said to be for."""
    if len(description) > MAX_DESCRIPTION_LENGTH:
        wrong.add(field, f"must have at most {MAX_DESCRIPTION_LENGTH} characters")
    if _CONTROL_IN_TEXT.search(description):
        wrong.add(field, "must not contain control characters")


def check_spec(
    spec: FunctionSpec,
    limits: Limits,
    wrong: Violations,
    prefix: str,
    usual: FunctionSpec | None = None,
) -> None:
    """Check a specification, as when it is written; also right before it is deployed.

    `usual`: what is valid within these limits; parts that are the very same need no check.
    """
    _check_image(spec.image, limits, f"{prefix}.image", wrong)
    _check_items(spec.command, MAX_COMMAND_ITEM_BYTES, f"{prefix}.command", wrong)
    if spec.command and not spec.command[0]:
        wrong.add(f"{prefix}.command[0]", "must not be empty")
    _check_items(spec.args, MAX_ARG_BYTES, f"{prefix}.args", wrong)
    _check_env(spec.env, f"{prefix}.env", wrong)
    _check_secrets(spec.secrets, f"{prefix}.secrets", wrong)
    _check_working_dir(spec.working_dir, f"{prefix}.working_dir", wrong)
    warm_rules.check(spec, limits, prefix, wrong)
    check_runtime(spec.runtime, limits, f"{prefix}.runtime", wrong)
    for name, check in _PARTS:
        part = getattr(spec, name)
        if usual is None or part is not getattr(usual, name):
            check(part, limits, f"{prefix}.{name}", wrong)


def check_labels(labels: Mapping[str, str], field: str, wrong: Violations) -> None:
    """Check the labels of a function or an execution."""
    if len(labels) > MAX_LABELS:
        wrong.add(field, f"must have at most {MAX_LABELS} entries, has {len(labels)}")
        return
    for key, value in labels.items():
        path = _entry(field, key)
        if not LABEL_KEY.fullmatch(key):
            wrong.add(
                path,
                "key must have 1 to 63 characters of a-z 0-9 . _ - /, starting and ending with a"
                " letter or digit",
            )
        if len(value) > MAX_LABEL_VALUE_LENGTH:
            wrong.add(path, f"must have at most {MAX_LABEL_VALUE_LENGTH} characters")
        if _CONTROL.search(value):
            wrong.add(path, "must not contain control characters")


def check_image(reference: str, limits: Limits) -> ImageReference:
    """Return the image that a reference stands for, if the operator trusts it.

    InvalidArgumentError (field `image`): malformed. FailedPreconditionError (reason
    IMAGE_REFUSED): the trust policy, which may be stricter than when the function was written.
    """
    try:
        image = images.parse_image(reference)
    except ValueError as error:
        raise InvalidArgumentError(FieldViolation("image", str(error))) from error
    reason = _refusal(image, limits)
    if reason:
        raise FailedPreconditionError(
            f"image {reason}", reason="IMAGE_REFUSED", metadata={"image": str(image)}
        )
    return image


def check_reference(reference: str, field: str, wrong: Violations) -> ImageReference | None:
    """Check the grammar of an image reference; None if it is wrong."""
    if not reference:
        wrong.add(field, "is required")
        return None
    try:
        return images.parse_image(reference)
    except ValueError as error:
        wrong.add(field, str(error))
        return None


def check_runtime(name: str, limits: Limits, field: str, wrong: Violations) -> None:
    """Check the name of a runtime; '' stands for the default one."""
    if name and name not in limits.runtimes:
        wrong.add(field, f"must be one of {', '.join(limits.runtimes)}; see ListRuntimes")


def check_execution(
    request: ExecutionRequest, limits: Limits, wrong: Violations, prefix: str = ""
) -> None:
    """Check what a caller asks of an execution, without knowing the function.

    `prefix`: path of the message that holds `options`.
    """
    if len(request.input) > limits.max_input_bytes:
        wrong.add(
            "input",
            f"must have at most {limits.max_input_bytes} bytes, has {len(request.input)};"
            " send more with AttachExecution, chunk by chunk",
        )
    if request.timeout is not None and request.timeout < _MILLISECOND:
        wrong.add(f"{prefix}options.timeout", "must be at least 1 ms")
    if request.labels:
        check_labels(request.labels, f"{prefix}options.labels", wrong)
    if request.envelope is not NO_ENVELOPE:
        warm_rules.check_envelope(request.envelope, f"{prefix}options", wrong)
    if request.traceparent and not TRACEPARENT.fullmatch(request.traceparent):
        wrong.add(
            f"{prefix}options.traceparent",
            "must be a W3C traceparent, 00-{trace id}-{parent id}-{flags} in lower-case digits",
        )


def check_contract_input(request: ExecutionRequest, contract: Contract, wrong: Violations) -> None:
    """Check an input against the contract of the function that shall take it."""
    if not contract.kind.warm:
        warm_rules.refuse_envelope(request.envelope, wrong)
    if contract.kind.warm or contract.input is not InputMode.ENV:
        return
    input_ = request.input
    if len(input_) > MAX_ENV_INPUT_BYTES:
        wrong.add(
            "input",
            f"must have at most {MAX_ENV_INPUT_BYTES} bytes, has {len(input_)}: the function takes"
            " it in SKYBRIDGE_INPUT; set spec.contract.input to STDIN for more",
        )
    if b"\0" in input_ or not _is_text(input_):
        wrong.add(
            "input",
            "must be UTF-8 text without NUL: the function takes it in SKYBRIDGE_INPUT;"
            " set spec.contract.input to STDIN for other bytes",
        )


def _check_image(reference: str, limits: Limits, field: str, wrong: Violations) -> None:
    image = check_reference(reference, field, wrong)
    reason = image and _refusal(image, limits)
    if reason:
        wrong.add(field, reason)


def _refusal(image: ImageReference, limits: Limits) -> str | None:
    return images.refusal(
        image, allowed_images=limits.allowed_images, require_digest=limits.require_digest
    )


def _check_items(items: tuple[str, ...], max_bytes: int, field: str, wrong: Violations) -> None:
    if len(items) > MAX_COMMAND_ITEMS:
        wrong.add(field, f"must have at most {MAX_COMMAND_ITEMS} items, has {len(items)}")
        return
    for index, item in enumerate(items):
        if "\0" in item:
            wrong.add(f"{field}[{index}]", "must not contain NUL")
        if len(item.encode()) > max_bytes:
            wrong.add(f"{field}[{index}]", f"must have at most {max_bytes} bytes")


def _check_env(env: Mapping[str, str], field: str, wrong: Violations) -> None:
    if len(env) > MAX_ENV_ENTRIES:
        wrong.add(field, f"must have at most {MAX_ENV_ENTRIES} entries, has {len(env)}")
        return
    size = sum(len(name.encode()) + len(value.encode()) for name, value in env.items())
    if size > MAX_ENV_BYTES:
        wrong.add(field, f"must have at most {MAX_ENV_BYTES} bytes in all, has {size}")
    for name, value in env.items():
        if not ENV_NAME.fullmatch(name):
            wrong.add(_entry(field, name), "name must match [A-Za-z_][A-Za-z0-9_]*")
        elif name.startswith("SKYBRIDGE_"):
            wrong.add(_entry(field, name), "names that start with SKYBRIDGE_ are reserved")
        if "\0" in value:
            wrong.add(_entry(field, name), "must not contain NUL")


def _check_secrets(secrets: Mapping[str, str], field: str, wrong: Violations) -> None:
    if len(secrets) > MAX_SECRETS:
        wrong.add(field, f"must have at most {MAX_SECRETS} entries, has {len(secrets)}")
        return
    for file, id_ in secrets.items():
        if not SECRET_FILE.fullmatch(file):
            wrong.add(
                _entry(field, file),
                "name of the file must have 1 to 64 characters of A-Z a-z 0-9 _ . - and not start"
                " with .",
            )
        if not ID_PATTERN.fullmatch(id_):
            wrong.add(_entry(field, file), "must be the id of a secret of the same namespace")


def _check_working_dir(path: str, field: str, wrong: Violations) -> None:
    if path and not path.startswith("/"):
        wrong.add(field, "must be an absolute path")
    if _CONTROL.search(path):
        wrong.add(field, "must not contain control characters")
    if len(path.encode()) > MAX_WORKING_DIR_BYTES:
        wrong.add(field, f"must have at most {MAX_WORKING_DIR_BYTES} bytes")


def _check_resources(resources: Resources, limits: Limits, prefix: str, wrong: Violations) -> None:
    for name, value, low, high in (
        ("memory_bytes", resources.memory_bytes, 6 * MIB, limits.max_memory_bytes),
        ("cpu_millis", resources.cpu_millis, 10, limits.max_cpu_millis),
        ("pids", resources.pids, 2, limits.max_pids),
        ("tmp_bytes", resources.tmp_bytes, 64 * KIB, limits.max_tmp_bytes),
        ("output_bytes", resources.output_bytes, KIB, limits.max_output_bytes),
    ):
        if not low <= value <= high:
            wrong.add(
                f"{prefix}.{name}", f"must be between {low} and {high}, is {value}; {_OPERATOR}"
            )


def _check_timeouts(timeouts: Timeouts, limits: Limits, prefix: str, wrong: Violations) -> None:
    longest = min(_DAY, limits.max_execution_timeout)
    zero = timedelta(0)
    for name, value, low, high in (
        ("queue", timeouts.queue, _MILLISECOND, _DAY),
        ("start", timeouts.start, 100 * _MILLISECOND, _HOUR),
        ("execution", timeouts.execution, _MILLISECOND, longest),
        ("shutdown_grace", timeouts.shutdown_grace, zero, timedelta(minutes=10)),
    ):
        check_between(value, low, high, f"{prefix}.{name}", wrong)


def _check_scaling(scaling: Scaling, _: Limits, prefix: str, wrong: Violations) -> None:
    for name, value, high in (
        ("max_concurrency", scaling.max_concurrency, 1000),
        ("max_queue_depth", scaling.max_queue_depth, 1_000_000),
    ):
        if not 0 <= value <= high:
            wrong.add(f"{prefix}.{name}", f"must be between 0 and {high}, is {value}")


def _check_retention(retention: Retention, _: Limits, prefix: str, wrong: Violations) -> None:
    age = f"{prefix}.execution_age"
    check_between(retention.execution_age, timedelta(0), 3650 * _DAY, age, wrong)
    for name, value, high in (
        ("executions", retention.executions, 10**9),
        ("revisions", retention.revisions, 10**6),
    ):
        if not 0 <= value <= high:
            wrong.add(f"{prefix}.{name}", f"must be between 0 and {high}, is {value}")


def _check_destinations(
    destinations: Destinations, limits: Limits, prefix: str, wrong: Violations
) -> None:
    for name in ("on_success", "on_failure"):
        _check_destination(getattr(destinations, name), limits, f"{prefix}.{name}", wrong)


def _check_destination(
    destination: Destination, limits: Limits, prefix: str, wrong: Violations
) -> None:
    function, url, secret = destination.function, destination.url, destination.secret
    if function and not _is_function(function):
        wrong.add(
            f"{prefix}.function",
            "must be namespaces/{namespace}/functions/{function} or the id of a function",
        )
    if function and url:
        wrong.add(f"{prefix}.url", "must be empty beside function: there is one destination")
    elif url and len(url) > MAX_URL_LENGTH:
        wrong.add(f"{prefix}.url", f"must have at most {MAX_URL_LENGTH} characters")
    elif url and (why := webhooks.refusal(url, limits.webhook_hosts)):
        wrong.add(f"{prefix}.url", why)
    if bool(url) != bool(secret):
        wrong.add(f"{prefix}.secret", "is required with url, and only there")
    elif secret:
        try:
            webhooks.key_of(secret)
        except ValueError as error:
            wrong.add(f"{prefix}.secret", str(error))


def _is_function(name: str) -> bool:
    match name.split("/"):
        case [id_]:
            return bool(ID_PATTERN.fullmatch(id_))
        case ["namespaces", namespace, "functions", id_]:
            return bool(ID_PATTERN.fullmatch(namespace) and ID_PATTERN.fullmatch(id_))
    return False


def _check_retry_policy(policy: RetryPolicy, _: Limits, prefix: str, wrong: Violations) -> None:
    """Check how often something is tried, and after which failures."""
    if not 1 <= policy.max_attempts <= MAX_ATTEMPTS:
        wrong.add(
            f"{prefix}.max_attempts",
            f"must be between 1 and {MAX_ATTEMPTS}, is {policy.max_attempts}",
        )
    zero, low = timedelta(0), min(max(policy.initial_backoff, timedelta(0)), _DAY)
    check_between(policy.initial_backoff, zero, _DAY, f"{prefix}.initial_backoff", wrong)
    check_between(policy.max_backoff, low, _DAY, f"{prefix}.max_backoff", wrong)
    check_between(policy.max_age, _SECOND, 30 * _DAY, f"{prefix}.max_age", wrong)
    for name, value, lowest, highest in (
        ("backoff_coefficient", policy.backoff_coefficient, 1, 10),
        ("jitter", policy.jitter, 0, 1),
    ):
        if not lowest <= value <= highest:
            wrong.add(f"{prefix}.{name}", f"must be between {lowest} and {highest}, is {value}")
    _check_retried(policy, prefix, wrong)


def _check_retried(policy: RetryPolicy, prefix: str, wrong: Violations) -> None:
    for index, reason in enumerate(policy.retry_on):
        if reason in WANTED:
            wrong.add(
                f"{prefix}.retry_on[{index}]",
                f"{reason.name} is never tried again: somebody asked for it",
            )
        elif reason in policy.retry_on[:index]:
            wrong.add(f"{prefix}.retry_on[{index}]", f"has {reason.name} more than once")
    if len(policy.exit_codes) > MAX_EXIT_CODES:
        wrong.add(f"{prefix}.exit_codes", f"must have at most {MAX_EXIT_CODES} codes")
    elif any(not 1 <= code <= 255 for code in policy.exit_codes):
        wrong.add(f"{prefix}.exit_codes", "must be codes between 1 and 255")
    if policy.exit_codes and FailureReason.EXIT_CODE not in policy.retry_on:
        wrong.add(f"{prefix}.exit_codes", "is only for a retry_on with EXIT_CODE")


def _check_isolation(isolation: Isolation, limits: Limits, prefix: str, wrong: Violations) -> None:
    user = USER.fullmatch(isolation.user)
    ids = [int(number) for number in user.groups() if number] if user else []
    if not ids or max(ids) > MAX_UID:
        wrong.add(f"{prefix}.user", f"must be uid or uid:gid, numbers of at most {MAX_UID}")
    elif ids[0] == 0 and not limits.allow_root:
        wrong.add(f"{prefix}.user", "must not be root: the operator has not set FAAS_ALLOW_ROOT")
    if isolation.writable_root and not limits.allow_writable_root:
        wrong.add(
            f"{prefix}.writable_root",
            "must be false, only /tmp can be written to: the operator has not set"
            " FAAS_ALLOW_WRITABLE_ROOT",
        )
    allowed = limits.allowed_oci_runtimes
    if isolation.oci_runtime and isolation.oci_runtime not in allowed:
        wrong.add(
            f"{prefix}.oci_runtime",
            "must be empty or one of FAAS_ALLOWED_OCI_RUNTIMES, which has"
            f" {', '.join(allowed) or 'none'}",
        )


def _entry(field: str, key: str) -> str:
    """Return the path of a map's entry, safe to show whatever the key holds."""
    shown = key if len(key) <= 63 else f"{key[:60]}..."
    return f"{field}[{shown!r}]" if _CONTROL.search(shown) else f"{field}[{shown}]"


def _is_text(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


_PARTS: tuple[tuple[str, Callable[[Any, Limits, str, Violations], None]], ...] = (
    ("resources", _check_resources),
    ("timeouts", _check_timeouts),
    ("scaling", _check_scaling),
    ("isolation", _check_isolation),
    ("retention", _check_retention),
    ("retry_policy", _check_retry_policy),
    ("destinations", _check_destinations),
)
"""The parts of a specification that are checked apart, each by its field."""
