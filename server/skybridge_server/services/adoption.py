"""Whether an execution can go on whose server, or engine, went away under it."""

from __future__ import annotations

from skybridge_server.models.executions import Execution
from skybridge_server.models.journal import OutputStream
from skybridge_server.repositories.base import ExecutionRepository
from skybridge_server.runtimes.base import Containers, ContainerState, ContainerStatus
from skybridge_server.services.active import ActiveExecution
from skybridge_server.services.journal import LOG_TAIL_BYTES
from skybridge_server.services.replay import TAIL_BYTES, Replay

PIPE_BYTES = 64 * 1024
"""What waits for a process in its stdin, whether its engine lives or not."""


def why_lost(
    execution: Execution, container: ContainerState, input_: bytes, *, witnessed: bool
) -> str:
    """Return why nobody can know what the execution did, or would do; '' if it can go on.

    `witnessed`: its engine was there all the time.
    """
    if execution.interactive:
        return "the connection was lost over which its caller wrote its input"
    if input_ and not execution.input_given:
        return "the server went away before it had given all of the input to the function"
    if not witnessed and len(input_) > PIPE_BYTES:
        return "the container engine went away, and may have kept a part of the input"
    if not witnessed and container.status is ContainerStatus.ENDED:
        return "the function ended while the container engine was away: its output may lack its end"
    return ""


async def replay(
    active: ActiveExecution,
    containers: Containers,
    executions: ExecutionRepository,
    *,
    witnessed: bool,
) -> Replay:
    """Return the output of an execution's container behind what its journal has."""
    journal = active.journal
    await journal.flush()
    tails = {
        stream: await executions.output_tail(active.name, stream, TAIL_BYTES)
        for stream in OutputStream
    }
    journal.log_tail = tails[OutputStream.STDERR][-LOG_TAIL_BYTES:]
    return Replay(containers, active.container_id, journal.kept, tails, log_complete=witnessed)
