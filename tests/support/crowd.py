"""How many containers there are at once, as the engine itself tells it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import docker

LABEL = "skybridge.function"


class Crowd:
    """Counts containers of functions: those kept, from creation to removal, and those that run."""

    def __init__(self, functions: Iterable[str]) -> None:
        self._functions = {f"namespaces/default/functions/{name}" for name in functions}
        self.started = self.running = self.most_running = 0
        self.kept = self.most_kept = self.destroyed = 0

    def follow(self, events: Iterable[dict[str, Any]]) -> None:
        for event in events:
            if event["Actor"]["Attributes"][LABEL] in self._functions:
                self._count(event["Action"])

    def _count(self, action: str) -> None:
        match action:
            case "create":
                self.kept += 1
            case "start":
                self.started += 1
                self.running += 1
            case "die":
                self.running -= 1
            case "destroy":
                self.kept -= 1
                self.destroyed += 1
        self.most_running = max(self.most_running, self.running)
        self.most_kept = max(self.most_kept, self.kept)


@contextmanager
def watched_crowd(client: docker.DockerClient, *functions: str) -> Iterator[Crowd]:
    """Count the containers of functions from now on; each one, however short its life is."""
    crowd = Crowd(functions)
    events = client.events(decode=True, filters={"label": LABEL, "type": "container"})
    thread = threading.Thread(target=crowd.follow, args=(events,))
    thread.start()
    try:
        yield crowd
    finally:
        events.close()
        thread.join()
