"""Values of the domain as the database keeps them: times as integers, specifications as JSON.

Times are integer microseconds since 1970 in UTC, durations integer microseconds. In JSON a
dataclass is an object with all its fields, an enum its number. Reading is strict: a key or a type
that this version does not know is an error, while a key that is missing takes the field's default,
so that what older versions wrote stays readable.
"""

from __future__ import annotations

import dataclasses
import enum
import json
import types
import typing
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Any, TypeVar

from skybridge_server.errors import StorageError
from skybridge_server.models.executions import NO_ENVELOPE, Envelope

T = TypeVar("T")

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


def from_time(value: datetime) -> int:
    return (value - _EPOCH) // _MICROSECOND


def to_time(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def from_duration(value: timedelta) -> int:
    return value // _MICROSECOND


def to_duration(value: int) -> timedelta:
    return timedelta(microseconds=value)


def from_optional_time(value: datetime | None) -> int | None:
    return None if value is None else (value - _EPOCH) // _MICROSECOND


def from_optional_duration(value: timedelta | None) -> int | None:
    return None if value is None else value // _MICROSECOND


def optional(convert: Callable[[Any], T], value: Any) -> T | None:
    """Convert what is not None."""
    return None if value is None else convert(value)


def dumps(value: object) -> str:
    """Return a dataclass, or a mapping of labels, as JSON."""
    return json.dumps(_encode(value), separators=(",", ":"), ensure_ascii=False)


def loads(kind: type[T], text: str) -> T:
    """Return the dataclass that was written as `text`. StorageError: it is no such thing."""
    try:
        value: T = _decoder(kind)(json.loads(text))  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        raise StorageError(
            f"the database holds a {kind.__name__} that this version cannot read, "
            f"probably written by a newer one: {error}"
        ) from error
    return value


def loads_labels(text: str) -> dict[str, str]:
    return json.loads(text) if text else {}


def dumps_labels(labels: Mapping[str, str]) -> str:
    return dumps(labels) if labels else ""


def dumps_envelope(envelope: Envelope) -> str:
    """Return an envelope as JSON; '' for an empty one, which is what most executions have."""
    if envelope is NO_ENVELOPE:
        return ""
    headers = tuple(envelope.headers.items())
    return _dumped_envelope(envelope.content_type, envelope.status, headers)


# A function answers with the same headers again and again, but for the time of day.
@lru_cache(maxsize=64)
def _dumped_envelope(content_type: str, status: int, headers: tuple[tuple[str, str], ...]) -> str:
    return json.dumps([content_type, status, dict(headers)])


def loads_envelope(text: str) -> Envelope:
    if not text:
        return NO_ENVELOPE
    content_type, status, headers = json.loads(text)
    return Envelope(content_type, headers, status)


def _encode(value: Any) -> Any:
    kind: Any = type(value)
    return _encoder(kind)(value)


@cache
def _encoder(kind: Any) -> Callable[[Any], Any]:
    """Return the function that makes JSON's values out of those of a type."""
    if kind is datetime:
        return from_time
    if kind is timedelta:
        return from_duration
    if kind is tuple:
        return lambda value: [_encode(item) for item in value]
    if dataclasses.is_dataclass(kind):
        names = tuple(f.name for f in dataclasses.fields(kind))

        def encode(value: Any) -> Any:
            return {name: _encode(getattr(value, name)) for name in names}

        # The parts of specifications are mostly those that nobody has set.
        return lru_cache(256)(encode) if _is_plain(kind) else encode
    # JSON knows it: text, a number, an enum's number, a mapping of text, None.
    return lambda value: value


def _is_plain(kind: Any) -> bool:
    """Tell whether a dataclass has no mapping in it, so that it can be hashed."""
    return not any(
        typing.get_origin(hint) is dict or dataclasses.is_dataclass(hint)
        for hint in typing.get_type_hints(kind).values()
    )


@cache
def _decoder(kind: Any) -> Callable[[Any], Any]:
    """Return the function that makes a value of a type out of JSON's."""
    if dataclasses.is_dataclass(kind):
        return _dataclass_decoder(typing.cast("type", kind))
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        decode = _decoder(arguments[0])
        return lambda value: optional(decode, value)
    if origin is tuple:
        decode_item = _decoder(arguments[0])
        return lambda value: tuple(decode_item(item) for item in _exactly(list, value))
    if origin is dict:
        return _string_map
    return _scalar_decoder(kind)


def _scalar_decoder(kind: type) -> Callable[[Any], Any]:
    if kind is datetime:
        return lambda value: to_time(_exactly(int, value))
    if kind is timedelta:
        return lambda value: to_duration(_exactly(int, value))
    if issubclass(kind, enum.IntEnum):
        return lambda value: kind(_exactly(int, value))
    return lambda value: _exactly(kind, value)


def _dataclass_decoder(kind: type) -> Callable[[Any], Any]:
    hints = typing.get_type_hints(kind)
    decoders = {f.name: _decoder(hints[f.name]) for f in dataclasses.fields(kind)}

    def decode(value: Any) -> Any:
        unknown = _exactly(dict, value).keys() - decoders.keys()
        if unknown:
            raise ValueError(f"unknown fields of {kind.__name__}: {', '.join(sorted(unknown))}")
        return kind(**{name: decoders[name](item) for name, item in value.items()})

    return decode


def _string_map(value: Any) -> dict[str, str]:
    return {_exactly(str, key): _exactly(str, item) for key, item in _exactly(dict, value).items()}


def _exactly(kind: type[T], value: Any) -> T:
    """Return the value if it has just this type: True is no number here."""
    if type(value) is not kind:
        raise TypeError(f"expected {kind.__name__}, found {value!r}")
    return value
