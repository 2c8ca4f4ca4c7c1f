"""The calls about functions and their revisions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Unpack

from skybridge.faas.v1.function_pb2 import Function, Revision
from skybridge.faas.v1.function_service_pb2 import (
    CreateFunctionRequest,
    DeleteFunctionRequest,
    DeployFunctionRequest,
    DeployFunctionResponse,
    DisableFunctionRequest,
    EnableFunctionRequest,
    GetFunctionRequest,
    GetRevisionRequest,
    ListFunctionsRequest,
    ListRevisionsRequest,
    RegistryCredentials,
    RollbackFunctionRequest,
    UpdateFunctionRequest,
)
from skybridge_client.calls import (
    Pages,
    Stream,
    Unary,
    new_request_id,
    nothing,
    pages,
    stream,
    unary,
    whole,
)
from skybridge_client.specs import FunctionFields, build_function, build_mask


def create_function(
    function_id: str,
    function: Function | None = None,
    *,
    parent: str = "",
    validate_only: bool = False,
    request_id: str = "",
    timeout: float | None = None,
    **fields: Unpack[FunctionFields],
) -> Unary[Function]:
    """Creates a function, and returns it with its defaults filled in.

    What it runs is said by keyword, `create_function("hello", image="busybox",
    args=["echo", "hi"])`, or by a whole `function`, over which the keywords are set.
    It can be executed after `deploy`. `parent` is the namespace, `namespaces/{id}`.
    `validate_only` checks everything and creates nothing.

    Raises InvalidArgumentError with every wrong field, AlreadyExistsError.
    """
    request = CreateFunctionRequest(
        parent=parent,
        function_id=function_id,
        function=build_function(function, fields),
        validate_only=validate_only,
        request_id=new_request_id(request_id),
    )
    return unary(lambda s: s.functions.CreateFunction, request, lambda a: a.function, timeout)


def get_function(name: str, *, timeout: float | None = None) -> Unary[Function]:
    """Returns a function. Raises NotFoundError."""
    request = GetFunctionRequest(name=name)
    return unary(lambda s: s.functions.GetFunction, request, lambda a: a.function, timeout)


def list_functions(
    *,
    parent: str = "",
    filter: str = "",  # noqa: A002 - the API's word
    order_by: str = "",
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[Function]:
    """Gives the functions of a namespace, by name; asks for the next page when it is needed.

    `filter` is such as `state = ACTIVE AND labels.team = "blue"`, `order_by` such as
    `create_time desc`. `timeout` is that of each page.

    Raises InvalidArgumentError.
    """
    request = ListFunctionsRequest(
        parent=parent, filter=filter, order_by=order_by, page_size=page_size
    )
    return pages(lambda s: s.functions.ListFunctions, request, lambda a: a.functions, timeout)


def update_function(
    function: str | Function,
    *,
    update_mask: Sequence[str] = (),
    etag: str = "",
    validate_only: bool = False,
    request_id: str = "",
    timeout: float | None = None,
    **fields: Unpack[FunctionFields],
) -> Unary[Function]:
    """Changes a function, and returns it; executions see the change after the next `deploy`.

    By name and keywords, `update_function("hello", memory_bytes=1 << 28)`, exactly the given
    fields change. With a whole Function as the server returned it, the fields of
    `update_mask` change, or all that it sets. A path in `update_mask` that is not set goes
    back to its default. `etag`: change nothing if somebody else wrote in between.

    Raises InvalidArgumentError, NotFoundError, AbortedError (stale etag).
    """
    base = Function(name=function) if isinstance(function, str) else function
    masked = fields if update_mask or isinstance(function, str) else {}
    request = UpdateFunctionRequest(
        function=build_function(base, fields),
        update_mask=build_mask(masked, update_mask),
        etag=etag,
        validate_only=validate_only,
        request_id=new_request_id(request_id),
    )
    return unary(lambda s: s.functions.UpdateFunction, request, lambda a: a.function, timeout)


def delete_function(
    name: str,
    *,
    etag: str = "",
    force: bool = False,
    request_id: str = "",
    timeout: float | None = None,
) -> Unary[None]:
    """Deletes a function and its revisions; its executions stay readable.

    Raises NotFoundError, AbortedError, FailedPreconditionError (executions wait or run;
    `force` cancels them).
    """
    request = DeleteFunctionRequest(
        name=name, etag=etag, force=force, request_id=new_request_id(request_id)
    )
    return unary(lambda s: s.functions.DeleteFunction, request, nothing, timeout)


def deploy(
    name: str,
    *,
    etag: str = "",
    registry_credentials: RegistryCredentials | None = None,
    request_id: str = "",
    timeout: float | None = None,
) -> Stream[DeployFunctionResponse]:
    """Deploys a function: gives the progress, and as its last step the new `revision`.

    The deployment starts with the first step that is asked for, and goes on at the server
    if the caller leaves. `registry_credentials` serve this deployment alone. Without
    `timeout` there is no deadline.

    Raises NotFoundError, AbortedError, FailedPreconditionError (image missing or refused),
    UnavailableError (engine or registry; or the connection broke, and the deployment goes
    on).
    """
    request = DeployFunctionRequest(
        name=name,
        etag=etag,
        registry_credentials=registry_credentials,
        request_id=new_request_id(request_id),
    )
    return stream(lambda s: s.functions.DeployFunction, request, whole, timeout)


def get_revision(name: str, *, timeout: float | None = None) -> Unary[Revision]:
    """Returns a revision, `{function}/revisions/{number}`. Raises NotFoundError."""
    request = GetRevisionRequest(name=name)
    return unary(lambda s: s.functions.GetRevision, request, lambda a: a.revision, timeout)


def list_revisions(
    function: str, *, page_size: int = 0, timeout: float | None = None
) -> Pages[Revision]:
    """Gives the revisions of a function, the newest first. Raises NotFoundError."""
    request = ListRevisionsRequest(parent=function, page_size=page_size)
    return pages(lambda s: s.functions.ListRevisions, request, lambda a: a.revisions, timeout)


def rollback(
    name: str,
    revision: int = 0,
    *,
    etag: str = "",
    request_id: str = "",
    timeout: float | None = None,
) -> Unary[Function]:
    """Activates an earlier revision at once; 0 means the one before the active one.

    Raises NotFoundError, AbortedError, FailedPreconditionError (no earlier revision, or its
    image is gone).
    """
    request = RollbackFunctionRequest(
        name=name, revision=revision, etag=etag, request_id=new_request_id(request_id)
    )
    return unary(lambda s: s.functions.RollbackFunction, request, lambda a: a.function, timeout)


def disable(
    name: str, *, etag: str = "", request_id: str = "", timeout: float | None = None
) -> Unary[Function]:
    """Refuses new executions of a function; running ones go on.

    Raises NotFoundError, AbortedError.
    """
    request = DisableFunctionRequest(name=name, etag=etag, request_id=new_request_id(request_id))
    return unary(lambda s: s.functions.DisableFunction, request, lambda a: a.function, timeout)


def enable(
    name: str, *, etag: str = "", request_id: str = "", timeout: float | None = None
) -> Unary[Function]:
    """Allows executions of a disabled function again. Raises NotFoundError, AbortedError."""
    request = EnableFunctionRequest(name=name, etag=etag, request_id=new_request_id(request_id))
    return unary(lambda s: s.functions.EnableFunction, request, lambda a: a.function, timeout)
