"""What the next process must know of our instances, should this one be killed.

Only an instance that does nothing may be taken over, and what is busy the database does not know:
executions on idle instances are stored when they end. So each instance has a record in a file that
is mapped to memory: a store to it costs a fraction of a microsecond, and outlives this process. It
need not outlive the machine: neither do containers.
"""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from uuid import UUID

MAGIC = b"skybridge instances 1\n".ljust(32)
"""Counted up where records, or what makes an instance safe to take over, change."""
RECORD_BYTES = 128
EPOCH = datetime.fromtimestamp(0, UTC)
MICROSECOND = timedelta(microseconds=1)

_FREE, _BUSY, _IDLE = 0x00, 0x5A, 0xA5
_EXECUTIONS = struct.Struct("<I")
_EXECUTIONS_AT, _FACTS_AT = 4, 16
_FACTS = struct.Struct("<16s16sIqqqqI")
_CHECKSUM = struct.Struct("<I")


@dataclass(frozen=True, slots=True)
class Facts:
    """What never changes of an instance that is ready."""

    instance: str
    """A UUID, as is `function_uid`."""
    function_uid: str
    revision: int
    revision_time: datetime
    create_time: datetime
    start: timedelta
    init: timedelta
    processes: int
    """How many it had when it was ready; 0: unknown."""


@dataclass(frozen=True, slots=True)
class Left:
    """An instance that did nothing when its process ended."""

    facts: Facts
    executions: int
    """How many it had taken."""
    slot: int


class Mark:
    """The record of one instance."""

    __slots__ = ("_free", "_memory", "_slot", "_state_at")

    def __init__(self, memory: mmap.mmap | bytearray, slot: int, free: list[int]) -> None:
        """`free` gets the slot back."""
        self._memory = memory
        self._slot = slot
        self._free = free
        self._state_at = _place(slot)

    def busy(self) -> None:
        """Note that nobody else may use it; before an execution is handed to it."""
        self._memory[self._state_at] = _BUSY

    def idle(self, executions: int) -> None:
        """Note that it does nothing, and how many executions it has taken."""
        _EXECUTIONS.pack_into(self._memory, self._state_at + _EXECUTIONS_AT, executions)
        self._memory[self._state_at] = _IDLE

    def free(self) -> None:
        """Forget it; it is used no more."""
        self._memory[self._state_at] = _FREE
        self._free.append(self._slot)


def unmarked() -> Mark:
    """Return the mark of an instance of which no later process shall know."""
    return Mark(bytearray(_place(1)), 0, [])


class Marks:
    """All records. For the event loop alone."""

    def __init__(self, memory: mmap.mmap | bytearray) -> None:
        """Take what is mapped; what says nothing that can be relied on is overwritten."""
        slots = range((len(memory) - len(MAGIC)) // RECORD_BYTES)
        known = memory[: len(MAGIC)] == MAGIC
        found = [_read(memory, slot) for slot in slots] if known else []
        self.left = {each.facts.instance: each for each in found if each is not None}
        """What an earlier process left, until it is decided what becomes of it; by instance."""
        self.decided: set[str] = set()
        """The engines that have nothing more to be taken over. No mark says which has its own."""
        self._memory = memory
        self._free: list[int] = []
        for slot in {*slots} - {each.slot for each in self.left.values()}:
            Mark(memory, slot, self._free).free()
        memory[: len(MAGIC)] = MAGIC

    @classmethod
    def none(cls) -> Marks:
        """Return marks of which no later process will know."""
        return cls(bytearray(MAGIC))

    @classmethod
    def open(cls, path: Path, instances: int) -> Marks:
        """Map a file with room for so many instances, and for as many that are left. OSError."""
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
        try:
            size = max(_place(2 * instances), os.fstat(descriptor).st_size)
            # Who writes to mapped memory for which the disk has no room is killed.
            os.posix_fallocate(descriptor, 0, size)
            return cls(mmap.mmap(descriptor, size))
        finally:
            os.close(descriptor)

    def await_decision(self, revision: int, revision_time: datetime, engine: str) -> bool:
        """Tell whether it is not decided yet what becomes of instances of a revision."""
        if engine in self.decided:
            return False
        wanted = (revision, revision_time)
        facts = (left.facts for left in self.left.values())
        return any((each.revision, each.revision_time) == wanted for each in facts)

    def begin(self, facts: Facts) -> Mark:
        """Return the mark of an instance that is ready; until it says more, that is busy."""
        if not self._free:
            return unmarked()
        slot = self._free.pop()
        mark = Mark(self._memory, slot, self._free)
        mark.busy()
        at = _place(slot) + _FACTS_AT
        self._memory[at : at + _FACTS.size + _CHECKSUM.size] = _packed(facts)
        return mark

    def adopt(self, left: Left) -> Mark:
        """Return the mark of an instance that is to be taken over."""
        del self.left[left.facts.instance]
        return Mark(self._memory, left.slot, self._free)


def _place(slot: int) -> int:
    return len(MAGIC) + slot * RECORD_BYTES


def _packed(facts: Facts) -> bytes:
    packed = _FACTS.pack(
        UUID(facts.instance).bytes,
        UUID(facts.function_uid).bytes,
        facts.revision,
        (facts.revision_time - EPOCH) // MICROSECOND,
        (facts.create_time - EPOCH) // MICROSECOND,
        facts.start // MICROSECOND,
        facts.init // MICROSECOND,
        facts.processes,
    )
    return packed + _CHECKSUM.pack(zlib.crc32(packed))


def _read(memory: mmap.mmap | bytearray, slot: int) -> Left | None:
    """Return what a slot says of an instance that may be taken over; None: nothing."""
    at = _place(slot)
    if memory[at] != _IDLE:
        return None
    (executions,) = _EXECUTIONS.unpack_from(memory, at + _EXECUTIONS_AT)
    packed = memory[at + _FACTS_AT : at + _FACTS_AT + _FACTS.size]
    (checksum,) = _CHECKSUM.unpack_from(memory, at + _FACTS_AT + _FACTS.size)
    if zlib.crc32(packed) != checksum:
        return None
    instance, function, revision, revised, created, start, init, processes = _FACTS.unpack(packed)
    try:
        facts = Facts(
            instance=str(UUID(bytes=instance)),
            function_uid=str(UUID(bytes=function)),
            revision=revision,
            revision_time=EPOCH + revised * MICROSECOND,
            create_time=EPOCH + created * MICROSECOND,
            start=start * MICROSECOND,
            init=init * MICROSECOND,
            processes=processes,
        )
    except OverflowError:
        return None
    return Left(facts, executions, slot)
