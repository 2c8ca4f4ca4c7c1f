"""The server's end of a connection that the program of a sandbox carries."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

from skybridge_server.runtimes.docker_engine.relay_frames import (
    PAYLOAD_BYTES,
    WINDOW,
    Frame,
    Kind,
    data,
    word,
)


class RelayedConnection(asyncio.Protocol):
    """Carries bytes between one of a pair of sockets, whose other one is in use, and frames."""

    def __init__(
        self,
        number: int,
        send: Callable[[bytes], None],
        forget: Callable[[int], object],
    ) -> None:
        """`send` takes frames; `forget` is called once, when the connection is over."""
        self.number = number
        self._send = send
        self._forget = forget
        self._transport: asyncio.Transport
        self._over = False
        # From here to the program.
        self._waiting = bytearray()
        self._credit = WINDOW
        self._paused = False
        self._here_ended = False
        self._told_end = False
        # From the program to here.
        self._untold = 0
        self._full = False
        self._there_ended = False

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=WINDOW // 2)

    def data_received(self, received: bytes) -> None:
        self._waiting += received
        self._pass_on()

    def eof_received(self) -> bool:
        self._here_ended = True
        self._pass_on()
        return True  # the other direction may go on

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002 - asyncio's signature
        if not self._over:
            self._send(word(self.number, Kind.CLOSE))
            self._end()

    def pause_writing(self) -> None:
        self._full = True

    def resume_writing(self) -> None:
        self._full = False
        self._tell_taken()

    # What the relay calls.

    def take(self, frame: Frame) -> None:
        """Do what the program says."""
        if frame.kind is Kind.DATA:
            self._transport.write(frame.payload)
            self._untold += frame.value
            self._tell_taken()
        elif frame.kind is Kind.TAKEN:
            self._credit += frame.value
            self._pass_on()
        elif frame.kind is Kind.END:
            self._there_ended = True
            self._transport.write_eof()
            self._end_if_both_did()
        elif frame.kind is Kind.CLOSE:
            self.lose()

    def lose(self) -> None:
        """Let go of it at once; who uses it sees its end."""
        self._end()
        self._transport.abort()

    def _pass_on(self) -> None:
        """Send what may be sent, and read on if nothing waits any more."""
        while self._waiting and self._credit:
            piece = self._waiting[: min(self._credit, PAYLOAD_BYTES)]
            del self._waiting[: len(piece)]
            self._credit -= len(piece)
            self._send(data(self.number, piece))
        if bool(self._waiting) is not self._paused:
            self._paused = not self._paused
            if self._paused:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()
        if self._here_ended and not self._waiting and not self._told_end:
            self._told_end = True
            self._send(word(self.number, Kind.END))
            self._end_if_both_did()

    def _tell_taken(self) -> None:
        if not self._full and self._untold >= WINDOW // 2:
            self._send(word(self.number, Kind.TAKEN, self._untold))
            self._untold = 0

    def _end_if_both_did(self) -> None:
        if self._told_end and self._there_ended:
            self._end()
            self._transport.close()  # once what came is written

    def _end(self) -> None:
        if not self._over:
            self._over = True
            self._forget(self.number)
