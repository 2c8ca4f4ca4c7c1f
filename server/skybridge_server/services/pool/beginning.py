"""The beginning of an instance: it is made ready within a time, or there is a reason why not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

from skybridge_server.errors import InitError, SkybridgeError, StartTimeoutError
from skybridge_server.models.instances import InstanceState
from skybridge_server.services.pool.instances import Instance
from skybridge_server.services.time_limit import seconds

ADOPTION_SECONDS = 10.0
"""What runs already is there at once, or it is of no use: executions wait for what comes of it."""
SHOWN_BYTES = 2048
"""How much of what an instance wrote stands in an error."""

log = structlog.get_logger(__name__)


async def begin(
    start: Callable[[Instance], Awaitable[None]], instance: Instance
) -> SkybridgeError | None:
    """Make an instance ready, and return why it cannot be used, if so.

    None stands also for one that was stopped meanwhile.
    """
    limit = instance.revision.spec.timeouts.start
    most = limit.total_seconds()
    try:
        async with asyncio.timeout(
            min(most, ADOPTION_SECONDS) if instance.adopted else most
        ) as instance.deadline:
            await start(instance)
    except TimeoutError:
        if instance.ended.done():
            return _ended_early(instance)
        if instance.state is InstanceState.STOPPING:
            return None
        return StartTimeoutError(
            f"the instance was not ready within spec.timeouts.start ({seconds(limit)})"
            + _what_it_wrote(instance)
        )
    except SkybridgeError as error:
        return _ended_early(instance) if instance.ended.done() else error
    except Exception:
        log.exception("start broke", instance=str(instance.name))
        return SkybridgeError("internal error of the server")
    finally:
        instance.deadline = None
    return _ended_early(instance) if instance.ended.done() else None


def _ended_early(instance: Instance) -> SkybridgeError:
    """Return how an instance ended that never got ready."""
    ended = instance.ended.result()
    if ended.exit is None:
        return ended.error or InitError("the instance ended before it was ready")
    why = "for lack of memory, " if ended.exit.oom_killed else ""
    return InitError(
        f"the instance ended before it was ready, {why}with exit code {ended.exit.code}"
        + _what_it_wrote(instance)
    )


def _what_it_wrote(instance: Instance) -> str:
    tail = instance.log.tail[-SHOWN_BYTES:].decode(errors="replace").strip()
    return f"; it wrote: {tail}" if tail else ""
