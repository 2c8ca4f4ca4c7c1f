"""Sizes, times and names as people write and read them."""

from __future__ import annotations

import datetime as dt
import re
import uuid
from collections.abc import Iterable

from google.protobuf.descriptor import EnumDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.timestamp_pb2 import Timestamp

from skybridge_client.specs import enum_word

_UNITS = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
_SIZE = re.compile(r"(\d+)\s*([kmg]?)(?:i?b)?", re.IGNORECASE)

_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ms|s|m|h|d))+")
_PART = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")


def parse_size(text: str) -> int:
    """Bytes of `64MiB`, `512k` or `1048576`; units are powers of 1,024. Raises ValueError."""
    match = _SIZE.fullmatch(text.strip())
    if not match:
        raise ValueError(f"{text!r} is no size: write it like 64MiB, 512k or 1048576")
    return int(match[1]) * _UNITS[match[2].lower()]


def parse_duration(text: str) -> float:
    """Seconds of `250ms`, `30s`, `1h30m` or `90`. Raises ValueError."""
    text = text.strip()
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return float(text)
    if not _DURATION.fullmatch(text):
        raise ValueError(f"{text!r} is no duration: write it like 250ms, 30s, 1h30m or 90")
    return sum(float(number) * _SECONDS[unit] for number, unit in _PART.findall(text))


def parse_since(text: str) -> dt.datetime:
    """A moment: `5m` ago, or a time like `2026-01-31T12:00:00Z`. Raises ValueError."""
    return _parse_moment(text, -1)


def parse_start(text: str) -> dt.datetime:
    """A moment: in `5m`, or a time like `2026-01-31T12:00:00Z`. Raises ValueError."""
    return _parse_moment(text, 1)


def _parse_moment(text: str, direction: int) -> dt.datetime:
    try:
        away = dt.timedelta(seconds=parse_duration(text))
        return dt.datetime.now(dt.UTC) + direction * away
    except ValueError:
        pass
    except OverflowError:
        raise ValueError(f"{text!r} is too far away") from None
    try:
        moment = dt.datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is neither like 5m nor like 2026-01-31T12:00:00Z") from None
    return moment.astimezone(dt.UTC)


def parse_pairs(pairs: Iterable[str]) -> dict[str, str]:
    """A dictionary of `KEY=VALUE` words. Raises ValueError."""
    split = [pair.partition("=") for pair in pairs]
    for key, equals, _ in split:
        if not key or not equals:
            raise ValueError(f"{key + equals!r} is not of the form KEY=VALUE")
    return {key: value for key, _, value in split}


def size(count: int) -> str:
    """A count of bytes, such as `64 MiB`; rounded to a tenth."""
    value = float(count)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{_tenths(value)} {unit}"
        value /= 1024
    return f"{_tenths(value)} GiB"


def _tenths(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def duration(message: Duration) -> str:
    """A duration, such as `250ms`, `1.25s` or `1h30m`."""
    nanos = message.ToNanoseconds()
    if nanos < 1_000_000_000:
        return f"{nanos / 1e6:.3g}ms" if nanos else "0s"
    seconds = nanos / 1e9
    if seconds < 60:
        return f"{seconds:.3g}s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = ((hours, "h"), (minutes, "m"), (rest, "s"))
    return "".join(f"{number}{unit}" for number, unit in parts if number)


def moment(message: Timestamp) -> str:
    """A time in the caller's zone, to the second."""
    return message.ToDatetime(dt.UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def word(enum: EnumDescriptor, number: int) -> str:
    """The short name of an enum's value; a number where this client is too old to know it."""
    value = enum.values_by_number.get(number)
    return enum_word(value.name, enum) if value and number else str(number or "")


def short(name: str) -> str:
    """A resource name without its kind where it is in the default namespace."""
    for kind in ("functions", "executions", "instances", "schedules", "secrets"):
        prefix = f"namespaces/default/{kind}/"
        if name.startswith(prefix):
            return name.removeprefix(prefix)
    return name.removeprefix("tokens/")


def execution_or_function(name: str) -> str:
    """A name as ReadLogs takes it, where a bare id means a function: ids of executions are
    UUIDs, and those of functions never are, since they start with a letter and are shorter.
    """
    try:
        uuid.UUID(name)
    except ValueError:
        return name
    return f"namespaces/default/executions/{name}"
