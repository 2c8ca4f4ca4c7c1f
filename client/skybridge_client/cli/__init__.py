"""The `skybridge` command; needs the extra [cli] of this package."""

from __future__ import annotations

import gc
import sys


def main() -> None:
    """Runs the command, or says how to install what it needs."""
    gc.set_threshold(10_000)  # objects; Python's 700 come with every few imports
    try:
        from skybridge_client.cli.app import run  # noqa: PLC0415 - the extra may be missing
    except ModuleNotFoundError as error:
        if error.name not in ("rich", "typer"):
            raise
        sys.exit(
            f"skybridge: the command needs {error.name}: pip install 'skybridge-faas-client[cli]'"
        )
    run()
