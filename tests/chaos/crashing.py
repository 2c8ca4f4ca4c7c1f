"""The server, made to die by SIGKILL when it comes to a point of the execution path.

The points are where state is half changed: stored and not told, done and not stored. The server
knows nothing of them; a method of it is wrapped before it is run.
"""

from __future__ import annotations

import functools
import importlib
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from inspect import iscoroutinefunction
from typing import Any

SERVICES = "skybridge_server.services"
STORE = "skybridge_server.repositories"
ENGINE = "skybridge_server.runtimes.docker_engine.sandboxed:SandboxedContainers"


@dataclass(frozen=True, slots=True)
class Point:
    """Right before or after a method, `module:Class.method`."""

    method: str
    after: bool = False

    def find(self) -> tuple[type, str]:
        """Return the class and the name of the method. AttributeError: there is none."""
        module, _, path = self.method.partition(":")
        class_name, _, name = path.partition(".")
        owner: type = getattr(importlib.import_module(module), class_name)
        getattr(owner, name)
        return owner, name

    def arm(self) -> None:
        """Let this process die there."""
        owner, name = self.find()
        method: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(method)
        def deadly(*args: Any, **kwargs: Any) -> None:
            if self.after:
                method(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        @functools.wraps(method)
        async def deadly_later(*args: Any, **kwargs: Any) -> None:
            if self.after:
                await method(*args, **kwargs)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(owner, name, deadly_later if iscoroutinefunction(method) else deadly)


ADD = f"{STORE}.executions:SqliteExecutions.add"
CREATE, START, REMOVE = (f"{ENGINE}.{name}" for name in ("create", "start", "remove"))
END = f"{SERVICES}.journal:Journal.end"
END_ATTEMPT = f"{SERVICES}.journal:Journal.end_attempt"
SWIFT = f"{SERVICES}.swift:Swift"
CALL = "skybridge_server.contracts.http:HttpConversation.call"
ADOPT = f"{SERVICES}.pool.adoption:Adoption.run"
FIRE = f"{SERVICES}.firing:Firing.start"

POINTS = {
    "accepted, not stored": Point(ADD),
    "stored, not acknowledged": Point(ADD, after=True),
    "container not created": Point(CREATE),
    "container created": Point(CREATE, after=True),
    "container not started": Point(START),
    "container started": Point(START, after=True),
    "attached": Point(f"{ENGINE}.attach", after=True),
    "journal flushed": Point(f"{SERVICES}.journal:Journal.flush", after=True),
    "container ended": Point(f"{ENGINE}.wait", after=True),
    "end not stored": Point(END),
    "end stored, not told": Point(END, after=True),
    "attempt not stored": Point(END_ATTEMPT),
    "attempt stored": Point(END_ATTEMPT, after=True),
    "container not removed": Point(REMOVE),
    "container removed": Point(REMOVE, after=True),
    "instance not called": Point(CALL),
    "instance answered": Point(CALL, after=True),
    "idle instance not called": Point(f"{SWIFT}.begin"),
    "idle instance answered": Point(f"{SWIFT}._answered"),
    "answer not stored": Point(f"{STORE}.executions:SqliteExecutions.add_ended"),
    "answer stored, not told": Point(f"{SWIFT}._stored"),
    "schedule not fired": Point(FIRE),
    "schedule fired, not noted": Point(FIRE, after=True),
    "schedule noted": Point(f"{STORE}.schedules:SqliteSchedules.settle", after=True),
    "not recovered": Point(f"{SERVICES}.recovery:Recovery.run"),
    "recovered": Point(f"{SERVICES}.recovery:Recovery.run", after=True),
    "instances not taken over": Point(ADOPT),
    "instances taken over": Point(ADOPT, after=True),
}
"""By name, as scripts/chaos prints it."""
