"""What is freed goes back to the system, tried in a process that has nothing else to do."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="other libraries have no such arenas"
)

GIVEN_BACK = """
import ctypes
from pathlib import Path
from skybridge_server import heap

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

pieces = [ctypes.create_string_buffer(100_000) for _ in range(1000)]
full = resident()
del pieces[:-1]  # the last one keeps those below it from going by themselves
before = resident()
heap.give_back()
print(full - before, before - resident())
"""

KEPT_TOGETHER = """
import ctypes, os, threading
from skybridge_server import heap

heap.keep_together()
kept, all_there = [], threading.Barrier(9)

def allocate():
    kept.append(ctypes.create_string_buffer(10_000))
    all_there.wait()

threads = [threading.Thread(target=allocate) for _ in range(8)]
for thread in threads:
    thread.start()
all_there.wait()
for thread in threads:
    thread.join()
libc = ctypes.CDLL(None)
libc.fdopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fdopen(1, b"w"))
libc.malloc_info(0, out)
libc.fflush(out)
"""


def run(program: str) -> str:
    done = subprocess.run([sys.executable, "-c", program], stdout=subprocess.PIPE, check=True)
    return done.stdout.decode()


def test_what_nobody_uses_goes_back_to_the_system() -> None:
    by_itself, when_asked = map(int, run(GIVEN_BACK).split())
    assert by_itself < 10_000_000
    assert when_asked > 80_000_000


def test_threads_share_arenas() -> None:
    assert run(KEPT_TOGETHER).count("<heap nr=") <= 2
