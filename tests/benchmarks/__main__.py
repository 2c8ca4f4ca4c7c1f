"""Measures the server against floors taken in the same run, and prints each figure as a ratio.

Run all, or some by name: cold, output, management, idle, warm, wire. Needs an engine and a quiet
machine.
"""

from __future__ import annotations

import argparse

import uvloop

from tests.benchmarks import cold, idle, management, output, warm, wire

BENCHMARKS = {
    "cold": cold.run,
    "output": output.run,
    "management": management.run,
    "idle": idle.run,
    "warm": warm.run,
    "wire": wire.run,
}


async def _measure(names: list[str]) -> None:
    for name in names:
        for result in await BENCHMARKS[name]():
            print(result, flush=True)


def main() -> None:
    """Run the benchmarks that are asked for."""
    parser = argparse.ArgumentParser(prog="scripts/bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="which to run; all by default")
    names = parser.parse_args().names or list(BENCHMARKS)
    unknown = set(names) - set(BENCHMARKS)
    if unknown:
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}: there are {', '.join(BENCHMARKS)}"
        )
    uvloop.run(_measure(names))


if __name__ == "__main__":
    main()
