from __future__ import annotations

import json
from dataclasses import fields
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.errors import StorageError
from skybridge_server.models.functions import Function, FunctionSpec, Isolation, Network
from skybridge_server.models.names import FunctionName
from skybridge_server.repositories import codec

texts = st.text(max_size=20)
durations = st.timedeltas(timedelta(), timedelta(days=365))
times = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001
st.register_type_strategy(timedelta, durations)
st.register_type_strategy(datetime, times)
st.register_type_strategy(str, texts)
st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@given(st.from_type(Function))
def test_a_function_survives(function: Function) -> None:
    assert codec.loads(Function, codec.dumps(function)) == function


@given(st.from_type(FunctionSpec))
def test_every_field_is_written(spec: FunctionSpec) -> None:
    written = json.loads(codec.dumps(spec))
    assert written.keys() == {field.name for field in fields(FunctionSpec)}


@given(times, durations)
def test_times_are_exact(time: datetime, duration: timedelta) -> None:
    assert codec.to_time(codec.from_time(time)) == time
    assert codec.to_duration(codec.from_duration(duration)) == duration


@given(st.dictionaries(texts, texts))
def test_labels_survive(labels: dict[str, str]) -> None:
    assert codec.loads_labels(codec.dumps_labels(labels)) == labels


def test_what_an_older_version_wrote_takes_the_defaults() -> None:
    assert codec.loads(FunctionSpec, '{"image": "a:1"}') == FunctionSpec("a:1")
    partly = '{"image": "a:1", "isolation": {"user": "7"}, "network": 2}'
    assert codec.loads(FunctionSpec, partly) == FunctionSpec(
        "a:1", isolation=Isolation(user="7"), network=Network.EGRESS
    )


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ('{"image": "a:1", "colour": "red"}', "unknown fields of FunctionSpec: colour"),
        ('{"image": "a:1", "resources": {"gpus": 1}}', "unknown fields of Resources: gpus"),
        ('{"image": "a:1", "network": 99}', "99 is not a valid Network"),
        ('{"image": 5}', "expected str, found 5"),
        ('{"image": "a:1", "args": "x"}', "expected list, found 'x'"),
        ('{"image": "a:1", "env": {"A": 1}}', "expected str, found 1"),
        ('{"image": "a:1", "resources": {"pids": true}}', "expected int, found True"),
        ('{"image": "a:1", "timeouts": {"queue": 1.5}}', "expected int, found 1.5"),
        ("{}", "missing 1 required positional argument: 'image'"),
        ("[]", "expected dict"),
        ("{", "Expecting property name"),
    ],
)
def test_what_this_version_does_not_know_is_refused(text: str, named: str) -> None:
    with pytest.raises(StorageError, match="newer") as caught:
        codec.loads(FunctionSpec, text)
    assert named in caught.value.message


def test_the_text_is_stable() -> None:
    """What is on users' disks: a change here needs a migration."""
    function = Function(
        FunctionName("default", "hello"),
        "u",
        FunctionSpec("a:1", args=("x",), env={"A": "ü"}),
        NOW,
        NOW,
    )
    assert json.loads(codec.dumps(function)) == {
        "name": {"namespace": "default", "function": "hello"},
        "uid": "u",
        "spec": {
            "image": "a:1",
            "command": [],
            "args": ["x"],
            "env": {"A": "ü"},
            "working_dir": "",
            "contract": {
                "kind": 1,
                "input": 1,
                "port": 8080,
                "path": "/",
                "health_path": "",
            },
            "resources": {
                "memory_bytes": 134217728,
                "cpu_millis": 1000,
                "pids": 128,
                "tmp_bytes": 67108864,
                "output_bytes": 67108864,
            },
            "timeouts": {
                "queue": 300_000_000,
                "start": 60_000_000,
                "execution": 60_000_000,
                "shutdown_grace": 5_000_000,
                "idle": 300_000_000,
            },
            "scaling": {
                "max_concurrency": 0,
                "max_queue_depth": 1000,
                "min_instances": 0,
                "max_instances": 0,
                "instance_concurrency": 1,
                "max_executions_per_instance": 0,
                "reuse": 1,
                "pause_after": 0,
            },
            "network": 1,
            "isolation": {"user": "65532:65532", "writable_root": False, "oci_runtime": ""},
            "pull_policy": 2,
            "runtime": "",
            "retention": {"execution_age": 0, "executions": 0, "revisions": 0},
            "retry_policy": {
                "max_attempts": 1,
                "initial_backoff": 1_000_000,
                "max_backoff": 300_000_000,
                "backoff_coefficient": 2.0,
                "jitter": 0.5,
                "max_age": 21_600_000_000,
                "retry_on": [1, 2, 3, 4, 5, 6, 13, 14, 15, 16, 17, 18, 19, 20, 21],
                "exit_codes": [],
                "dead_letters": False,
            },
            "destinations": {
                "on_success": {"function": "", "url": "", "secret": ""},
                "on_failure": {"function": "", "url": "", "secret": ""},
            },
            "durability": 1,
            "secrets": {},
        },
        "create_time": 1767225600000000,
        "update_time": 1767225600000000,
        "description": "",
        "labels": {},
        "state": 1,
        "state_message": "",
        "generation": 1,
        "etag": "",
        "active_revision": 0,
    }
