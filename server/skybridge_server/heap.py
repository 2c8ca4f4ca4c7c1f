"""The memory of C code, which Python's objects are a part of.

glibc gives each thread an arena of its own, and keeps what is freed in them. We have two dozen
threads, which take turns at the interpreter anyway, and run for months.
"""

from __future__ import annotations

import ctypes

_ARENA_MAX = -8
"""M_ARENA_MAX of glibc's malloc.h."""
_ARENAS = 2

_libc = ctypes.CDLL(None)
_glibc = hasattr(_libc, "malloc_trim")


def keep_together() -> None:
    """Let threads share arenas, those that are started from now on."""
    if _glibc:
        _libc.mallopt(_ARENA_MAX, _ARENAS)


def give_back() -> None:
    """Give pages that nobody uses back to the system, within a millisecond or so."""
    if _glibc:
        _libc.malloc_trim(0)
