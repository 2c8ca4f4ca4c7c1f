"""Durations and sizes as people write them."""

from __future__ import annotations

import re
from datetime import timedelta

KIB = 1024
MIB = 1024 * KIB
GIB = 1024 * MIB

_DURATION_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{1,12})?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_SIZE = re.compile(r"([0-9]{1,19})\s*([A-Za-z]*)")
_BYTES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BYTES |= {"KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": 1024 * GIB}


def parse_duration(value: object) -> object:
    """Read `30s`, `5m`, `1h30m` or `250ms`; what is no text is left alone. ValueError."""
    if not isinstance(value, str):
        return value
    parts = _DURATION_PART.findall(value)
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise ValueError("must be a duration such as 30s, 5m, 1h30m or 250ms")
    try:
        return timedelta(seconds=sum(float(number) * _SECONDS[unit] for number, unit in parts))
    except OverflowError:
        raise ValueError("must be shorter") from None


def parse_size(value: object) -> object:
    """Read `64MiB`, `1GiB`, `500MB` or a number of bytes; what is no text is left alone."""
    if not isinstance(value, str):
        return value
    match = _SIZE.fullmatch(value)
    if match is None or match[2].upper() not in _BYTES:
        raise ValueError("must be a size such as 64MiB, 1GiB or a number of bytes")
    return int(match[1]) * _BYTES[match[2].upper()]


def format_duration(value: timedelta) -> str:
    """Write a duration as it is read."""
    for unit, seconds in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if value >= timedelta(seconds=seconds) and not value % timedelta(seconds=seconds):
            return f"{value // timedelta(seconds=seconds)}{unit}"
    return f"{value // timedelta(milliseconds=1)}ms"


def format_size(value: int) -> str:
    """Write a number of bytes as it is read."""
    for unit, size in (("GiB", GIB), ("MiB", MIB), ("KiB", KIB)):
        if value >= size and not value % size:
            return f"{value // size}{unit}"
    return str(value)
