from __future__ import annotations

import io
import platform
import shutil
import struct
import subprocess
import tarfile
from pathlib import Path

import pytest

from skybridge_server.runtimes.docker_engine.sandbox_image import layer_of
from skybridge_server.runtimes.docker_engine.sandbox_program import END, PROGRAMS, REPORTED
from tests.support.waiting import PATIENCE

MACHINES = {"amd64": ("x86_64", 62), "arm64": ("aarch64", 183)}


def command(architecture: str, program: Path) -> list[str]:
    """Return what runs a program here: it alone, or within an emulator."""
    machine, _ = MACHINES[architecture]
    if platform.machine() == machine:
        return [str(program)]
    emulator = shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")
    if not emulator:
        pytest.skip(f"neither a machine nor an emulator for {machine}")
    return [emulator, str(program)]


@pytest.mark.parametrize("architecture", PROGRAMS)
@pytest.mark.parametrize("requests", [b"", b"?", b"??"])
def test_it_reports_once_for_each_byte_and_ends_with_its_input(
    architecture: str, requests: bytes, tmp_path: Path
) -> None:
    program = tmp_path / "sandbox"
    program.write_bytes(PROGRAMS[architecture])
    program.chmod(0o755)
    ran = subprocess.run(
        command(architecture, program),
        input=requests,
        capture_output=True,
        check=True,
        timeout=PATIENCE,
    )
    assert ran.stderr == b""
    *reports, rest = ran.stdout.split(END)
    assert rest == b""
    assert len(reports) == len(requests)
    for report in reports:
        for file in REPORTED:
            head = Path(file).read_text().splitlines()[0]
            assert head[:20].encode() in report


@pytest.mark.parametrize("architecture", PROGRAMS)
def test_it_is_an_executable_of_one_segment(architecture: str) -> None:
    program = PROGRAMS[architecture]
    assert program.startswith(b"\x7fELF\x02\x01\x01")
    kind, machine, _, entry, first_header = struct.unpack_from("<HHIQQ", program, 16)
    assert (kind, machine, first_header) == (2, MACHINES[architecture][1], 64)
    loaded, rights, offset, address, _, in_file, in_memory = struct.unpack_from(
        "<IIQQQQQ", program, 64
    )
    assert (loaded, rights, offset) == (1, 5, 0)  # to be read and executed, never written
    assert in_file == in_memory == len(program)
    assert entry == address + 64 + 56  # right behind both headers
    assert program.endswith(b"\0".join(path.encode() for path in REPORTED) + b"\0\0")


def test_its_layer_is_the_same_each_time() -> None:
    made = layer_of(PROGRAMS["amd64"])
    assert made == layer_of(PROGRAMS["amd64"]) != layer_of(PROGRAMS["arm64"])
    with tarfile.open(fileobj=io.BytesIO(made)) as archive:
        (entry,) = archive.getmembers()
        assert (entry.name, entry.mode, entry.uid) == ("sandbox", 0o755, 0)
