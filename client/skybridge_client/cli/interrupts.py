"""Ctrl-C ends a command, wherever it is."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

from skybridge_client.client import Client


def on_ctrl_c(handle: Callable[[int, FrameType | None], None]) -> Any:
    """Sets what Ctrl-C does, and returns what it did before.

    Where it is ignored, as a shell has it for a job in the background, it stays so.
    """
    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, handle)
    return before


class Interrupts:
    """Raises KeyboardInterrupt on Ctrl-C, at the latest when its block is left.

    Python raises it in whatever the command does at the moment. In a call that may be a place
    which loses exceptions, and the command would go on as if nothing had happened. So the client
    is closed, which ends every call, and the interrupt is raised once more at the end.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._came = False

    def __enter__(self) -> Self:
        self._before = on_ctrl_c(self._interrupted)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)
        if self._came:
            raise KeyboardInterrupt

    def _interrupted(self, _: int, __: FrameType | None) -> None:
        self._came = True
        # In a thread, since a signal handler must not wait for locks that its thread may hold.
        threading.Thread(target=self._client.close, daemon=True).start()
        raise KeyboardInterrupt
