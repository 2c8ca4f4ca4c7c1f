"""The program of sandboxes as a process on this machine, in the network of the tests."""

from __future__ import annotations

import asyncio
import platform
import shutil
from collections.abc import AsyncIterator
from pathlib import Path

from skybridge_server.models.journal import OutputStream
from skybridge_server.runtimes.docker_engine.program import program_for

MACHINES = {"amd64": ("x86_64", 62), "arm64": ("aarch64", 183)}
HERE = next((name for name, (machine, _) in MACHINES.items() if machine == platform.machine()), "")


def emulator(architecture: str) -> str | None:
    """Return what runs programs of another architecture, if it is installed."""
    machine, _ = MACHINES[architecture]
    return shutil.which(f"qemu-{machine}-static") or shutil.which(f"qemu-{machine}")


RUNNABLE = [name for name in MACHINES if name == HERE or emulator(name)]


def command(architecture: str, folder: Path) -> list[str]:
    """Return what runs a program here: it alone, or within an emulator."""
    program = folder / "sandbox"
    program.write_bytes(program_for(architecture))
    program.chmod(0o755)
    if architecture == HERE:
        return [str(program)]
    emulating = emulator(architecture)
    assert emulating
    return [emulating, str(program)]


class ProcessAttachment:
    """The streams of a process, as those of a container."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process

    @classmethod
    async def start(cls, folder: Path) -> ProcessAttachment:
        pipe = asyncio.subprocess.PIPE
        program = command(HERE, folder)
        return cls(await asyncio.create_subprocess_exec(*program, stdin=pipe, stdout=pipe))

    @property
    def outlives_us(self) -> bool:
        return False

    async def output(self) -> AsyncIterator[tuple[OutputStream, bytes]]:
        assert self.process.stdout
        while data := await self.process.stdout.read(65536):
            yield OutputStream.STDOUT, data

    async def write(self, data: bytes) -> None:
        assert self.process.stdin
        self.process.stdin.write(data)
        await self.process.stdin.drain()

    async def close_input(self) -> None:
        assert self.process.stdin
        self.process.stdin.close()

    async def close(self) -> None:
        await self.close_input()
        await self.process.wait()
