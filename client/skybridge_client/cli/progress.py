"""Progress on stderr: bars on a terminal, a line for each step elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from skybridge_client.cli.text import size
from skybridge_client.messages import LayerProgress

if TYPE_CHECKING:
    from rich.progress import TaskID


class Steps:
    """Steps one after another, with a bar for each thing that they move."""

    def __init__(self) -> None:
        # Imported here: every command would wait for it, and few show progress.
        from rich.console import Console  # noqa: PLC0415
        from rich.progress import BarColumn, Progress, TextColumn  # noqa: PLC0415

        console = Console(stderr=True, highlight=False, emoji=False, markup=False)
        self._plain = not console.is_terminal
        self._tasks: dict[str, TaskID] = {}
        self._bars = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[amount]}", markup=False),
            console=console,
            transient=True,
            disable=self._plain,
        )

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def step(self, text: str) -> None:
        """Says that a step begins."""
        self._bars.console.print(text, soft_wrap=True)

    def layer(self, layer: LayerProgress) -> None:
        """Moves the bar of a layer."""
        done, total = layer.current_bytes, layer.total_bytes
        amount = f"{size(done)} of {size(total)}" if total else ""
        self._move(layer.layer, f"{layer.layer:<12} {layer.status:<18}", done, total, amount)

    def count(self, text: str, done: int, total: int) -> None:
        """Says that one of several steps begins, and moves their bar."""
        if self._plain:
            self.step(f"{done}/{total} {text}")
        self._move("", f"{text:.60}", done, total, f"{done}/{total}")

    def _move(self, key: str, text: str, done: int, total: int, amount: str) -> None:
        if key not in self._tasks:
            self._tasks[key] = self._bars.add_task(text, total=None, amount="")
        self._bars.update(
            self._tasks[key], description=text, completed=done, total=total or None, amount=amount
        )
