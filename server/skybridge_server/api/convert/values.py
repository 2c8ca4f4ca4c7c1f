"""Values that all messages share: enums, durations and timestamps."""

from __future__ import annotations

import enum
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from skybridge_server.services.violations import Violations

E = TypeVar("E", bound=enum.IntEnum)

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECONDS_OF_A_DAY = 86_400
_MAX_DURATION_SECONDS = 315_576_000_000
_MIN_TIMESTAMP_SECONDS = -62_135_596_800
_MAX_TIMESTAMP_SECONDS = 253_402_300_799
_NANOS = 1_000_000_000


def enum_from_proto(number: int, default: E, field: str, wrong: Violations) -> E:
    """Return the member of a number; 0, not set, is the default."""
    member = optional_enum_from_proto(type(default), number, field, wrong)
    return default if member is None else member


def optional_enum_from_proto(kind: type[E], number: int, field: str, wrong: Violations) -> E | None:
    """Return the member of a number; None for 0, not set."""
    if number == 0:
        return None
    try:
        return kind(number)
    except ValueError:
        wrong.add(field, f"{number} is not a value of this server's API")
        return None


def duration_from_proto(
    parent: Message, name: str, default: timedelta, prefix: str, wrong: Violations
) -> timedelta:
    """Return the field `name` of a message, to the microsecond below; unset is the default."""
    value = optional_duration_from_proto(parent, name, prefix, wrong)
    return default if value is None else value


def optional_duration_from_proto(
    parent: Message, name: str, prefix: str, wrong: Violations
) -> timedelta | None:
    """Return the field `name` of a message, to the microsecond below; None if it is unset."""
    if not parent.HasField(name):
        return None
    message: Duration = getattr(parent, name)
    seconds, nanos = message.seconds, message.nanos
    if abs(seconds) > _MAX_DURATION_SECONDS or abs(nanos) >= _NANOS or seconds * nanos < 0:
        wrong.add(prefix + name, "is not a valid google.protobuf.Duration")
        return None
    return timedelta(seconds=seconds, microseconds=nanos // 1000)


def fill_duration(message: Duration, value: timedelta) -> None:
    """Fill in a duration; both parts have the same sign, as the type asks."""
    if value.days < 0:
        fill_duration(message, -value)
        message.seconds, message.nanos = -message.seconds, -message.nanos
        return
    message.seconds = value.days * _SECONDS_OF_A_DAY + value.seconds
    message.nanos = value.microseconds * 1000


def duration_to_proto(value: timedelta) -> Duration:
    message = Duration()
    fill_duration(message, value)
    return message


def optional_duration_to_proto(value: timedelta | None) -> Duration | None:
    return None if value is None else duration_to_proto(value)


def optional_timestamp_from_proto(
    parent: Message, name: str, prefix: str, wrong: Violations
) -> datetime | None:
    """Return the field `name` of a message, to the microsecond below; None if it is unset."""
    if not parent.HasField(name):
        return None
    message: Timestamp = getattr(parent, name)
    seconds, nanos = message.seconds, message.nanos
    if not (_MIN_TIMESTAMP_SECONDS <= seconds <= _MAX_TIMESTAMP_SECONDS and 0 <= nanos < _NANOS):
        wrong.add(prefix + name, "is not a valid google.protobuf.Timestamp")
        return None
    return _EPOCH + timedelta(seconds=seconds, microseconds=nanos // 1000)


def fill_timestamp(message: Timestamp, value: datetime) -> None:
    since = value - _EPOCH
    message.seconds = since.days * _SECONDS_OF_A_DAY + since.seconds
    message.nanos = since.microseconds * 1000


def timestamp_to_proto(value: datetime) -> Timestamp:
    message = Timestamp()
    fill_timestamp(message, value)
    return message


def optional_timestamp_to_proto(value: datetime | None) -> Timestamp | None:
    return None if value is None else timestamp_to_proto(value)
