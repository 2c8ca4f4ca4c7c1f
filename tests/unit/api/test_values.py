"""Enums, durations and timestamps on the wire."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from skybridge.faas.v1 import execution_service_pb2 as pb
from skybridge_server.api.convert import values
from skybridge_server.models.functions import Network
from skybridge_server.services.violations import Violations

DAY = timedelta(days=1)
LONGEST = timedelta(seconds=315_576_000_000)


def read_duration(duration: Duration) -> tuple[timedelta, list[str]]:
    wrong = Violations()
    request = pb.WaitExecutionRequest(timeout=duration)
    value = values.duration_from_proto(request, "timeout", DAY, "a.", wrong)
    return value, [violation.field for violation in wrong]


def read_timestamp(timestamp: Timestamp) -> tuple[datetime | None, list[str]]:
    wrong = Violations()
    request = pb.ReadLogsRequest(since=timestamp)
    value = values.optional_timestamp_from_proto(request, "since", "a.", wrong)
    return value, [violation.field for violation in wrong]


@given(st.timedeltas(min_value=-LONGEST, max_value=LONGEST))
def test_durations_come_back(value: timedelta) -> None:
    message = values.duration_to_proto(value)
    assert read_duration(message) == (value, [])
    assert message.ToTimedelta() == value


@given(st.datetimes(timezones=st.just(UTC)))
def test_timestamps_come_back(value: datetime) -> None:
    message = values.timestamp_to_proto(value)
    assert read_timestamp(message) == (value, [])
    assert message.ToDatetime(UTC) == value


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (2**63 - 1, 0),
        (-(2**63), 0),
        (315_576_000_001, 0),
        (1, -1),
        (-1, 1),
        (0, 1_000_000_000),
        (0, -(2**31)),
    ],
)
def test_invalid_durations(seconds: int, nanos: int) -> None:
    assert read_duration(Duration(seconds=seconds, nanos=nanos)) == (DAY, ["a.timeout"])


@pytest.mark.parametrize(
    ("seconds", "nanos"),
    [
        (2**63 - 1, 0),
        (-(2**63), 0),
        (253_402_300_800, 0),
        (-62_135_596_801, 0),
        (0, -1),
        (0, 10**9),
    ],
)
def test_invalid_timestamps(seconds: int, nanos: int) -> None:
    assert read_timestamp(Timestamp(seconds=seconds, nanos=nanos)) == (None, ["a.since"])


def test_unset_is_the_default_and_set_to_zero_is_zero() -> None:
    unset, zero = pb.WaitExecutionRequest(), pb.WaitExecutionRequest(timeout=Duration())
    with Violations() as wrong:
        assert values.duration_from_proto(unset, "timeout", DAY, "", wrong) == DAY
        assert values.duration_from_proto(zero, "timeout", DAY, "", wrong) == timedelta(0)
        assert values.optional_duration_from_proto(unset, "timeout", "", wrong) is None


def test_nothing_to_send_for_what_is_unknown() -> None:
    assert values.optional_duration_to_proto(None) is None
    assert values.optional_timestamp_to_proto(None) is None


def test_enums() -> None:
    wrong = Violations()
    assert values.enum_from_proto(0, Network.NONE, "network", wrong) is Network.NONE
    assert values.enum_from_proto(2, Network.NONE, "network", wrong) is Network.EGRESS
    assert values.optional_enum_from_proto(Network, 0, "network", wrong) is None
    assert not list(wrong)
    for unknown in (3, -1, 2**31 - 1):
        values.enum_from_proto(unknown, Network.NONE, "network", wrong)
    assert [violation.field for violation in wrong] == ["network"] * 3
