from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.docker_engine.log_lines import PIECE_BYTES, LogParser

STDOUT, STDERR = OutputStream
PIECES = st.lists(st.integers(0, 3 * PIECE_BYTES).map(bytes) | st.binary(max_size=50), max_size=6)


def frame(stream: OutputStream, data: bytes) -> bytes:
    return bytes([stream, 0, 0, 0]) + len(data).to_bytes(4, "big") + data


def entries(output: bytes, *, forgetful: bool) -> list[bytes]:
    """Return what an engine sends of an output: lines, long ones in pieces."""
    found = []
    *lines, rest = output.split(b"\n")
    for line in lines:
        *pieces, last = cut(line)
        found += pieces
        found.append(last if pieces and forgetful else last + b"\n")
    return found + ([piece for piece in cut(rest) if piece])


def cut(line: bytes) -> list[bytes]:
    """Cut a line as an engine does, whose buffer holds so much: the last piece is shorter."""
    count = len(line) // PIECE_BYTES
    return [line[n * PIECE_BYTES : (n + 1) * PIECE_BYTES] for n in range(count + 1)]


def chunked(data: bytes, size: int) -> bytes:
    """Return a body as HTTP sends it in chunks."""
    parts = [data[n : n + size] for n in range(0, len(data), size)] + [b""]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts)


def parse(parser: LogParser, sent: bytes, step: int) -> dict[OutputStream, bytes]:
    read = {STDOUT: b"", STDERR: b""}
    for n in range(0, len(sent), step):
        for stream, piece in parser.feed(memoryview(sent[n : n + step])):
            read[stream] += piece
    return read


@given(
    pieces=PIECES,
    forgetful=st.booleans(),
    chunk=st.sampled_from([7, 1000, 10**6]),
    step=st.sampled_from([1, 13, 4096, 10**6]),
)
def test_output_comes_back_as_it_was(
    pieces: list[bytes], *, forgetful: bool, chunk: int, step: int
) -> None:
    output = b"\n".join(pieces)
    sent = b"".join(frame(STDOUT, each) for each in entries(output, forgetful=forgetful))
    parser = LogParser()
    read = parse(parser, chunked(sent, chunk), max(step, len(sent) // 2000))[STDOUT]
    assert not parser.inside_frame
    if parser.doubtful:
        assert output in {read, read + b"\n"}
        assert len(output.split(b"\n")[-1] or output.split(b"\n")[-2]) >= PIECE_BYTES
    else:
        assert read == output


def test_a_newline_is_given_back_when_more_follows() -> None:
    parser = LogParser()
    long = [b"x" * PIECE_BYTES, b"y"]
    sent = b"".join(frame(STDOUT, each) for each in [*long, b"z\n"])
    assert parse(parser, chunked(sent, 100), 100)[STDOUT] == b"x" * PIECE_BYTES + b"y\nz\n"
    assert not parser.doubtful


def test_streams_do_not_mix() -> None:
    parser = LogParser()
    sent = (
        frame(STDOUT, b"x" * PIECE_BYTES)
        + frame(STDERR, b"err")
        + frame(STDOUT, b"")
        + frame(STDERR, b"")
    )
    read = parse(parser, chunked(sent, 100), 100)
    assert read == {STDOUT: b"x" * PIECE_BYTES, STDERR: b"err"}
    assert parser.doubtful == {STDOUT}


def test_an_end_before_the_last_chunk_is_too_early() -> None:
    parser = LogParser()
    sent = chunked(frame(STDOUT, b"x\n"), 100)
    assert parse(parser, sent[:-5], 1)[STDOUT] == b"x\n"
    assert parser.inside_frame
    parse(parser, sent[-5:], 1)
    assert not parser.inside_frame


def test_it_knows_how_large_the_log_is() -> None:
    parser = LogParser()
    parse(parser, chunked(frame(STDOUT, b"\n") * 10, 100), 100)
    assert parser.log_bytes > 10 * (1 + 64)
