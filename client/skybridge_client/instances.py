"""The calls about instances: containers that are kept for functions."""

from __future__ import annotations

from skybridge.faas.v1.instance_pb2 import Instance
from skybridge.faas.v1.instance_service_pb2 import (
    GetInstanceRequest,
    ListInstancesRequest,
    StopInstanceRequest,
)
from skybridge_client.calls import Pages, Unary, pages, unary


def list_instances(
    *, parent: str = "", function: str = "", page_size: int = 0, timeout: float | None = None
) -> Pages[Instance]:
    """Gives instances, the oldest first, of one `function` or of all; asks for pages as needed.

    `timeout` is that of each page.

    Raises InvalidArgumentError.
    """
    request = ListInstancesRequest(parent=parent, function=function, page_size=page_size)
    return pages(lambda s: s.instances.ListInstances, request, lambda a: a.instances, timeout)


def get_instance(name: str, *, timeout: float | None = None) -> Unary[Instance]:
    """Returns an instance, with the end of what it wrote. Raises NotFoundError."""
    request = GetInstanceRequest(name=name)
    return unary(lambda s: s.instances.GetInstance, request, lambda a: a.instance, timeout)


def stop_instance(
    name: str, *, force: bool = False, timeout: float | None = None
) -> Unary[Instance]:
    """Lets an instance end once its executions have; `force` stops those, too.

    Raises NotFoundError.
    """
    request = StopInstanceRequest(name=name, force=force)
    return unary(lambda s: s.instances.StopInstance, request, lambda a: a.instance, timeout)
