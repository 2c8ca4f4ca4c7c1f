"""Tells destinations of the ends of executions, until they have taken it.

What is to be told was stored in one with the result. A function is executed once for it: its
execution is stored in one with a note of the delivery, as for a due time of a schedule. A post may
arrive twice, with the same id, when the server is killed before it has noted that it did.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from skybridge_server.errors import SkybridgeError, StorageError
from skybridge_server.models.destinations import Delivery, DeliveryState
from skybridge_server.models.executions import Execution
from skybridge_server.models.functions import KIB
from skybridge_server.models.journal import OutputStream
from skybridge_server.models.names import ExecutionName, FunctionName
from skybridge_server.repositories.base import Repositories
from skybridge_server.services.acceptance import Acceptance
from skybridge_server.services.clock import Clock
from skybridge_server.services.requests import ExecutionRequest, RequestKey
from skybridge_server.services.telemetry import Telemetry
from skybridge_server.services.webhooks import PostError, Webhooks

METHOD = "Deliver"
"""Stands for the name of an rpc among the idempotent requests."""
CAUSE_LABEL = "skybridge.caused-by"
DEPTH_LABEL = "skybridge.depth"
MAX_DEPTH = 8
"""Functions that may call each other one after the other, so that no circle goes on for ever."""

PLACES = 32
"""Deliveries that are tried at once."""
FIRST_PAUSE = timedelta(seconds=1)
LONGEST_PAUSE = timedelta(minutes=10)
MAX_AGE = timedelta(hours=24)
OUTPUT_BYTES = 256 * KIB

log = structlog.get_logger(__name__)


class GivenUpError(Exception):
    """Another attempt would not help either; the message says why."""


class Deliveries:
    """All deliveries of one server."""

    def __init__(
        self,
        repositories: Repositories,
        acceptance: Acceptance,
        webhooks: Webhooks,
        clock: Clock,
        telemetry: Telemetry,
        on_free: Callable[[], None],
    ) -> None:
        """`on_free`: called when one was tried, and another may begin."""
        self._deliveries = repositories.deliveries
        self._executions = repositories.executions
        self._acceptance = acceptance
        self._webhooks = webhooks
        self._clock = clock
        self._telemetry = telemetry
        self._on_free = on_free
        self._trying: dict[str, asyncio.Task[None]] = {}
        """By uid, those that are being tried."""

    async def close(self) -> None:
        """Stop trying; what was not noted is tried again at the next start."""
        for task in self._trying.values():
            task.cancel()
        await asyncio.gather(*self._trying.values(), return_exceptions=True)

    async def of_execution(self, execution: Execution) -> Sequence[Delivery]:
        """Return what became of telling of the end of an execution."""
        if not execution.background or not execution.state.final:
            return ()
        return await self._deliveries.of_execution(execution.name)

    async def run_due(self) -> datetime | None:
        """Begin with those that are due, as far as there are places; return when others are.

        Each has a place of its own: one that takes long holds up no other. StorageError.
        """
        now = self._clock.now()
        due = await self._deliveries.due(now, PLACES + len(self._trying))
        waiting = [each for each in due if each.uid not in self._trying]
        for delivery in waiting[: PLACES - len(self._trying)]:
            self._trying[delivery.uid] = asyncio.create_task(self._try_in_place(delivery))
        return await self._deliveries.next_time(after=now)

    async def _try_in_place(self, delivery: Delivery) -> None:
        try:
            await self._try(delivery)
        except StorageError as error:
            log.warning("deliveries wait for the store", detail=error.message)
            await asyncio.sleep(FIRST_PAUSE.total_seconds())
        finally:
            del self._trying[delivery.uid]
            self._on_free()

    async def _try(self, delivery: Delivery) -> None:
        try:
            told = await self._deliver(delivery)
        except StorageError:
            raise
        except GivenUpError as error:
            changed = replace(delivery, state=DeliveryState.FAILED, message=str(error))
        except (SkybridgeError, PostError) as error:
            changed = self._postponed(delivery, str(error))
        except Exception:
            log.exception("delivery broke", execution=str(delivery.execution))
            changed = self._postponed(delivery, "internal error: see the log of the server")
        else:
            changed = replace(delivery, state=DeliveryState.DELIVERED, message="", told=told)
        if changed.state is not DeliveryState.PENDING:
            changed = replace(changed, next_time=None, end_time=self._clock.now())
        if changed.state is DeliveryState.FAILED:
            log.warning(
                "delivery given up", execution=str(delivery.execution), detail=changed.message
            )
        await self._deliveries.update(replace(changed, attempts=delivery.attempts + 1))
        self._telemetry.delivery_tried(changed)

    def _postponed(self, delivery: Delivery, why: str) -> Delivery:
        """Return a delivery that is tried again, unless it is too late for that."""
        pause = min(FIRST_PAUSE * 2 ** min(delivery.attempts, 20), LONGEST_PAUSE)
        next_time = self._clock.now() + pause
        late = next_time > delivery.create_time + MAX_AGE
        state = DeliveryState.FAILED if late else DeliveryState.PENDING
        return replace(delivery, state=state, message=why, next_time=next_time)

    async def _deliver(self, delivery: Delivery) -> ExecutionName | None:
        execution = await self._executions.get(delivery.execution)
        body = await self._body(execution)
        destination = delivery.destination
        if destination.function:
            return await self._execute(delivery, execution, body)
        now = self._clock.now()
        await self._webhooks.post(destination.url, destination.secret, delivery.uid, now, body)
        return None

    async def _execute(
        self, delivery: Delivery, execution: Execution, body: bytes
    ) -> ExecutionName:
        depth = _depth(execution) + 1
        if depth >= MAX_DEPTH:
            raise GivenUpError(
                f"{depth} functions have called each other by their destinations: there the chain"
                " ends, since it may be a circle"
            )
        labels = {CAUSE_LABEL: execution.name.execution, DEPTH_LABEL: str(depth)}
        request = ExecutionRequest(
            function=function_name(delivery.destination.function, execution.name.namespace),
            input=body,
            labels=labels,
            key=RequestKey(METHOD, delivery.uid, ""),
            background=True,
        )
        accepted = await self._acceptance.accept(request, disconnect_grace=None)
        return accepted.name

    async def _body(self, execution: Execution) -> bytes:
        output = await self._executions.output(execution.name, OutputStream.STDOUT, OUTPUT_BYTES)
        ok = execution.failure is None
        return json.dumps(
            {
                "type": "execution.succeeded" if ok else "execution.failed",
                "timestamp": _text(execution.end_time),
                "data": _data(execution, output),
            },
            ensure_ascii=False,
            separators=(",", ":"),
        ).encode()


def function_name(name: str, namespace: str) -> FunctionName:
    """Return the function that a destination names."""
    parts = name.split("/")
    return FunctionName(parts[1], parts[3]) if len(parts) > 1 else FunctionName(namespace, name)


def _depth(execution: Execution) -> int:
    text = execution.labels.get(DEPTH_LABEL, "")
    return int(text) if text.isdecimal() and len(text) <= 3 else 0


def _data(execution: Execution, output: bytes) -> dict[str, Any]:
    failure = execution.failure
    try:
        text, is_base64 = output.decode(), False
    except UnicodeDecodeError:
        text, is_base64 = base64.b64encode(output).decode(), True
    return {
        "execution": str(execution.name),
        "function": str(execution.function),
        "revision": execution.revision,
        "state": execution.state.name,
        "reason": failure.reason.name if failure else "",
        "message": failure.message if failure else "",
        "exit_code": execution.exit_code,
        "attempt": execution.attempt,
        "labels": execution.labels,
        "create_time": _text(execution.create_time),
        "end_time": _text(execution.end_time),
        "output": text,
        "output_is_base64": is_base64,
        "output_truncated": len(output) < execution.stdout_bytes,
    }


def _text(time: datetime | None) -> str:
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z") if time else ""
