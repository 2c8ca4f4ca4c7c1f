"""Measures the server against floors taken in the same run, and prints each figure as a ratio.

Run all, or some by name: cold, output, management, idle, backlog, stored, warm, wire. Needs an
engine and a quiet machine.
"""

from __future__ import annotations

import argparse
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import uvloop

from tests.benchmarks import backlog, cold, idle, management, output, stored, warm, wire
from tests.benchmarks.harness import Result

BENCHMARKS: dict[str, Callable[[], Awaitable[list[Result]]]] = {
    "cold": cold.run,
    "output": output.run,
    "management": management.run,
    "idle": idle.run,
    "backlog": backlog.run,
    "stored": stored.run,
    "warm": warm.run,
    "wire": wire.run,
}


async def _measure(benchmarks: list[Callable[[], Awaitable[list[Result]]]]) -> None:
    for benchmark in benchmarks:
        for result in await benchmark():
            print(result, flush=True)


def main() -> None:
    """Run the benchmarks that are asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run; all by default")
    parser.add_argument(
        "--picture", type=Path, metavar="FILE", help="draw what `warm` finds into this SVG"
    )
    asked = parser.parse_args()
    unknown = set(asked.names) - set(BENCHMARKS)
    if unknown:
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(BENCHMARKS)}"
        )
    benchmarks = BENCHMARKS | {"warm": partial(warm.run, asked.picture)}
    uvloop.run(_measure([benchmarks[name] for name in asked.names or BENCHMARKS]))


if __name__ == "__main__":
    main()
