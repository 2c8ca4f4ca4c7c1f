"""Blocks of headers, against the library's own encoder and decoder."""

from __future__ import annotations

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.http2.errors import BadConnectionError, BadStreamError, ErrorCode
from skybridge_server.http2.headers import MAX_HEADERS_BYTES, HeaderReader, Headers, block

PATH = (b":path", b"/a.B/C")
names = st.sampled_from([b"a", b"b-bin", b"grpc-timeout", b":path", b"te", b"x" * 300])
values = st.sampled_from([b"", b"1", b"/a.B/C", b"trailers", b"v" * 1_500]) | st.binary(max_size=9)
lists = st.lists(st.tuples(names, values), max_size=6)
sizes = st.none() | st.sampled_from([0, 40, 64, 400, 4_096])


def reader() -> HeaderReader[Headers]:
    return HeaderReader(lambda headers: headers)


@given(st.lists(st.tuples(lists, sizes, st.booleans(), st.booleans()), max_size=30))
def test_blocks_mean_what_the_encoder_meant(
    said: list[tuple[list[tuple[bytes, bytes]], int | None, bool, bool]],
) -> None:
    """Whatever is added, evicted and resized in between, by requests and by trailers."""
    encoder, ours = hpack.Encoder(), reader()
    for headers, size, huffman, trailers in said:
        if size is not None:
            encoder.header_table_size = size
        written = encoder.encode(headers, huffman=huffman)
        assert (ours.decode if trailers else ours.read)(written) == tuple(headers)


@given(st.lists(st.binary(max_size=12) | st.sampled_from([b"\xbe", b"\x82\xbf", b"\x20"])))
def test_blocks_of_any_bytes_mean_what_the_library_says(blocks: list[bytes]) -> None:
    theirs, ours = hpack.Decoder(), reader()
    for written in blocks:
        try:
            expected = tuple(theirs.decode(written, raw=True))
        except hpack.HPACKError:
            with pytest.raises(BadConnectionError):
                ours.read(written)
            return
        assert ours.read(written) == expected


def test_the_same_block_is_the_same_object() -> None:
    encoder, ours = hpack.Encoder(), reader()
    blocks = [encoder.encode([PATH]) for _ in range(3)]
    assert blocks[0] != blocks[1] == blocks[2]
    assert ours.read(blocks[0]) == (PATH,)
    assert ours.read(blocks[1]) is ours.read(blocks[2])


def test_trailers_that_fill_the_table_change_what_blocks_mean() -> None:
    encoder, ours = hpack.Encoder(), reader()
    ours.decode(encoder.encode([(b"a", b"1")]))
    newest = b"\xbe"  # the first index of the table that changes
    assert ours.read(newest) == ours.read(newest) == ((b"a", b"1"),)
    ours.decode(encoder.encode([(b"a", b"2")]))
    assert ours.read(newest) == ((b"a", b"2"),)


def test_what_is_remembered_is_limited() -> None:
    """A caller whose headers are never the same makes the reader forget, not grow."""
    ours = reader()
    first = block([(b"n", b"0")])
    kept = ours.read(first)
    for number in range(1_000):
        ours.read(block([(b"n", b"%d" % number * 9)]))
    assert ours.read(first) == kept
    assert ours.read(first) is not kept


def test_headers_that_are_wrong_are_not_remembered() -> None:
    def parse(_: Headers) -> Headers:
        raise BadStreamError(ErrorCode.PROTOCOL_ERROR, "always")

    ours = HeaderReader(parse)
    for _ in range(2):
        with pytest.raises(BadStreamError):
            ours.read(block([PATH]))


def test_a_bomb_of_references_is_refused() -> None:
    encoder, ours = hpack.Encoder(), reader()
    ours.read(encoder.encode([(b"n", b"v" * 4_000)]))
    with pytest.raises(BadStreamError) as refused:
        ours.read(b"\xbe" * 5)
    assert refused.value.code is ErrorCode.ENHANCE_YOUR_CALM
    assert ours.read(b"\x82") == ((b":method", b"GET"),)
    with pytest.raises(BadConnectionError) as ended:
        ours.read(b"\xbe" * 1_000)
    assert ended.value.code is ErrorCode.ENHANCE_YOUR_CALM


@pytest.mark.parametrize(
    "written",
    [
        b"\xff" * MAX_HEADERS_BYTES,  # a number without an end
        b"\x7f" + b"\x80" * 10_000 + b"\x01",
        b"\xc0",  # an index that there is not
        b"\x3f\xff\xff\x03",  # a table larger than we said
        b"\x00\x05a",
    ],
)
def test_blocks_that_are_none(written: bytes) -> None:
    with pytest.raises(BadConnectionError) as caught:
        reader().read(written)
    assert caught.value.code is ErrorCode.COMPRESSION_ERROR


@given(lists, st.lists(st.tuples(names, st.binary(max_size=20_000)), max_size=1))
def test_blocks_that_we_write(headers: Headers, long: Headers) -> None:
    written = block([*headers, *long])
    decoder = hpack.Decoder(max_header_list_size=1 << 20)
    assert list(decoder.decode(written, raw=True)) == [*headers, *long]
