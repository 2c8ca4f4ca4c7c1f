from __future__ import annotations

import datetime as dt
from collections.abc import Callable
from typing import Any

import pytest
from google.protobuf.duration_pb2 import Duration
from hypothesis import given
from hypothesis import strategies as st

from skybridge_client.cli import text
from skybridge_client.messages import ExecutionState


@pytest.mark.parametrize(
    ("written", "count"),
    [("0", 0), ("1048576", 1 << 20), ("512k", 1 << 19), ("64MiB", 64 << 20), ("1 GB", 1 << 30)],
)
def test_sizes(written: str, count: int) -> None:
    assert text.parse_size(written) == count


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("250ms", 0.25), ("30s", 30), ("1h30m", 5400), ("90", 90), ("1.5s", 1.5), ("2d", 172800)],
)
def test_durations(written: str, seconds: float) -> None:
    assert text.parse_duration(written) == seconds


@pytest.mark.parametrize(
    ("parse", "wrong"),
    [
        (text.parse_size, "big"),
        (text.parse_size, "1.5M"),
        (text.parse_size, "-1"),
        (text.parse_duration, ""),
        (text.parse_duration, "5 apples"),
        (text.parse_duration, "-3s"),
        (text.parse_since, "yesterday"),
        (text.parse_pairs, ["a"]),
        (text.parse_pairs, ["=b"]),
    ],
)
def test_what_cannot_be_read_is_refused(parse: Callable[[Any], Any], wrong: Any) -> None:
    with pytest.raises(ValueError, match=r"is no |is neither |is not of"):
        parse(wrong)


def test_pairs_are_split_at_the_first_sign() -> None:
    assert text.parse_pairs(["a=b=c", "d="]) == {"a": "b=c", "d": ""}


def test_since_is_a_moment_or_so_long_ago() -> None:
    now = dt.datetime.now(dt.UTC)
    ago = now - text.parse_since("5m")
    assert dt.timedelta(minutes=4) < ago < dt.timedelta(minutes=6)
    assert text.parse_since("2026-01-31T12:00:00Z") == dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)
    assert text.parse_since("2026-01-31T12:00:00").tzinfo is dt.UTC


def test_a_start_is_a_moment_or_so_far_ahead() -> None:
    ahead = text.parse_start("5m") - dt.datetime.now(dt.UTC)
    assert dt.timedelta(minutes=4) < ahead < dt.timedelta(minutes=6)
    assert text.parse_start("2026-01-31T12:00:00Z") == dt.datetime(2026, 1, 31, 12, tzinfo=dt.UTC)


@pytest.mark.parametrize(
    ("nanos", "shown"),
    [
        (0, "0s"),
        (1_500_000, "1.5ms"),
        (250_000_000, "250ms"),
        (1_250_000_000, "1.25s"),
        (59_960_000_000, "60s"),
        (60_000_000_000, "1m"),
        (5_400_000_000_000, "1h30m"),
    ],
)
def test_durations_are_shown_short(nanos: int, shown: str) -> None:
    message = Duration()
    message.FromNanoseconds(nanos)
    assert text.duration(message) == shown


@given(st.integers(60, 10**6))
def test_a_shown_duration_reads_back(seconds: int) -> None:
    assert text.parse_duration(text.duration(Duration(seconds=seconds))) == seconds


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1536, "1.5 KiB"), (64 << 20, "64 MiB"), (5 << 40, "5120 GiB")],
)
def test_sizes_are_shown_short(count: int, shown: str) -> None:
    assert text.size(count) == shown


def test_words_of_enums() -> None:
    descriptor = ExecutionState.DESCRIPTOR
    assert text.word(descriptor, 5) == "succeeded"
    assert text.word(descriptor, 0) == ""
    assert text.word(descriptor, 99) == "99"


def test_names() -> None:
    assert text.short("namespaces/default/functions/a") == "a"
    assert text.short("namespaces/other/functions/a") == "namespaces/other/functions/a"
    uuid = "0190a000-0000-7000-8000-000000000001"
    assert text.execution_or_function(uuid) == f"namespaces/default/executions/{uuid}"
    assert text.execution_or_function("hello") == "hello"
