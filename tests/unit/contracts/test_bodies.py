"""Bodies of HTTP/1.1 messages, however they are cut."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.contracts.bodies import (
    Body,
    ChunkedBody,
    EndlessBody,
    LengthBody,
    body_of_request,
    body_of_response,
)
from skybridge_server.contracts.heads import MAX_HEAD_BYTES, Framing
from skybridge_server.errors import InstanceGoneError, ProtocolError

CHUNKED = Framing(None, chunked=True, keep_alive=True)


def feed(body: Body, *parts: bytes) -> tuple[bytes, bytes]:
    """Feed parts; return all payload and all that came after the end."""
    payload, rest = b"", b""
    for part in parts:
        more, after = body.feed(part)
        payload += more
        rest += after
    return payload, rest


def cuts(wire: bytes, data: st.DataObject) -> list[bytes]:
    where = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    return [wire[start:end] for start, end in zip([0, *where], [*where, len(wire)], strict=True)]


def chunk(data: bytes, extension: bytes = b"") -> bytes:
    return b"%x%b\r\n%b\r\n" % (len(data), extension, data)


def test_a_length() -> None:
    body = LengthBody(5)
    assert feed(body, b"he", b"llo", b"more") == (b"hello", b"more")
    assert body.done
    body.end()


def test_a_length_that_is_not_reached() -> None:
    body = LengthBody(5)
    feed(body, b"he")
    assert not body.done
    with pytest.raises(InstanceGoneError, match="after 2 of 5 bytes"):
        body.end()


def test_until_the_end() -> None:
    body = EndlessBody()
    assert feed(body, b"a", b"b") == (b"ab", b"")
    assert not body.done
    body.end()
    assert body.done


@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    extension=st.sampled_from([b"", b";a=b", b" ; x"]),
    data=st.data(),
)
def test_chunks(pieces: list[bytes], extension: bytes, data: st.DataObject) -> None:
    wire = b"".join(chunk(piece, extension) for piece in pieces)
    wire += b"0\r\nX-A: 1\r\nx-b:2\r\n\r\n"
    body = ChunkedBody()
    assert feed(body, *cuts(wire + b"more", data)) == (b"".join(pieces), b"more")
    assert body.done
    assert body.trailers == {"x-a": "1", "x-b": "2"}
    body.end()


def test_chunks_that_end_too_early() -> None:
    wire = chunk(b"hello") + b"0\r\n\r\n"
    for end in range(len(wire)):
        body = ChunkedBody()
        feed(body, wire[:end])
        assert not body.done
        with pytest.raises(InstanceGoneError, match="before the last chunk"):
            body.end()


WRONG = {
    "no size": b"\r\n",
    "no hex": b"g\r\n",
    "a sign": b"-1\r\n",
    "a prefix": b"0x5\r\nhello\r\n",
    "an underscore": b"1_0\r\n",
    "a space before": b" 5\r\nhello\r\n",
    "too large": b"100000000\r\n",
    "bare LF": b"5\nhello\r\n",
    "bare CR in the extension": b"5;a\rb\r\nhello\r\n",
    "NUL in the extension": b"5;a\0\r\nhello\r\n",
    "chunk too long": b"5\r\nhelloo\r\n",
    "chunk too short": b"5\r\nhell\r\n0\r\n\r\n",
    "chunk ended by LF": b"5\r\nhello\n0\r\n\r\n",
    "long size line": b"5;" + b"a" * 300 + b"\r\n",
    "size line without end": b"5;" + b"a" * 300,
    "trailer without colon": b"0\r\nhello\r\n\r\n",
    "folded trailer": b"0\r\nX: 1\r\n y\r\n\r\n",
    "trailer ended by LF": b"0\r\nX: 1\n\r\n",
    "end by LF": b"0\r\n\n",
    "long trailers": b"0\r\n" + b"X: 1\r\n" * (MAX_HEAD_BYTES // 6 + 1) + b"\r\n",
    "trailer without end": b"0\r\nX: " + b"a" * MAX_HEAD_BYTES,
    "many trailers": b"0\r\n" + b"X: 1\r\n" * 129 + b"\r\n",
}


@pytest.mark.parametrize("wire", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("step", [1, 7, 1_000_000])
def test_chunks_that_are_refused(wire: bytes, step: int) -> None:
    body = ChunkedBody()
    with pytest.raises(ProtocolError):
        feed(body, *(wire[at : at + step] for at in range(0, len(wire), step)))


@given(parts=st.lists(st.binary(max_size=30), max_size=10))
def test_nothing_else_is_raised(parts: list[bytes]) -> None:
    with contextlib.suppress(ProtocolError):
        feed(ChunkedBody(), b"5\r\nhel", *parts)


@pytest.mark.parametrize(
    ("status", "framing", "kind"),
    [
        (200, CHUNKED, ChunkedBody),
        (200, Framing(5, chunked=False, keep_alive=True), LengthBody),
        (200, Framing(None, chunked=False, keep_alive=True), EndlessBody),
        (204, Framing(None, chunked=False, keep_alive=True), LengthBody),
        (304, Framing(5, chunked=False, keep_alive=True), LengthBody),
    ],
)
def test_which_body_a_response_has(status: int, framing: Framing, kind: type[Body]) -> None:
    body = body_of_response(status, framing)
    assert isinstance(body, kind)
    assert body.done == (status in {204, 304})


def test_which_body_a_request_has() -> None:
    assert isinstance(body_of_request(CHUNKED), ChunkedBody)
    assert body_of_request(Framing(None, chunked=False, keep_alive=True)).done
    assert not body_of_request(Framing(1, chunked=False, keep_alive=True)).done
