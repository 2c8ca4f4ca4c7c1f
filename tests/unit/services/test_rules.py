"""Rules over what callers write: each limit from both sides, and all findings at once."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from skybridge_server.errors import FailedPreconditionError, InvalidArgumentError
from skybridge_server.models.executions import FailureReason
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
from skybridge_server.models.names import FunctionName
from skybridge_server.models.retries import RetryPolicy
from skybridge_server.services import rules
from skybridge_server.services.limits import Limits
from skybridge_server.services.requests import ExecutionRequest, FunctionDraft
from skybridge_server.services.violations import Violations
from tests.limits import LIMITS

SPEC = FunctionSpec(image="busybox:1", runtime="docker")
MS = timedelta(milliseconds=1)
HOUR = timedelta(hours=1)


def wrong_fields(draft: FunctionDraft, limits: Limits = LIMITS) -> list[str]:
    wrong = Violations()
    rules.check_draft(draft, limits, wrong)
    return [violation.field.removeprefix("function.") for violation in wrong]


def wrong_in_spec(limits: Limits = LIMITS, **changes: Any) -> list[str]:
    return wrong_fields(FunctionDraft(replace(SPEC, **changes)), limits)


def test_defaults_are_right() -> None:
    assert wrong_fields(FunctionDraft(SPEC)) == []


def test_defaults_are_within_what_the_operator_allows() -> None:
    tight = replace(
        LIMITS,
        max_memory_bytes=6 * MIB,
        max_cpu_millis=10,
        max_pids=2,
        max_tmp_bytes=64 * KIB,
        max_output_bytes=KIB,
        max_execution_timeout=MS,
        runtimes=("other",),
    )
    for limits in (tight, LIMITS):
        spec = replace(rules.default_spec(limits), image="busybox")
        assert wrong_fields(FunctionDraft(spec), limits) == []
    assert rules.default_spec(LIMITS) == replace(SPEC, image="")


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("memory_bytes", 6 * MIB, LIMITS.max_memory_bytes),
        ("cpu_millis", 10, LIMITS.max_cpu_millis),
        ("pids", 2, LIMITS.max_pids),
        ("tmp_bytes", 64 * KIB, LIMITS.max_tmp_bytes),
        ("output_bytes", KIB, LIMITS.max_output_bytes),
    ],
)
def test_resources(name: str, low: int, high: int) -> None:
    for right in (low, high):
        assert wrong_in_spec(resources=replace(Resources(), **{name: right})) == []
    for bad in (low - 1, high + 1, -1):
        found = wrong_in_spec(resources=replace(Resources(), **{name: bad}))
        assert found == [f"spec.resources.{name}"]


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [
        ("queue", MS, 24 * HOUR),
        ("start", 100 * MS, HOUR),
        ("execution", MS, LIMITS.max_execution_timeout),
        ("shutdown_grace", timedelta(0), timedelta(minutes=10)),
    ],
)
def test_timeouts(name: str, low: timedelta, high: timedelta) -> None:
    for right in (low, high):
        assert wrong_in_spec(timeouts=replace(Timeouts(), **{name: right})) == []
    for bad in (low - MS / 2, high + MS, -HOUR):
        found = wrong_in_spec(timeouts=replace(Timeouts(), **{name: bad}))
        assert found == [f"spec.timeouts.{name}"]


def test_no_operator_may_allow_more_than_a_day() -> None:
    limits = replace(LIMITS, max_execution_timeout=48 * HOUR)
    assert wrong_in_spec(limits, timeouts=Timeouts(execution=24 * HOUR)) == []
    assert wrong_in_spec(limits, timeouts=Timeouts(execution=25 * HOUR)) == [
        "spec.timeouts.execution"
    ]


@pytest.mark.parametrize(("name", "high"), [("max_concurrency", 1000), ("max_queue_depth", 10**6)])
def test_scaling(name: str, high: int) -> None:
    def scaling(value: int) -> Scaling:
        changes: dict[str, Any] = {name: value}
        return replace(Scaling(), **changes)

    for right in (0, high):
        assert wrong_in_spec(scaling=scaling(right)) == []
    for bad in (-1, high + 1):
        found = wrong_in_spec(scaling=scaling(bad))
        assert found == [f"spec.scaling.{name}"]


@pytest.mark.parametrize(
    ("name", "high", "over"),
    [
        ("execution_age", timedelta(days=3650), timedelta(days=3651)),
        ("executions", 10**9, 10**9 + 1),
        ("revisions", 10**6, 10**6 + 1),
    ],
)
def test_retention(name: str, high: Any, over: Any) -> None:
    for right in (0 * high, high):
        assert wrong_in_spec(retention=replace(Retention(), **{name: right})) == []
    for bad in (-high, over):
        found = wrong_in_spec(retention=replace(Retention(), **{name: bad}))
        assert found == [f"spec.retention.{name}"]


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("max_attempts", (1, 100), (0, -1, 101)),
        ("initial_backoff", (timedelta(0), timedelta(minutes=5)), (-MS, 25 * HOUR)),
        ("max_backoff", (timedelta(seconds=1), 24 * HOUR), (timedelta(0), 25 * HOUR)),
        ("max_age", (timedelta(seconds=1), timedelta(days=30)), (MS, timedelta(days=31))),
        ("backoff_coefficient", (1.0, 10.0), (0.5, 11.0, math.nan, math.inf)),
        ("jitter", (0.0, 1.0), (-0.1, 1.1, math.nan)),
        ("exit_codes", ((), (1, 255)), ((0,), (256,), (-1,), (1,) * 65)),
    ],
)
def test_retry_policies(name: str, right: tuple[Any, ...], wrong: tuple[Any, ...]) -> None:
    for value in right:
        assert wrong_in_spec(retry_policy=replace(RetryPolicy(), **{name: value})) == []
    for value in wrong:
        found = wrong_in_spec(retry_policy=replace(RetryPolicy(), **{name: value}))
        assert f"spec.retry_policy.{name}" in found


def test_what_is_tried_again() -> None:
    policy = RetryPolicy(
        retry_on=(FailureReason.LOST, FailureReason.CANCELLED, FailureReason.LOST),
        exit_codes=(75,),
    )
    assert wrong_in_spec(retry_policy=policy) == [
        "spec.retry_policy.retry_on[1]",
        "spec.retry_policy.retry_on[2]",
        "spec.retry_policy.exit_codes",
    ]


@pytest.mark.parametrize("user", ["1000", "1000:0", "65532:65532", "2147483647"])
def test_users(user: str) -> None:
    assert wrong_in_spec(isolation=Isolation(user=user)) == []


@pytest.mark.parametrize(
    "user",
    ["", "nobody", "-1", "1:", ":1", "1:2:3", "2147483648", "1:2147483648", "1 ", "٣", "0", "00:5"],
)
def test_wrong_users(user: str) -> None:
    assert wrong_in_spec(isolation=Isolation(user=user)) == ["spec.isolation.user"]


def test_what_the_operator_can_open() -> None:
    isolation = Isolation(user="0:0", writable_root=True, oci_runtime="runsc")
    assert wrong_in_spec(isolation=isolation) == [
        "spec.isolation.user",
        "spec.isolation.writable_root",
        "spec.isolation.oci_runtime",
    ]
    opened = replace(
        LIMITS, allow_root=True, allow_writable_root=True, allowed_oci_runtimes=("runsc",)
    )
    assert wrong_in_spec(opened, isolation=isolation) == []


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"image": ""}, "spec.image"),
        ({"image": "No Image"}, "spec.image"),
        ({"command": ("",)}, "spec.command[0]"),
        ({"command": ("a\0",)}, "spec.command[0]"),
        ({"command": ("sh", "x" * (4 * KIB + 1))}, "spec.command[1]"),
        ({"command": ("x",) * 129}, "spec.command"),
        ({"args": ("", "\0")}, "spec.args[1]"),
        ({"args": ("é" * (16 * KIB) + "x",)}, "spec.args[0]"),
        ({"args": ("x",) * 129}, "spec.args"),
        ({"env": {"": "x"}}, "spec.env[]"),
        ({"env": {"1A": "x"}}, "spec.env[1A]"),
        ({"env": {"A=B": "x"}}, "spec.env[A=B]"),
        ({"env": {"A\n": "x"}}, "spec.env['A\\n']"),
        ({"env": {"SKYBRIDGE_INPUT": "x"}}, "spec.env[SKYBRIDGE_INPUT]"),
        ({"env": {"A": "\0"}}, "spec.env[A]"),
        ({"env": {"A": "x" * MIB}}, "spec.env"),
        ({"env": {f"A{n}": "" for n in range(257)}}, "spec.env"),
        ({"secrets": {"": "db"}}, "spec.secrets[]"),
        ({"secrets": {".db": "db"}}, "spec.secrets[.db]"),
        ({"secrets": {"a/b": "db"}}, "spec.secrets[a/b]"),
        ({"secrets": {"a" * 65: "db"}}, f"spec.secrets[{'a' * 60}...]"),
        ({"secrets": {"db": ""}}, "spec.secrets[db]"),
        ({"secrets": {"db": "namespaces/red/secrets/db"}}, "spec.secrets[db]"),
        ({"secrets": {f"a{n}": "db" for n in range(17)}}, "spec.secrets"),
        ({"working_dir": "tmp"}, "spec.working_dir"),
        ({"working_dir": "/a\nb"}, "spec.working_dir"),
        ({"working_dir": "/" + "x" * 4095}, "spec.working_dir"),
        ({"runtime": "unknown"}, "spec.runtime"),
    ],
)
def test_wrong_in_a_spec(changes: dict[str, Any], field: str) -> None:
    assert wrong_in_spec(**changes) == [field]


def test_as_much_as_a_spec_may_hold() -> None:
    env = {f"A{n}": "" for n in range(255)}
    env["Z"] = "x" * (128 * KIB - sum(map(len, env)) - 1)
    changes: dict[str, Any] = {
        "image": f"{'a' * 200}@sha256:{'0' * 64}",
        "command": ("x" * 4 * KIB,) * 128,
        "args": ("line\nline", "", *("x" * 32 * KIB,) * 126),
        "env": env,
        "secrets": {f"{'A_b-.' * 12}{n:02}": "db" for n in range(16)},
        "working_dir": "/" + "x" * 4094,
        "runtime": "other",
    }
    assert wrong_in_spec(**changes) == []


@pytest.mark.parametrize(
    ("labels", "fields"),
    [
        ({"a": ""}, []),
        ({"a.b_c-d/e0": "x" * 255}, []),
        ({"x" * 63: "é"}, []),
        ({str(n): "x" for n in range(64)}, []),
        ({str(n): "x" for n in range(65)}, ["labels"]),
        ({"": "x"}, ["labels[]"]),
        ({"-a": "x", "a-": "x", "A": "x"}, ["labels[-a]", "labels[a-]", "labels[A]"]),
        ({"x" * 64: "x"}, [f"labels[{'x' * 60}...]"]),
        ({"a": "x" * 256}, ["labels[a]"]),
        ({"a": "\x07"}, ["labels[a]"]),
    ],
)
def test_labels(labels: dict[str, str], fields: list[str]) -> None:
    assert wrong_fields(FunctionDraft(SPEC, labels=labels)) == fields


def test_descriptions() -> None:
    assert wrong_fields(FunctionDraft(SPEC, description="two\nlines\t" + "é" * 1014)) == []
    for bad in ("x" * 1025, "nul\0", "bell\x07"):
        assert wrong_fields(FunctionDraft(SPEC, description=bad)) == ["description"]


def test_everything_wrong_is_named_at_once() -> None:
    with pytest.raises(InvalidArgumentError) as caught, Violations() as wrong:
        rules.check_draft(
            FunctionDraft(
                FunctionSpec(image="", resources=Resources(pids=-5), runtime="docker"),
                labels={"A": "x"},
            ),
            LIMITS,
            wrong,
        )
    assert [violation.field for violation in caught.value.violations] == [
        "function.labels[A]",
        "function.spec.image",
        "function.spec.resources.pids",
    ]


def test_a_collector_does_not_hide_another_error() -> None:
    def read(wrong: Violations) -> None:
        wrong.add("name", "is required")
        raise KeyError

    with pytest.raises(KeyError), Violations() as wrong:
        read(wrong)


def test_trust_policy_when_a_function_is_written_and_when_it_is_deployed() -> None:
    limits = replace(LIMITS, allowed_images=("ghcr.io/acme/*",))
    assert wrong_in_spec(limits, image="busybox") == ["spec.image"]
    assert wrong_in_spec(limits, image="ghcr.io/acme/a") == []
    assert str(rules.check_image("ghcr.io/acme/a", limits)) == "ghcr.io/acme/a:latest"
    with pytest.raises(FailedPreconditionError, match="FAAS_ALLOWED_IMAGES") as refused:
        rules.check_image("busybox", limits)
    assert refused.value.reason == "IMAGE_REFUSED"
    with pytest.raises(InvalidArgumentError):
        rules.check_image("No Image", limits)


TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"timeout": MS, "traceparent": TRACEPARENT, "labels": {"a": "b"}}, []),
        ({"input": b"\0" * 3 * MIB}, []),
        ({"input": b"\0" * (3 * MIB + 1)}, ["input"]),
        ({"timeout": MS / 2}, ["options.timeout"]),
        ({"timeout": timedelta(0)}, ["options.timeout"]),
        ({"timeout": -HOUR}, ["options.timeout"]),
        ({"labels": {"A": "b"}}, ["options.labels[A]"]),
        ({"traceparent": TRACEPARENT.upper()}, ["options.traceparent"]),
        ({"traceparent": TRACEPARENT + "\n"}, ["options.traceparent"]),
        ({"traceparent": "ff" + TRACEPARENT[2:]}, ["options.traceparent"]),
        ({"traceparent": f"00-{'0' * 32}-b7ad6b7169203331-01"}, ["options.traceparent"]),
        (
            {"traceparent": f"00-0af7651916cd43dd8448eb211c80319c-{'0' * 16}-01"},
            ["options.traceparent"],
        ),
    ],
)
def test_executions(changes: dict[str, Any], fields: list[str]) -> None:
    wrong = Violations()
    request = ExecutionRequest(FunctionName("default", "hello"), **changes)
    rules.check_execution(request, LIMITS, wrong)
    assert [violation.field for violation in wrong] == fields


@pytest.mark.parametrize(
    ("input_", "mode", "right"),
    [
        (b"\0\xff" * 96 * KIB, InputMode.STDIN, True),
        ("é".encode() * 48 * KIB, InputMode.ENV, True),
        (b"x" * (96 * KIB + 1), InputMode.ENV, False),
        (b"a\0b", InputMode.ENV, False),
        (b"\xff", InputMode.ENV, False),
    ],
)
def test_input_that_a_contract_can_take(input_: bytes, mode: InputMode, right: bool) -> None:
    wrong = Violations()
    request = ExecutionRequest(FunctionName("default", "f"), input_)
    rules.check_contract_input(request, Contract(input=mode), wrong)
    assert [violation.field for violation in wrong] == ([] if right else ["input"])
