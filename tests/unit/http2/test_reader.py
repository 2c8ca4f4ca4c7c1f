"""Frames that others write, however they come in."""

from __future__ import annotations

from itertools import pairwise

import hyperframe.frame as theirs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.http2 import frames
from skybridge_server.http2.errors import BadConnectionError, ErrorCode
from skybridge_server.http2.headers import MAX_BLOCK_BYTES
from skybridge_server.http2.reader import Frame, FrameReader

numbers = st.integers(1, frames.MAX_STREAM_ID)
payloads = st.binary(max_size=40)
paddings = st.integers(0, 20)


@st.composite
def data_frames(draw: st.DrawFn) -> tuple[bytes, Frame]:
    stream, payload, padding = draw(numbers), draw(payloads), draw(paddings)
    frame = theirs.DataFrame(
        stream, payload, pad_length=padding, flags=["PADDED"] if padding else []
    )
    written = frame.serialize()
    flags = frames.PADDED if padding else 0
    return written, Frame(frames.DATA, flags, stream, payload, len(written) - 9)


@st.composite
def header_frames(draw: st.DrawFn) -> tuple[bytes, Frame]:
    """Headers with all that may stand around them, continued up to three times."""
    stream, padding = draw(numbers), draw(paddings)
    pieces = draw(st.lists(payloads, min_size=1, max_size=4))
    first = theirs.HeadersFrame(stream, pieces[0], pad_length=padding, depends_on=3)
    first.flags |= set(draw(st.sets(st.sampled_from(["PRIORITY", "END_STREAM"]))))
    first.flags |= {"PADDED"} if padding else set()
    all_ = [first, *(theirs.ContinuationFrame(stream, piece) for piece in pieces[1:])]
    all_[-1].flags.add("END_HEADERS")
    written = [frame.serialize() for frame in all_]
    expected = Frame(frames.HEADERS, written[0][4], stream, b"".join(pieces), len(written[0]) - 9)
    return b"".join(written), expected


@st.composite
def other_frames(draw: st.DrawFn) -> tuple[bytes, Frame]:
    kind = draw(st.sampled_from([*range(2, 9), *range(10, 256)]))
    flags, stream, payload = draw(st.integers(0, 255)), draw(numbers), draw(payloads)
    written = frames.head(kind, flags, stream, len(payload)) + payload
    return written, Frame(kind, flags, stream, payload, len(payload))


sessions = st.lists(st.one_of(data_frames(), header_frames(), other_frames()), max_size=8)


@given(sessions, st.data())
def test_any_split_of_the_same_bytes_gives_the_same_frames(
    session: list[tuple[bytes, Frame]], data: st.DataObject
) -> None:
    written = frames.PREFACE + b"".join(frame for frame, _ in session)
    cuts = data.draw(st.lists(st.integers(0, len(written)), max_size=12).map(sorted))
    reader = FrameReader()
    found = [
        frame
        for begin, end in pairwise([0, *cuts, len(written)])
        for frame in reader.read(written[begin:end])
    ]
    assert found == [frame for _, frame in session]


def test_one_byte_at_a_time() -> None:
    reader, frame = FrameReader(), frames.ping(bytes(8))
    began: list[bool] = []
    found: list[Frame] = []
    for byte in frames.PREFACE + frame + frame:
        found += reader.read(bytes((byte,)))
        began.append(reader.began)
    assert began.index(True) == len(frames.PREFACE) - 1
    assert found == [Frame(frames.PING, 0, 0, bytes(8), 8)] * 2


@given(st.binary(max_size=300), st.booleans())
def test_random_bytes_end_the_connection_or_are_frames(data: bytes, began: bool) -> None:
    reader = FrameReader()
    try:
        list(reader.read((frames.PREFACE if began else b"") + data))
        list(reader.read(data))
    except BadConnectionError:
        pass


def code_of(data: bytes) -> ErrorCode:
    with pytest.raises(BadConnectionError) as caught:
        list(FrameReader().read(data))
    return caught.value.code


HEAD = frames.head


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (HEAD(frames.DATA, 0, 1, 16_385), ErrorCode.FRAME_SIZE_ERROR),
        (HEAD(frames.DATA, frames.PADDED, 1, 0), ErrorCode.PROTOCOL_ERROR),
        (HEAD(frames.DATA, frames.PADDED, 1, 2) + b"\x02x", ErrorCode.PROTOCOL_ERROR),
        (HEAD(frames.HEADERS, frames.PADDED, 1, 1) + b"\x01", ErrorCode.PROTOCOL_ERROR),
        (HEAD(frames.HEADERS, frames.PRIORITISED, 1, 4) + bytes(4), ErrorCode.FRAME_SIZE_ERROR),
        (HEAD(frames.CONTINUATION, 4, 1, 0), ErrorCode.PROTOCOL_ERROR),
        (HEAD(frames.HEADERS, 0, 1, 0) + HEAD(frames.DATA, 0, 1, 0), ErrorCode.PROTOCOL_ERROR),
        (
            HEAD(frames.HEADERS, 0, 1, 0) + HEAD(frames.CONTINUATION, 4, 3, 0),
            ErrorCode.PROTOCOL_ERROR,
        ),
        (
            HEAD(frames.HEADERS, 0, 1, 0) + HEAD(frames.CONTINUATION, 0, 1, 0) * 20,
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
        (
            HEAD(frames.HEADERS, 0, 1, 0)
            + (HEAD(frames.CONTINUATION, 0, 1, 16_384) + bytes(16_384)) * 5,
            ErrorCode.ENHANCE_YOUR_CALM,
        ),
    ],
)
def test_frames_that_break_the_rules(data: bytes, code: ErrorCode) -> None:
    assert code_of(frames.PREFACE + data) is code


def test_what_is_not_http_2() -> None:
    assert code_of(b"GET / HTTP/1.1\r\n\r\n") is ErrorCode.PROTOCOL_ERROR
    assert code_of(b"PRI * HTTP/1") is ErrorCode.PROTOCOL_ERROR


def test_headers_may_be_a_little_larger_than_we_say() -> None:
    part = bytes(MAX_BLOCK_BYTES // 4)
    written = HEAD(frames.HEADERS, 0, 1, len(part)) + part
    written += (HEAD(frames.CONTINUATION, 0, 1, len(part)) + part) * 2
    written += HEAD(frames.CONTINUATION, frames.END_HEADERS, 1, len(part)) + part
    (frame,) = FrameReader().read(frames.PREFACE + written)
    assert frame.payload == part * 4
