"""A runtime that keeps networks for containers which have none, as a test wants to see it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from skybridge_server.models.ports import PortAccess
from skybridge_server.runtimes.docker_engine import DockerRuntime
from skybridge_server.runtimes.docker_engine.sandboxes import Sandboxes
from tests.support.waiting import until


class SandboxedRuntime(DockerRuntime):
    """A runtime whose sandboxes can be waited for, and be found at the engine by `labels`."""

    def __init__(
        self,
        maximum: int,
        environment: Mapping[str, str] | None = None,
        port_access: PortAccess = PortAccess.AUTO,
    ) -> None:
        self.labels = {"skybridge.server": uuid.uuid4().hex, "skybridge.role": "sandbox"}
        self.maximum = maximum
        self._arguments = (maximum, environment, port_access)
        super().__init__(
            environment=environment,
            max_sandboxes=maximum,
            sandbox_labels=self.labels,
            port_access=port_access,
        )

    def another(self) -> SandboxedRuntime:
        """Return one like it, as another process would make it."""
        return SandboxedRuntime(*self._arguments)

    @property
    def kept(self) -> Sandboxes:
        """Return those that are lent."""
        return self._sandboxes[0]

    async def warm_up(self) -> None:
        """Wait until it has as many sandboxes as it may, all of them idle."""

        async def full() -> bool:
            if len(self.kept._names) < self.maximum:
                self.kept._miss()
            return len(self.kept._idle) == self.maximum

        await until(full, f"{self.maximum} idle sandboxes")

    async def rest(self) -> None:
        """Wait until nothing goes on in the background."""

        async def rests() -> bool:
            return all(map(_rests, self._sandboxes))

        await until(rests, "sandboxes to be made, taken back and removed")


def _rests(sandboxes: Sandboxes) -> bool:
    making = sandboxes._making
    return not sandboxes._tasks and (making is None or making.done())
