"""Update masks: which paths there are, and what an update makes of a function."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from skybridge.faas.v1 import function_pb2 as pb
from skybridge_server.api import masks
from skybridge_server.api.convert.functions import draft_from_proto
from skybridge_server.models.functions import (
    MIB,
    FunctionSpec,
    Resources,
    Retention,
    Scaling,
    Timeouts,
)
from skybridge_server.models.retries import RetryPolicy
from skybridge_server.services.requests import FunctionDraft
from skybridge_server.services.violations import Violations

DEFAULTS = FunctionSpec(image="", runtime="docker")
SPEC = FunctionSpec(
    image="busybox:1",
    env={"A": "1", "B": "2"},
    resources=Resources(memory_bytes=32 * MIB, pids=7),
    timeouts=Timeouts(execution=timedelta(seconds=9)),
    scaling=Scaling(max_queue_depth=5),
    runtime="docker",
    retention=Retention(executions=3),
    retry_policy=RetryPolicy(max_attempts=5, initial_backoff=timedelta(seconds=9)),
)
OLD = FunctionDraft(SPEC, "old", {"a": "b"})


def function(**fields: Any) -> pb.Function:
    """Return a message; those below it are given as dictionaries."""
    return pb.Function(**fields)


def update(mask: list[str], message: pb.Function) -> FunctionDraft:
    with Violations() as wrong:
        paths = masks.FUNCTION.paths(mask, message, wrong)
        draft = draft_from_proto(message, DEFAULTS, wrong)
    return masks.FUNCTION.merge(OLD, draft, paths)


def test_a_path_changes_its_field_alone() -> None:
    message = function(description="new", labels={"c": "d"}, spec={"image": "busybox:2"})
    assert update(["description"], message) == replace(OLD, description="new")
    assert update(["labels"], message) == replace(OLD, labels={"c": "d"})
    image = replace(OLD, spec=replace(SPEC, image="busybox:2"))
    assert update(["spec.image"], message) == image
    assert update(["spec.image", "description"], message) == replace(image, description="new")


def test_a_map_and_a_message_are_replaced_whole() -> None:
    env = function(spec={"env": {"C": "3"}})
    assert update(["spec.env"], env).spec == replace(SPEC, env={"C": "3"})
    resources = function(spec={"resources": {"pids": 9}})
    assert update(["spec.resources"], resources).spec == replace(SPEC, resources=Resources(pids=9))


def test_a_path_below_a_message_changes_only_that() -> None:
    message = function(spec={"resources": {"pids": 9}})
    changed = replace(SPEC, resources=replace(SPEC.resources, pids=9))
    assert update(["spec.resources.pids"], message).spec == changed


def test_what_is_unset_goes_back_to_its_default() -> None:
    empty = function()
    assert update(["description", "labels"], empty) == FunctionDraft(SPEC)
    assert update(["spec.env"], empty).spec == replace(SPEC, env={})
    assert update(["spec.resources.memory_bytes"], empty).spec.resources == Resources(pids=7)
    assert update(["spec.timeouts.execution"], empty).spec.timeouts == Timeouts()
    assert update(["spec.scaling.max_queue_depth"], empty).spec.scaling == Scaling()
    assert update(["spec.retention.executions"], empty).spec.retention == Retention()
    kept = update(["spec.retry_policy.max_attempts"], empty).spec.retry_policy
    assert kept == RetryPolicy(initial_backoff=timedelta(seconds=9))
    assert update(["spec.runtime"], empty).spec.runtime == "docker"


def test_a_star_means_all() -> None:
    message = function(spec={"image": "busybox:2"})
    expected = FunctionDraft(FunctionSpec(image="busybox:2", runtime="docker"))
    assert update(["*"], message) == expected
    assert update(["description", "labels", "spec"], message) == expected


def test_no_mask_means_the_fields_that_are_set() -> None:
    assert update([], function()) == OLD
    message = function(
        name="hello",
        etag="e",
        description="new",
        spec={"image": "busybox:2", "resources": {"pids": 9}, "scaling": {"max_queue_depth": 0}},
    )
    message.spec.timeouts.shutdown_grace.SetInParent()
    spec = replace(
        SPEC,
        image="busybox:2",
        resources=replace(SPEC.resources, pids=9),
        scaling=Scaling(max_queue_depth=0),
        timeouts=replace(SPEC.timeouts, shutdown_grace=timedelta(0)),
    )
    assert update([], message) == FunctionDraft(spec, "new", {"a": "b"})


@pytest.mark.parametrize(
    ("mask", "says"),
    [
        (["uid"], "cannot be changed"),
        (["name"], "cannot be changed"),
        (["state.x"], "cannot be changed"),
        (["create_time"], "cannot be changed"),
        (["nonsense"], "no field"),
        (["spec.nonsense"], "no field"),
        (["spec.env.A"], "no field"),
        (["labels.a"], "no field"),
        (["spec.timeouts.queue.seconds"], "no field"),
        (["spec."], "no field"),
        ([".spec"], "no field"),
        ([""], "no field"),
        (["\0"], "no field"),
        (["Spec"], "no field"),
        (["spec.image", "spec.image"], "more than once"),
        (["*", "spec"], "beside other paths"),
        (["*", "*"], "beside other paths"),
        (["x" * 1_000_000], "no field"),
        (["spec"] * 1_000_000, "at most"),
    ],
)
def test_wrong_masks(mask: list[str], says: str) -> None:
    wrong = Violations()
    masks.FUNCTION.paths(mask, function(), wrong)
    (violation,) = wrong
    assert violation.field == "update_mask"
    assert says in violation.description
    assert len(violation.description) < 200


def test_all_wrong_paths_are_named() -> None:
    wrong = Violations()
    masks.FUNCTION.paths(["uid", "spec.image", "nonsense"], function(), wrong)
    assert len(list(wrong)) == 2


@pytest.mark.parametrize(
    ("path", "field", "expected"),
    [
        ("spec", "function.spec.resources.pids", True),
        ("spec.resources", "function.spec.resources.pids", True),
        ("spec.resources.pids", "function.spec.resources.pids", True),
        ("spec.resources.tmp_bytes", "function.spec.resources.pids", False),
        ("spec.env", "function.spec.env[A.B]", True),
        ("labels", "function.labels[a.b]", True),
        ("labels", "function.spec.env[labels]", False),
        ("description", "function.spec.image", False),
    ],
)
def test_which_violations_concern_an_update(path: str, field: str, expected: bool) -> None:
    assert masks.FUNCTION.concerns(frozenset({path}), field) is expected
