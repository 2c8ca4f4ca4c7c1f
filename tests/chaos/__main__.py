"""Runs chaos and prints what came of it; see scripts/chaos."""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
from pathlib import Path

from tests.chaos.run import chaos

SHORT, LONG = 110, 1250
"""Seconds of harm; starting and looking at it all takes a minute more, or seven at most."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="scripts/chaos", description=__doc__)
    parser.add_argument("--long", action="store_true", help=f"{LONG} s instead of {SHORT} s")
    parser.add_argument("--seconds", type=float, help="how long")
    parser.add_argument("--seed", type=int, help="repeat the deeds of an earlier run")
    asked = parser.parse_args()
    seed = random.randrange(2**32) if asked.seed is None else asked.seed
    seconds = asked.seconds or (LONG if asked.long else SHORT)
    print(f"chaos for {seconds:g} s, --seed {seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="skybridge-chaos-") as folder:
        report = asyncio.run(chaos(Path(folder), seconds, seed))
        print(report)
    if asked.long and report.not_crashed_at:
        print("there was time to crash at every point, and not all were reached")
        return 1
    return 0 if report.findings.good else 1


if __name__ == "__main__":
    sys.exit(main())
