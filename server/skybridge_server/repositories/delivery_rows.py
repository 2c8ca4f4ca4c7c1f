"""Deliveries as rows of their table."""

from __future__ import annotations

from typing import Any

from skybridge_server.models.destinations import Delivery, DeliveryState, Destination
from skybridge_server.models.names import ExecutionName
from skybridge_server.repositories.codec import dumps, from_time, loads, optional, to_time
from skybridge_server.repositories.tables import DeliveryRow as Row

FIXED = (Row.uid, Row.destination, Row.create_time)
CHANGING = (
    Row.next_time,
    Row.state,
    Row.attempts,
    Row.message,
    Row.told_namespace,
    Row.told_execution,
    Row.end_time,
)


def fixed_values(delivery: Delivery) -> tuple[Any, ...]:
    """Return the values of FIXED."""
    return (delivery.uid, dumps(delivery.destination), from_time(delivery.create_time))


def changing_values(delivery: Delivery) -> tuple[Any, ...]:
    """Return the values of CHANGING."""
    return (
        optional(from_time, delivery.next_time),
        delivery.state,
        delivery.attempts,
        delivery.message,
        delivery.told and delivery.told.namespace,
        delivery.told and delivery.told.execution,
        optional(from_time, delivery.end_time),
    )


def from_values(execution: ExecutionName, values: tuple[Any, ...]) -> Delivery:
    """Return the delivery that the values of FIXED and CHANGING describe."""
    (uid, destination, create_time, next_time, state, attempts, message) = values[:7]
    (told_namespace, told_execution, end_time) = values[7:]
    return Delivery(
        uid=uid,
        execution=execution,
        destination=loads(Destination, destination),
        create_time=to_time(create_time),
        next_time=optional(to_time, next_time),
        state=DeliveryState(state),
        attempts=attempts,
        message=message,
        told=ExecutionName(told_namespace, told_execution) if told_execution else None,
        end_time=optional(to_time, end_time),
    )
