"""Heads of HTTP/1.1 messages, parsed as strictly as RFC 9112 allows.

What two readers could understand differently is refused, never guessed: bare line feeds, folded
lines, several lengths, a length next to an encoding. A head is bytes up to, and without, the empty
line that ends it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache

from skybridge_server.errors import FieldViolation, InvalidArgumentError, ProtocolError

MAX_HEAD_BYTES = 64 * 1024
MAX_FIELDS = 128
END = b"\r\n\r\n"

_SHOWN_BYTES = 80
_KNOWN_BYTES = 1024

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_TEXT = rb"[\t -~\x80-\xff]*"
FIELD = _TOKEN + rb":" + _TEXT
_FIELDS = rb"((?:\r\n" + FIELD + rb")*)"
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9]{2})(?: " + _TEXT + rb")?" + _FIELDS)
_REQUEST = re.compile(rb"(" + _TOKEN + rb") ([!-~]+) HTTP/1\.([01])" + _FIELDS)
_FIELD = re.compile(rb"\r\n(" + _TOKEN + rb"):(" + _TEXT + rb")")
_LENGTH = re.compile(r"[0-9]{1,15}")
_NAME = re.compile(_TOKEN.decode())
_VALUE = re.compile(_TEXT.decode("latin-1"))

HOP_BY_HOP = frozenset(
    {
        "connection",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    }
)
"""Fields that are about the connection, not the message (RFC 9110, section 7.6.1)."""


@dataclass(frozen=True, slots=True)
class Framing:
    """Where a message's body ends, and whether the connection lives on."""

    length: int | None
    """Bytes of the body; None where the head does not say."""
    chunked: bool
    keep_alive: bool


@dataclass(frozen=True, slots=True)
class ResponseHead:
    """The head of a response."""

    status: int
    fields: Mapping[str, str]
    """Names in lower case; values of a name that comes twice are joined with ', '."""
    headers: Mapping[str, str]
    """The fields that are the message's own, without Content-Type and Content-Length."""
    framing: Framing


@dataclass(frozen=True, slots=True)
class RequestHead:
    """The head of a request."""

    method: str
    target: str
    fields: Mapping[str, str]
    framing: Framing


def find_end(data: bytes, start: int, known: bytes) -> int:
    """Return the position of the empty line that ends a head, or -1 if it is still to come.

    Looks from `start` on. ProtocolError when it can never become a head that starts with `known`.
    """
    end = data.find(END, start)
    if end > MAX_HEAD_BYTES or (end < 0 and len(data) > MAX_HEAD_BYTES):
        raise ProtocolError(f"a head of more than {MAX_HEAD_BYTES} bytes")
    if end < 0:
        _refuse_early(data, known)
    return end


def _refuse_early(data: bytes, known: bytes) -> None:
    """Raise for what will not become a head: who speaks another protocol may wait for us."""
    if data[: len(known)] != known[: len(data)] or data.count(b"\n") != data.count(b"\r\n"):
        raise ProtocolError(f"not the head of an HTTP/1.1 message: {data[:_SHOWN_BYTES]!r}")


def parse_response(head: bytes) -> ResponseHead:
    """Parse the head of a response; raises ProtocolError."""
    return (_known_response if len(head) <= _KNOWN_BYTES else _parse_response)(head)


def parse_request(head: bytes) -> RequestHead:
    """Parse the head of a request; raises ProtocolError."""
    return (_known_request if len(head) <= _KNOWN_BYTES else _parse_request)(head)


def _parse_response(head: bytes) -> ResponseHead:
    match = _RESPONSE.fullmatch(head)
    if match is None:
        raise ProtocolError(f"not the head of an HTTP/1.1 response: {head[:_SHOWN_BYTES]!r}")
    version, status, lines = match.groups()
    fields = parse_fields(lines)
    own = {name: value for name, value in end_to_end(fields).items() if name not in _APART}
    return ResponseHead(int(status), fields, own, _framing(fields, version))


def _parse_request(head: bytes) -> RequestHead:
    match = _REQUEST.fullmatch(head)
    if match is None:
        raise ProtocolError(f"not the head of an HTTP/1.1 request: {head[:_SHOWN_BYTES]!r}")
    method, target, version, lines = match.groups()
    fields = parse_fields(lines)
    return RequestHead(method.decode(), target.decode(), fields, _framing(fields, version))


_APART = frozenset({"content-type", "content-length"})

# An instance says the same again and again, but for the time of day: most heads are known.
_known_response = lru_cache(maxsize=256)(_parse_response)
_known_request = lru_cache(maxsize=256)(_parse_request)


def parse_fields(lines: bytes) -> dict[str, str]:
    """Return the fields in lines that each start with CR LF, checked before."""
    found = _FIELD.findall(lines)
    if len(found) > MAX_FIELDS:
        raise ProtocolError(f"more than {MAX_FIELDS} header fields")
    fields: dict[str, str] = {}
    for raw_name, raw_value in found:
        name, value = raw_name.decode().lower(), raw_value.decode("latin-1").strip(" \t")
        fields[name] = f"{fields[name]}, {value}" if name in fields else value
    return fields


def end_to_end(fields: Mapping[str, str]) -> dict[str, str]:
    """Return the fields, names in lower case, that are not about the connection."""
    about_connection = HOP_BY_HOP | _words(fields.get("connection", ""))
    return {name: value for name, value in fields.items() if name not in about_connection}


def check_names(fields: Mapping[str, str]) -> None:
    """Raise InvalidArgumentError for names that no field can have."""
    wrong = [name for name in fields if not _NAME.fullmatch(name)]
    if wrong:
        raise _unfit(wrong, "is no name of a header: letters, digits and !#$%&'*+-.^_`|~")


def render_fields(fields: Mapping[str, str]) -> bytes:
    """Return fields as lines to send; InvalidArgumentError for values that no field can have."""
    # All at once: this is done for each call, and nearly always right.
    if not _VALUE.fullmatch("".join(fields.values())):
        wrong = [name for name, value in fields.items() if not _VALUE.fullmatch(value)]
        raise _unfit(wrong, "must be one line of Latin-1 without control characters")
    return "".join([f"{name}: {value}\r\n" for name, value in fields.items()]).encode("latin-1")


def _unfit(names: list[str], what: str) -> InvalidArgumentError:
    return InvalidArgumentError(*(FieldViolation("headers", f"{name!r} {what}") for name in names))


def _framing(fields: Mapping[str, str], version: bytes) -> Framing:
    modern = version == b"1"
    length, coding = fields.get("content-length"), fields.get("transfer-encoding")
    if coding is not None:
        if length is not None:
            raise ProtocolError("both Content-Length and Transfer-Encoding")
        if not modern or coding.lower() != "chunked":
            raise ProtocolError(f"Transfer-Encoding {coding!r} in HTTP/1.{version.decode()}")
    keep_alive = modern and "close" not in _words(fields.get("connection", ""))
    return Framing(
        None if length is None else _parse_length(length), coding is not None, keep_alive
    )


def _parse_length(value: str) -> int:
    """Return a length; the same one several times is one (RFC 9110, section 8.6)."""
    first, *others = value.split(",")
    if any(other.strip(" \t") != first.strip(" \t") for other in others):
        raise ProtocolError(f"several values of Content-Length: {value[:_SHOWN_BYTES]}")
    length = first.strip(" \t")
    if not _LENGTH.fullmatch(length):
        raise ProtocolError(f"Content-Length {length[:_SHOWN_BYTES]!r}")
    return int(length)


def _words(value: str) -> set[str]:
    return {each.strip(" \t").lower() for each in value.split(",")} if value else set()
