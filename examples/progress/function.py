"""Works for a while and tells how far it is, a line of JSON a step; its input is the steps."""

from __future__ import annotations

import json
import signal
import sys
import time
from types import FrameType

STEPS = 10
SECONDS = 0.3


def say(**facts: object) -> None:
    # Flushed: Python keeps back what it prints into a pipe.
    print(json.dumps(facts), flush=True)


def stop(_: int, __: FrameType | None) -> None:
    raise SystemExit("told to stop")


def main() -> None:
    # An execution that is cancelled, or takes too long, gets SIGTERM and 5 s to end well.
    signal.signal(signal.SIGTERM, stop)
    steps = int(sys.stdin.read().strip() or STEPS)
    done = 0
    try:
        for done in range(1, steps + 1):
            time.sleep(SECONDS)
            say(done=done, of=steps)
    finally:
        say(finished=done == steps, done=done)


if __name__ == "__main__":
    main()
