from __future__ import annotations

from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration

from skybridge_client.messages import Function, Network, PullPolicy
from skybridge_client.specs import PATHS, FunctionFields, build_function, build_mask, enum_value
from tests.client.test_client import at

# keyword, value, what stands in the message
FIELDS: list[tuple[str, Any, Any]] = [
    ("description", "d", "d"),
    ("labels", {"a": "b"}, {"a": "b"}),
    ("image", "busybox", "busybox"),
    ("command", ["sh"], ["sh"]),
    ("args", ("-c", "true"), ["-c", "true"]),
    ("env", {"A": "1"}, {"A": "1"}),
    ("secrets", {"db.key": "db"}, {"db.key": "db"}),
    ("working_dir", "/tmp", "/tmp"),
    ("contract", "http", 2),
    ("input_mode", "env", 2),
    ("port", 8000, 8000),
    ("path", "/work", "/work"),
    ("health_path", "/health", "/health"),
    ("memory_bytes", 1, 1),
    ("cpu_millis", 2, 2),
    ("pids", 3, 3),
    ("tmp_bytes", 4, 4),
    ("output_bytes", 5, 5),
    ("queue_timeout", 0.001, Duration(nanos=1_000_000)),
    ("start_timeout", 1, Duration(seconds=1)),
    ("execution_timeout", 90.5, Duration(seconds=90, nanos=500_000_000)),
    ("shutdown_grace", 0, Duration()),
    ("idle_timeout", 60, Duration(seconds=60)),
    ("max_concurrency", 6, 6),
    ("max_queue_depth", 0, 0),
    ("min_instances", 9, 9),
    ("max_instances", 10, 10),
    ("instance_concurrency", 11, 11),
    ("max_executions_per_instance", 12, 12),
    ("reuse", "never", 2),
    ("pause_after", 0.25, Duration(nanos=250_000_000)),
    ("durability", "deferred", 2),
    ("network", "egress", Network.NETWORK_EGRESS),
    ("user", "1000", "1000"),
    ("writable_root", True, True),
    ("oci_runtime", "runsc", "runsc"),
    ("pull_policy", "never", PullPolicy.PULL_POLICY_NEVER),
    ("runtime", "docker", "docker"),
    ("execution_age", 3600, Duration(seconds=3600)),
    ("max_executions", 7, 7),
    ("max_revisions", 8, 8),
    ("max_attempts", 5, 5),
    ("initial_backoff", 0.5, Duration(nanos=500_000_000)),
    ("max_backoff", 90.0, Duration(seconds=90)),
    ("backoff_coefficient", 1.5, 1.5),
    ("backoff_jitter", 0.25, 0.25),
    ("retry_max_age", 3600.0, Duration(seconds=3600)),
    ("retry_on", ["exit_code", "lost"], [1, 16]),
    ("retry_exit_codes", [75, 111], [75, 111]),
    ("dead_letters", True, True),
    ("on_success_function", "next", "next"),
    ("on_success_url", "https://a.test/", "https://a.test/"),
    ("on_success_secret", "whsec_a", "whsec_a"),
    ("on_failure_function", "next", "next"),
    ("on_failure_url", "https://b.test/", "https://b.test/"),
    ("on_failure_secret", "whsec_b", "whsec_b"),
]


def test_the_table_of_paths_has_every_keyword() -> None:
    assert set(PATHS) == set(FunctionFields.__annotations__) == {row[0] for row in FIELDS}


@pytest.mark.parametrize(("keyword", "value", "stands"), FIELDS, ids=[row[0] for row in FIELDS])
def test_each_keyword_sets_its_field(keyword: str, value: Any, stands: Any) -> None:
    function = build_function(None, {keyword: value})
    assert at(function, PATHS[keyword]) == stands
    assert build_mask({keyword: value}).paths == [PATHS[keyword]]


def test_a_field_set_to_nothing_is_still_present() -> None:
    function = build_function(None, {"shutdown_grace": 0, "max_queue_depth": 0})
    assert function.spec.timeouts.HasField("shutdown_grace")
    assert function.spec.scaling.HasField("max_queue_depth")


def test_keywords_are_set_over_a_copy() -> None:
    base = build_function(None, {"image": "a", "env": {"A": "1"}, "args": ["x"]})
    changed = build_function(base, {"env": {"B": "2"}, "args": ["y", "z"]})
    assert (dict(changed.spec.env), list(changed.spec.args)) == ({"B": "2"}, ["y", "z"])
    assert (changed.spec.image, dict(base.spec.env)) == ("a", {"A": "1"})


def test_unknown_words_are_all_named() -> None:
    with pytest.raises(TypeError, match="unknown fields of a function: imgs, nets"):
        build_function(Function(), {"nets": 1, "imgs": "a", "user": "1"})
    with pytest.raises(ValueError, match="'host' is none of none, egress"):
        build_function(None, {"network": "host"})


def test_unset_is_no_word_of_an_enum() -> None:
    with pytest.raises(ValueError, match="is none of"):
        enum_value(Network.DESCRIPTOR, "unspecified")
