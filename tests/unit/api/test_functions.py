"""Functions between messages and the domain."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from skybridge.faas.v1 import function_pb2 as pb
from skybridge_server.api.convert.functions import (
    draft_from_proto,
    function_to_proto,
    revision_to_proto,
)
from skybridge_server.models.functions import (
    Contract,
    ContractKind,
    Function,
    FunctionSpec,
    FunctionState,
    InputMode,
    Isolation,
    Network,
    PullPolicy,
    Resources,
    Retention,
    Revision,
    Scaling,
    Timeouts,
)
from skybridge_server.models.names import FunctionName, RevisionName
from skybridge_server.models.retries import USUAL, RetryPolicy
from skybridge_server.services.violations import Violations

DEFAULTS = FunctionSpec(image="", runtime="docker")
HELLO = FunctionName("default", "hello")
NOW = datetime(2026, 1, 31, 12, 30, 15, 123456, tzinfo=UTC)

texts = st.text(max_size=5)
durations = st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=1))
positive = st.integers(1, 2**63 - 1)
specs = st.builds(
    FunctionSpec,
    image=texts,
    command=st.lists(texts, max_size=2).map(tuple),
    args=st.lists(texts, max_size=2).map(tuple),
    env=st.dictionaries(texts, texts, max_size=2),
    working_dir=texts,
    contract=st.builds(Contract, st.sampled_from(ContractKind), st.sampled_from(InputMode)),
    resources=st.builds(Resources, positive, positive, positive, positive, positive),
    timeouts=st.builds(Timeouts, durations, durations, durations, durations),
    scaling=st.builds(Scaling, st.integers(0, 1000), st.integers(0, 10**6)),
    network=st.sampled_from(Network),
    isolation=st.builds(Isolation, texts.filter(bool), st.booleans(), texts),
    pull_policy=st.sampled_from(PullPolicy),
    runtime=texts.filter(bool),
    retention=st.builds(Retention, durations, st.integers(0, 10**9), st.integers(0, 10**6)),
    retry_policy=st.builds(
        RetryPolicy,
        st.integers(1, 100),
        durations,
        durations,
        st.floats(1, 10),
        st.floats(0, 1),
        durations,
        st.lists(st.sampled_from(USUAL), min_size=1).map(tuple),
        st.lists(st.integers(1, 255)).map(tuple),
    ),
)


def read_spec(message: pb.FunctionSpec) -> FunctionSpec:
    with Violations() as wrong:
        return draft_from_proto(pb.Function(spec=message), DEFAULTS, wrong).spec


def shown(spec: FunctionSpec) -> pb.FunctionSpec:
    """Return a specification as callers see it."""
    name, now = FunctionName("default", "hello"), datetime.now(UTC)
    return function_to_proto(Function(name, "uid", spec, now, now)).spec


@given(specs)
def test_a_spec_comes_back_from_the_wire(spec: FunctionSpec) -> None:
    sent = shown(spec).SerializeToString()
    assert read_spec(pb.FunctionSpec.FromString(sent)) == spec


def test_answers_show_every_default() -> None:
    message = shown(read_spec(pb.FunctionSpec(image="busybox")))
    assert message == pb.FunctionSpec(
        image="busybox",
        contract=pb.Contract(kind=pb.CONTRACT_KIND_STDIO, input=pb.INPUT_MODE_STDIN),
        resources=pb.Resources(
            memory_bytes=128 << 20,
            cpu_millis=1000,
            pids=128,
            tmp_bytes=64 << 20,
            output_bytes=64 << 20,
        ),
        timeouts=pb.Timeouts(
            queue=Duration(seconds=300),
            start=Duration(seconds=60),
            execution=Duration(seconds=60),
            shutdown_grace=Duration(seconds=5),
        ),
        scaling=pb.Scaling(max_queue_depth=1000),
        network=pb.NETWORK_NONE,
        isolation=pb.Isolation(user="65532:65532"),
        pull_policy=pb.PULL_POLICY_IF_NOT_PRESENT,
        runtime="docker",
        retention=pb.Retention(execution_age=Duration()),
        retry_policy=pb.RetryPolicy(
            max_attempts=1,
            initial_backoff=Duration(seconds=1),
            max_backoff=Duration(seconds=300),
            backoff_coefficient=2,
            jitter=0.5,
            max_age=Duration(seconds=6 * 3600),
            retry_on=[int(reason) for reason in USUAL],  # type: ignore[misc]
        ),
    )
    assert message.scaling.HasField("max_queue_depth")


def test_zero_that_was_meant_is_kept() -> None:
    spec = read_spec(
        pb.FunctionSpec(
            scaling=pb.Scaling(max_queue_depth=0), timeouts=pb.Timeouts(shutdown_grace=Duration())
        )
    )
    assert spec.scaling.max_queue_depth == 0
    assert spec.timeouts.shutdown_grace == timedelta(0)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"contract": {"kind": 9}}, "contract.kind"),
        ({"contract": {"input": 9}}, "contract.input"),
        ({"network": -1}, "network"),
        ({"pull_policy": 4}, "pull_policy"),
        ({"timeouts": {"queue": Duration(seconds=2**63 - 1)}}, "timeouts.queue"),
        ({"timeouts": {"start": Duration(seconds=1, nanos=-1)}}, "timeouts.start"),
        ({"timeouts": {"execution": Duration(nanos=2**31 - 1)}}, "timeouts.execution"),
        ({"timeouts": {"shutdown_grace": Duration(seconds=-(2**63))}}, "timeouts.shutdown_grace"),
    ],
)
def test_what_no_spec_can_hold(spec: dict[str, Any], field: str) -> None:
    wrong = Violations()
    draft_from_proto(pb.Function(spec=pb.FunctionSpec(**spec)), DEFAULTS, wrong)
    assert [violation.field for violation in wrong] == [f"function.spec.{field}"]


def test_output_only_and_unknown_fields_are_ignored() -> None:
    message = pb.Function(
        name="x",
        uid="x",
        description="d",
        labels={"a": "b"},
        state=pb.FUNCTION_STATE_ACTIVE,
        generation=7,
        etag="x",
        active_revision="x",
    )
    message.MergeFromString(b"\xa2\x1f\x05hello")  # field 500
    with Violations() as wrong:
        draft = draft_from_proto(message, DEFAULTS, wrong)
    assert (draft.description, draft.labels) == ("d", {"a": "b"})


def test_functions() -> None:
    message = function_to_proto(
        Function(
            name=HELLO,
            uid="u",
            spec=FunctionSpec(image="busybox"),
            create_time=NOW,
            update_time=NOW + timedelta(seconds=1),
            description="d",
            labels={"a": "b"},
            state=FunctionState.ACTIVE,
            state_message="m",
            generation=2,
            etag="e",
            active_revision=3,
        )
    )
    assert message.name == "namespaces/default/functions/hello"
    assert message.active_revision == "namespaces/default/functions/hello/revisions/3"
    assert message.state == pb.FUNCTION_STATE_ACTIVE
    assert (message.uid, message.etag, message.generation) == ("u", "e", 2)
    assert (message.description, message.state_message) == ("d", "m")
    assert dict(message.labels) == {"a": "b"}
    assert message.create_time.ToDatetime(UTC) == NOW
    assert message.update_time.ToDatetime(UTC) == NOW + timedelta(seconds=1)


def test_revisions() -> None:
    revision = Revision(
        name=RevisionName(HELLO, 3),
        spec=FunctionSpec(image="busybox"),
        image_id="sha256:1",
        image_digest="busybox@sha256:2",
        platform="linux/amd64",
        image_bytes=5,
        generation=2,
        create_time=NOW,
    )
    message = revision_to_proto(revision, active=True)
    assert (message.name, message.number) == (f"{HELLO}/revisions/3", 3)
    assert (message.image_id, message.image_digest) == ("sha256:1", "busybox@sha256:2")
    assert (message.platform, message.image_bytes) == ("linux/amd64", 5)
    assert (message.generation, message.active) == (2, True)
    assert message.create_time.ToDatetime(UTC) == NOW
    assert message.spec.image == "busybox"


@pytest.mark.parametrize(
    ("ours", "theirs", "prefix"),
    [
        (FunctionState, pb.FunctionState, "FUNCTION_STATE"),
        (ContractKind, pb.ContractKind, "CONTRACT_KIND"),
        (InputMode, pb.InputMode, "INPUT_MODE"),
        (Network, pb.Network, "NETWORK"),
        (PullPolicy, pb.PullPolicy, "PULL_POLICY"),
    ],
)
def test_enums_have_the_numbers_of_the_api(ours: Any, theirs: Any, prefix: str) -> None:
    expected = {f"{prefix}_{member.name}": member.value for member in ours}
    assert dict(theirs.items()) == {f"{prefix}_UNSPECIFIED": 0, **expected}
