"""What is written to stdout: tables for people, JSON and names for programs."""

from __future__ import annotations

import json
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Generic, TypeVar

import typer
from google.protobuf.duration_pb2 import Duration
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.cells import cell_len

from skybridge_client.cli import text

M = TypeVar("M", bound=Message)

_GAP = "  "


class Format(StrEnum):
    """How answers are written."""

    TABLE = "table"
    JSON = "json"
    NAME = "name"


@dataclass(frozen=True)
class Columns(Generic[M]):
    """How a list of messages is shown to people."""

    titles: tuple[str, ...]
    row: Callable[[M], tuple[str, ...]]


def show(message: Any, form: Format) -> None:
    """Writes one message."""
    if form is Format.JSON:
        _write(json.dumps(MessageToDict(message), indent=2))
    elif form is Format.NAME:
        _write(message.name)
    else:
        show_table(("", ""), [(path, value) for path, value in fields(message)])


def show_list(items: Iterable[M], key: str, columns: Columns[M], form: Format) -> None:
    """Writes many messages; as JSON they are one document with the list under `key`."""
    if form is Format.JSON:
        _write(json.dumps({key: [MessageToDict(item) for item in items]}, indent=2))
    elif form is Format.NAME:
        for item in items:
            _write(getattr(item, "name"))  # noqa: B009 - messages have it, their base has not
    else:
        show_table(columns.titles, [columns.row(item) for item in items])


def show_line(message: Message) -> None:
    """Writes one event of a stream as one line of JSON."""
    _write(json.dumps(MessageToDict(message)))


def write_bytes(data: bytes, *, to_stderr: bool) -> None:
    """Writes what a function wrote, byte for byte and at once."""
    stream = sys.stderr if to_stderr else sys.stdout
    stream.flush()
    stream.buffer.write(data)
    stream.buffer.flush()


def fields(message: Message, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every field that is set, as path and text."""
    for field, value in message.ListFields():
        path = prefix + field.name
        if isinstance(value, Mapping):
            yield path, ", ".join(f"{key}={value[key]}" for key in sorted(value))
        elif isinstance(value, Sequence) and not isinstance(value, str | bytes):
            yield from _repeated(path, field, value)
        elif isinstance(value, Message) and not isinstance(value, Duration | Timestamp):
            yield from fields(value, f"{path}.")
        else:
            yield path, _text(field, value)


def _repeated(path: str, field: Any, values: Sequence[Any]) -> Iterator[tuple[str, str]]:
    if field.message_type:
        for number, value in enumerate(values):
            yield from fields(value, f"{path}[{number}].")
    elif field.enum_type:
        yield path, ", ".join(text.word(field.enum_type, value) for value in values)
    else:
        yield path, shlex.join(map(str, values))


def _text(field: Any, value: Any) -> str:
    if isinstance(value, Duration):
        return text.duration(value)
    if isinstance(value, Timestamp):
        return text.moment(value)
    if isinstance(value, bytes):
        return value.decode(errors="replace").rstrip("\n")
    if field.enum_type:
        return text.word(field.enum_type, value)
    if field.name.endswith("_bytes"):
        return text.size(value)
    return str(value)


def show_table(titles: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Writes rows in columns. Nothing is cut: a terminal wraps what is too long."""
    head = [titles] if any(titles) else []
    widths = [max(map(_width, column)) for column in zip(*head, *rows, strict=True)]
    for title in head:
        typer.secho(_line(title, widths), bold=True)
    for row in rows:
        _write(_line(row, widths))


def _line(cells: tuple[str, ...], widths: list[int]) -> str:
    indent = "\n" + " " * sum(width + len(_GAP) for width in widths[:-1])
    padded = [
        cell + " " * (width - _width(cell)) for cell, width in zip(cells, widths, strict=True)
    ]
    return _GAP.join([*padded[:-1], cells[-1].replace("\n", indent)]).rstrip()


def _width(cell: str) -> int:
    return max(map(cell_len, cell.splitlines()), default=0)


def _write(line: str) -> None:
    sys.stdout.write(f"{line}\n")
