"""A first function: it greets each name on its input, one a line, as it comes."""

from __future__ import annotations

import sys


def greet(name: str) -> str:
    return f"Hello, {name.strip()}!"


def main() -> None:
    greeted = 0
    for name in sys.stdin:
        # stdout is the output, and flushed it is seen at once.
        print(greet(name), flush=True)
        greeted += 1
    if not greeted:
        print(greet("world"))
    # stderr is the log.
    print(f"names on the input: {greeted}", file=sys.stderr)


if __name__ == "__main__":
    main()
