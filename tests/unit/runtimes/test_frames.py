from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.docker_engine.frames import FrameError, FrameParser

FRAMES = st.lists(st.tuples(st.sampled_from(OutputStream), st.binary(max_size=40)), max_size=12)


def encode(stream: int, payload: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(payload).to_bytes(4, "big") + payload


def parse(parser: FrameParser, *parts: bytes) -> dict[OutputStream, bytes]:
    read = dict.fromkeys(OutputStream, b"")
    for part in parts:
        for stream, piece in parser.feed(memoryview(part)):
            read[stream] += piece
    return read


@given(frames=FRAMES, data=st.data())
def test_frames_come_out_whole_however_they_are_cut(
    frames: list[tuple[OutputStream, bytes]], data: st.DataObject
) -> None:
    wire = b"".join(encode(*frame) for frame in frames)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(wire)), max_size=20)))
    parts = [wire[start:end] for start, end in zip([0, *cuts], [*cuts, len(wire)], strict=True)]
    parser = FrameParser()
    expected = {
        stream: b"".join(payload for of, payload in frames if of is stream)
        for stream in OutputStream
    }
    assert parse(parser, *parts) == expected
    assert not parser.inside_frame


@given(payload=st.binary(min_size=1, max_size=30), left=st.integers(1, 30))
def test_a_frame_that_is_cut_short_is_noticed(payload: bytes, left: int) -> None:
    wire = encode(1, payload)
    parser = FrameParser()
    parse(parser, wire[: max(1, len(wire) - left)])
    assert parser.inside_frame


def test_order_between_the_streams_is_kept() -> None:
    wire = encode(1, b"a") + encode(2, b"b") + encode(1, b"c")
    pieces = [(stream, bytes(piece)) for stream, piece in FrameParser().feed(memoryview(wire))]
    assert pieces == [
        (OutputStream.STDOUT, b"a"),
        (OutputStream.STDERR, b"b"),
        (OutputStream.STDOUT, b"c"),
    ]


@pytest.mark.parametrize("header", [b"\0\0\0\0", b"\3\0\0\0", b"\1\0\0\1", b"HTTP"])
def test_what_is_no_frame(header: bytes) -> None:
    with pytest.raises(FrameError, match=header.hex()):
        list(FrameParser().feed(memoryview(header + bytes(4))))
