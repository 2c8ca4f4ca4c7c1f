"""Frames that we write, read by another implementation."""

from __future__ import annotations

from typing import Any

import hyperframe.frame as theirs
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.http2 import frames
from skybridge_server.http2.errors import ErrorCode
from skybridge_server.http2.frames import Setting

streams = st.integers(1, frames.MAX_STREAM_ID)
increments = st.integers(1, frames.MAX_WINDOW)


def parsed(data: bytes) -> list[Any]:
    found, view = [], memoryview(data)
    while view:
        frame, length = theirs.Frame.parse_frame_header(view[:9])
        assert len(view) >= 9 + length
        frame.parse_body(view[9 : 9 + length])
        found.append(frame)
        view = view[9 + length :]
    return found


@given(streams, st.binary(max_size=200), st.booleans())
def test_headers_are_split_into_frames_that_the_peer_takes(
    stream: int, block: bytes, end: bool
) -> None:
    found = parsed(frames.headers(stream, block, 50, end=end))
    assert isinstance(found[0], theirs.HeadersFrame)
    assert all(isinstance(frame, theirs.ContinuationFrame) for frame in found[1:])
    assert all(frame.stream_id == stream and len(frame.data) <= 50 for frame in found)
    assert b"".join(frame.data for frame in found) == block
    assert ("END_STREAM" in found[0].flags) is end
    assert [frame for frame in found if "END_HEADERS" in frame.flags] == [found[-1]]


@given(streams, st.integers(0, 1 << 20))
def test_heads(stream: int, length: int) -> None:
    data = frames.head(frames.DATA, frames.END_STREAM, stream, length)
    frame, size = theirs.Frame.parse_frame_header(memoryview(data))
    assert (type(frame), frame.stream_id, size) == (theirs.DataFrame, stream, length)
    assert set(frame.flags) == {"END_STREAM"}


def test_settings() -> None:
    values = {Setting.MAX_FRAME_SIZE: 20_000, Setting.INITIAL_WINDOW_SIZE: frames.MAX_WINDOW}
    data = frames.settings(values)
    (frame,) = parsed(data)
    assert isinstance(frame, theirs.SettingsFrame)
    assert frame.settings == values
    assert dict(frames.settings_of(data[frames.HEAD_BYTES :])) == values
    (ack,) = parsed(frames.SETTINGS_ACK)
    assert isinstance(ack, theirs.SettingsFrame)
    assert set(ack.flags) == {"ACK"}


@given(st.binary(min_size=8, max_size=8), st.booleans())
def test_ping(payload: bytes, ack: bool) -> None:
    (frame,) = parsed(frames.ping(payload, ack=ack))
    assert isinstance(frame, theirs.PingFrame)
    assert (frame.opaque_data, "ACK" in frame.flags) == (payload, ack)


@given(st.integers(0, frames.MAX_STREAM_ID), increments)
def test_window_update(stream: int, more: int) -> None:
    (frame,) = parsed(frames.window_update(stream, more))
    assert isinstance(frame, theirs.WindowUpdateFrame)
    assert (frame.stream_id, frame.window_increment) == (stream, more)


def test_ends() -> None:
    (reset,) = parsed(frames.rst_stream(7, ErrorCode.CANCEL))
    assert isinstance(reset, theirs.RstStreamFrame)
    assert (reset.stream_id, reset.error_code) == (7, ErrorCode.CANCEL)
    (goaway,) = parsed(frames.goaway(9, ErrorCode.PROTOCOL_ERROR, "why"))
    assert isinstance(goaway, theirs.GoAwayFrame)
    assert (goaway.last_stream_id, goaway.error_code) == (9, ErrorCode.PROTOCOL_ERROR)
    assert goaway.additional_data == b"why"
