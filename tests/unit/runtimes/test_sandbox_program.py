from __future__ import annotations

import errno
import io
import socket
import struct
import subprocess
import tarfile
from collections import deque
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sandbox_program

from skybridge_server.runtimes.docker_engine.program import ARCHITECTURES, program_for
from skybridge_server.runtimes.docker_engine.relay_frames import (
    PAYLOAD_BYTES,
    WINDOW,
    Frame,
    Kind,
    RelayParser,
    data,
    word,
)
from skybridge_server.runtimes.docker_engine.sandbox_image import layer_of
from tests.support.ports import free_port
from tests.unit.runtimes.sandbox_process import MACHINES, RUNNABLE, command

PATIENCE = 30.0
MOST_ENDS = 128
REPORTED = ("dev", "snmp", "snmp6", "netstat", "unix")


class Program:
    """A program that runs, and the frames that it writes."""

    def __init__(self, arguments: list[str]) -> None:
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(arguments, stdin=pipe, stdout=pipe, bufsize=0)
        self._parser = RelayParser()
        self._frames: deque[Frame] = deque()

    def send(self, *frames: bytes) -> None:
        assert self.process.stdin
        rest = memoryview(b"".join(frames))
        while rest:
            rest = rest[self.process.stdin.write(rest) :]

    def receive(self) -> Frame:
        assert self.process.stdout
        while not self._frames:
            received = self.process.stdout.read(65536)
            assert received, "it has ended"
            self._frames.extend(self._parser.feed(received))
        return self._frames.popleft()

    def ask(self, frame: bytes) -> Frame:
        self.send(frame)
        return self.receive()

    def report(self) -> bytes:
        self.send(word(0, Kind.REPORT))
        pieces = iter(lambda: self.receive().payload, b"")
        return b"".join(pieces)

    def receive_data(self, size: int) -> bytes:
        received = b""
        while len(received) < size:
            frame = self.receive()
            assert frame.kind is Kind.DATA
            received += frame.payload
        return received

    def close(self) -> int:
        assert self.process.stdin
        assert self.process.stdout
        self.process.stdin.close()
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return code


@pytest.fixture(params=RUNNABLE)
def program(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Program]:
    made = Program(command(request.param, tmp_path))
    yield made
    made.close()


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(PATIENCE)
        yield made


def connect(program: Program, listening: socket.socket, number: int = 1) -> socket.socket:
    """Let the program connect; return the other side."""
    port = listening.getsockname()[1]
    assert program.ask(word(number, Kind.CONNECT, port)) == (number, Kind.OPENED, 0, b"")
    made, _ = listening.accept()
    made.settimeout(PATIENCE)
    return made


def test_it_reports_whenever_it_is_asked_and_ends_with_its_input(program: Program) -> None:
    for _ in range(2):
        namespace, boot, rest = program.report().split(b"\n", 2)
        assert namespace.decode() == str(Path("/proc/self/ns/net").readlink())
        assert boot.decode() == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        for file in REPORTED:
            head = Path("/proc/net", file).read_text().splitlines()[0]
            assert head[:20].encode() in rest
    assert program.close() == 0


def test_a_connection_ends_by_halves(program: Program, listening: socket.socket) -> None:
    with connect(program, listening) as function:
        program.send(data(1, b"question"), word(1, Kind.END))
        assert function.makefile("rb").read() == b"question"
        function.sendall(b"answer")
        assert program.receive() == (1, Kind.DATA, 6, b"answer")
        function.close()
        assert program.receive() == (1, Kind.END, 0, b"")
    program.send(data(1, b"late"), word(1, Kind.TAKEN, 6), word(1, Kind.END), word(1, Kind.CLOSE))
    assert program.report()  # it minds none of this


def test_what_nothing_listens_on(program: Program) -> None:
    refused = program.ask(word(7, Kind.CONNECT, free_port()))
    assert refused == (7, Kind.FAILED, errno.ECONNREFUSED, b"")


def test_it_accepts_until_it_is_told_to_stop(program: Program) -> None:
    port = free_port()
    assert program.ask(word(1, Kind.LISTEN, port)).kind is Kind.OPENED
    assert program.ask(word(2, Kind.LISTEN, port)) == (2, Kind.FAILED, errno.EADDRINUSE, b"")
    numbers = set()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as function:
            function.settimeout(PATIENCE)
            accepted = program.receive()
            assert (accepted.kind, accepted.value) == (Kind.ACCEPTED, port)
            numbers.add(accepted.connection)
            program.send(data(accepted.connection, b"hello"), word(accepted.connection, Kind.CLOSE))
            assert function.makefile("rb").read() == b"hello"
    assert len(numbers - {1, 2}) == 3
    program.send(word(1, Kind.CLOSE))
    assert program.report()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port))


def test_who_does_not_read_holds_back_only_himself(
    program: Program, listening: socket.socket
) -> None:
    pieces = [bytes([n]) * PAYLOAD_BYTES for n in range(WINDOW // PAYLOAD_BYTES)]
    with connect(program, listening, 1) as slow, connect(program, listening, 2) as quick:
        sent = b""
        taken = WINDOW
        while taken >= WINDOW:  # until less is taken than was sent
            program.send(*(data(1, piece) for piece in pieces))
            sent += b"".join(pieces)
            program.send(data(2, b"ping"))
            assert quick.recv(4) == b"ping"
            quick.sendall(b"pong")
            taken = 0
            while (frame := program.receive()).kind is Kind.TAKEN:
                taken += frame.value
            assert frame == (2, Kind.DATA, 4, b"pong")
            program.send(word(2, Kind.TAKEN, 4))
            if taken < WINDOW:
                break
        program.send(word(1, Kind.END))
        assert slow.makefile("rb").read() == sent


def test_it_reads_no_more_than_the_server_takes(program: Program, listening: socket.socket) -> None:
    with connect(program, listening) as function:
        function.sendall(bytes(WINDOW + 10))
        assert program.receive_data(WINDOW) == bytes(WINDOW)
        assert program.report()  # and nothing else before it
        program.send(word(1, Kind.TAKEN, 10))
        assert program.receive_data(10) == bytes(10)


def test_another_server_finds_nothing_of_the_one_before(
    program: Program, listening: socket.socket
) -> None:
    port = free_port()
    assert program.ask(word(1, Kind.LISTEN, port)).kind is Kind.OPENED
    with connect(program, listening, 2) as function, connect(program, listening, 3) as other:
        program.send(word(0, Kind.RESET))
        assert (function.recv(1), other.recv(1)) == (b"", b"")
    assert program.ask(word(1, Kind.LISTEN, port)).kind is Kind.OPENED
    with connect(program, listening, 2) as function:
        program.send(data(2, b"hello"), word(2, Kind.END))
        assert function.makefile("rb").read() == b"hello"


def test_a_connection_that_is_reset(program: Program, listening: socket.socket) -> None:
    with closing(connect(program, listening)) as function:
        function.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    assert program.receive() == (1, Kind.CLOSE, errno.ECONNRESET, b"")


def test_more_than_it_has_room_for(program: Program, listening: socket.socket) -> None:
    others = [connect(program, listening, number) for number in range(1, MOST_ENDS + 1)]
    one_more = word(MOST_ENDS + 1, Kind.CONNECT, listening.getsockname()[1])
    assert program.ask(one_more) == (MOST_ENDS + 1, Kind.FAILED, errno.EMFILE, b"")
    others.pop().close()
    assert program.receive() == (MOST_ENDS, Kind.END, 0, b"")
    program.send(word(MOST_ENDS, Kind.END))
    others.append(connect(program, listening, MOST_ENDS + 1))
    for other in others:
        other.close()


@pytest.mark.parametrize(
    "frames",
    [
        [word(1, Kind.OPENED)],
        [struct.pack("<II", 1, 99 << 24)],
        [word(1, Kind.DATA, PAYLOAD_BYTES + 1)],
    ],
    ids=["not its to take", "unknown", "too long"],
)
def test_what_no_server_sends(program: Program, frames: list[bytes]) -> None:
    program.send(*frames)
    assert program.close() == 1


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_it_is_a_static_executable_made_of_its_source(architecture: str) -> None:
    program = program_for(architecture)
    assert program.startswith(b"\x7fELF\x02\x01\x01")
    kind, machine = struct.unpack_from("<HH", program, 16)
    assert (kind, machine) == (2, MACHINES[architecture][1])
    assert b"/ld-" not in program  # it needs no loader
    assert sandbox_program.fingerprint().encode() in program


def test_its_layer_is_the_same_each_time() -> None:
    made = layer_of(program_for("amd64"))
    assert made == layer_of(program_for("amd64")) != layer_of(program_for("arm64"))
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        (entry,) = archive.getmembers()
        assert (entry.name, entry.mode, entry.uid) == ("sandbox", 0o755, 0)
