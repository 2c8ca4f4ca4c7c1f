"""What goes to the stdin of an attached execution, and how it survives a cut. Does no I/O."""

from __future__ import annotations

from collections import deque

from skybridge.faas.v1.execution_pb2 import ExecutionEvent, InputAck
from skybridge.faas.v1.execution_service_pb2 import AttachExecutionRequest, InputChunk, Signal
from skybridge_client.feeding import Put, drop

CHUNK_BYTES = 64 * 1024
KEPT_BYTES = 1024 * 1024
"""Bytes that may be under way: as many are kept for a repeat, then the source has to wait."""


class Stdin:
    """The input that the server has not yet taken, and the connection that it goes to."""

    at_once = False

    def __init__(self) -> None:
        self._kept: deque[InputChunk] = deque()
        self._end = 0
        self._taken = 0
        self._closed = False
        self._put: Put = drop

    @property
    def full(self) -> bool:
        """Whether too much is under way to add more."""
        return self._end - self._taken >= KEPT_BYTES

    def connect(self, put: Put) -> None:
        """Ends the connection before, and sends everything that is not yet taken over a new one.

        The server skips what it has taken and we do not know of: each chunk has its offset.
        """
        self._put(None)
        self._put = put
        for chunk in self._kept:
            put(AttachExecutionRequest(input=chunk))
        if self._closed:
            put(None)

    def disconnect(self) -> None:
        """Ends the connection; what is written from now on goes nowhere."""
        self._put(None)
        self._put = drop

    def write(self, item: bytes | Signal) -> None:
        """Sends bytes, or a signal; a signal that meets a cut is lost, since twice is worse."""
        if isinstance(item, Signal):
            self._put(AttachExecutionRequest(signal=item))
            return
        for start in range(0, len(item), CHUNK_BYTES):
            data = item[start : start + CHUNK_BYTES]
            self._send(InputChunk(offset=self._end, data=data))
            self._end += len(data)

    def close(self) -> None:
        """Sends the end of stdin."""
        self._send(InputChunk(offset=self._end, end_of_input=True))
        self._closed = True
        self._put(None)

    def note(self, answer: ExecutionEvent) -> None:
        """Learns from an event how much the server has taken."""
        if answer.HasField("input_ack"):
            self.taken(answer.input_ack)

    def merge(self, message: object, following: object) -> bool:  # noqa: ARG002 - never
        """Each goes by itself: chunks are big already."""
        return False

    def taken(self, ack: InputAck) -> None:
        """Forgets what the server has handed to the container."""
        self._taken = max(self._taken, ack.committed_bytes)
        while self._kept and _is_taken(self._kept[0], ack):
            self._kept.popleft()

    def _send(self, chunk: InputChunk) -> None:
        self._kept.append(chunk)
        self._put(AttachExecutionRequest(input=chunk))


def _is_taken(chunk: InputChunk, ack: InputAck) -> bool:
    if chunk.end_of_input:
        return ack.closed
    return chunk.offset + len(chunk.data) <= ack.committed_bytes
