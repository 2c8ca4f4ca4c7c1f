"""The kinds of calls, described without doing them.

functions.py, executions.py, schedules.py and their like describe each rpc once:
its arguments, its request and what of the answer is given to the caller. The sync and the async
client only know how to perform each kind.
"""

from __future__ import annotations

import datetime as dt
import time
import uuid
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Generic, ParamSpec, TypeVar, cast

import grpc
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from skybridge.faas.v1.dead_letter_service_pb2_grpc import DeadLetterServiceStub
from skybridge.faas.v1.execution_service_pb2_grpc import ExecutionServiceStub
from skybridge.faas.v1.function_service_pb2_grpc import FunctionServiceStub
from skybridge.faas.v1.instance_service_pb2_grpc import InstanceServiceStub
from skybridge.faas.v1.metrics_service_pb2_grpc import MetricsServiceStub
from skybridge.faas.v1.schedule_service_pb2_grpc import ScheduleServiceStub
from skybridge.faas.v1.secret_service_pb2_grpc import SecretServiceStub
from skybridge.faas.v1.system_service_pb2_grpc import SystemServiceStub
from skybridge.faas.v1.token_service_pb2_grpc import TokenServiceStub

Q = TypeVar("Q", bound=Message)
A = TypeVar("A", bound=Message)
T = TypeVar("T")
C = TypeVar("C")
R = TypeVar("R")
P = ParamSpec("P")


class Stubs:
    """The stubs of all services over one channel, of grpc or of grpc.aio."""

    def __init__(self, channel: Any) -> None:
        self.functions = FunctionServiceStub(channel)
        self.executions = ExecutionServiceStub(channel)
        self.dead_letters = DeadLetterServiceStub(channel)
        self.schedules = ScheduleServiceStub(channel)
        self.instances = InstanceServiceStub(channel)
        self.metrics = MetricsServiceStub(channel)
        self.secrets = SecretServiceStub(channel)
        self.system = SystemServiceStub(channel)
        self.tokens = TokenServiceStub(channel)


@dataclass(frozen=True)
class Unary(Generic[T]):
    """One request, one answer."""

    rpc: Callable[[Stubs], Any]
    request: Message = field(repr=False)
    """It may hold what is secret."""
    give: Callable[[Any], T]
    timeout: float | None
    """Seconds; None: the client's default."""


@dataclass(frozen=True)
class Stream(Generic[T]):
    """One request, or a stream of them, and a stream of answers."""

    rpc: Callable[[Stubs], Any]
    request: Message | None
    """The first one of a stream; None where all come from elsewhere."""
    give: Callable[[Any], T]
    timeout: float | None
    """Seconds; None: no deadline."""


@dataclass(frozen=True)
class Pages(Generic[T]):
    """A list, page by page."""

    page: Unary[Any]
    items: Callable[[Any], Sequence[T]]

    def after(self, answer: Any) -> Pages[T] | None:
        """The rest of the list; None when the answer was its last page."""
        if not answer.next_page_token:
            return None
        request: Any = type(self.page.request)()
        request.CopyFrom(self.page.request)
        request.page_token = answer.next_page_token
        return replace(self, page=replace(self.page, request=request))


@dataclass(frozen=True)
class Poll(Generic[T]):
    """Calls to make one after another until an answer is what was waited for."""

    calls: Iterable[Unary[T]]
    done: Callable[[T], bool]


def unary(
    rpc: Callable[[Stubs], grpc.UnaryUnaryMultiCallable[Q, A]],
    request: Q,
    give: Callable[[A], T],
    timeout: float | None,
) -> Unary[T]:
    """Describes a unary call; request and answer must be those of the rpc."""
    return Unary(rpc, request, give, timeout)


def stream(
    rpc: Callable[[Stubs], grpc.UnaryStreamMultiCallable[Q, A]],
    request: Q,
    give: Callable[[A], T],
    timeout: float | None,
) -> Stream[T]:
    """Describes a server stream; request and answers must be those of the rpc."""
    return Stream(rpc, request, give, timeout)


def pages(
    rpc: Callable[[Stubs], grpc.UnaryUnaryMultiCallable[Q, A]],
    request: Q,
    items: Callable[[A], Sequence[T]],
    timeout: float | None,
) -> Pages[T]:
    """Describes a list; request and answer must be those of the rpc."""
    return Pages(Unary(rpc, request, whole, timeout), items)


def whole(answer: T) -> T:
    """Gives the answer as it is."""
    return answer


def nothing(_: object) -> None:
    """Gives nothing: the answer has no content."""


def new_request_id(given: str) -> str:
    """The given request id, or a new one, so that a repeat of the call does no harm."""
    return given or str(uuid.uuid4())


def duration(seconds: float | None) -> Duration | None:
    """A protobuf duration; None stays unset."""
    if seconds is None:
        return None
    message = Duration()
    message.FromNanoseconds(round(seconds * 1e9))
    return message


def timestamp(name: str, moment: dt.datetime) -> Timestamp:
    """A moment as protobuf has it; ValueError for one without a zone, which could mean any."""
    if moment.tzinfo is None:
        raise ValueError(f"{name}: a time needs a zone, such as datetime.now(UTC)")
    message = Timestamp()
    message.FromDatetime(moment)
    return message


class Deadline:
    """The moment at which a timeout is over; without a timeout it never is."""

    def __init__(self, timeout: float | None) -> None:
        self._end = None if timeout is None else time.monotonic() + timeout

    def left(self) -> float | None:
        """Seconds that are left, at least 0; None without end."""
        return None if self._end is None else max(0.0, self._end - time.monotonic())

    def passed(self) -> bool:
        """Whether no time is left."""
        return self.left() == 0


class Method(Generic[P, C, R]):
    """A client's method: a description of a call, and how that kind is performed.

    It has the signature and the documentation of the description.
    """

    def __init__(self, describe: Callable[P, C], perform: Callable[[Any, C], R]) -> None:
        self._describe = describe
        self._perform = perform
        self.__doc__ = describe.__doc__

    def __get__(self, client: object, owner: type | None = None) -> Callable[P, R]:
        if client is None:
            return cast("Callable[P, R]", self._describe)

        def method(*args: P.args, **kwargs: P.kwargs) -> R:
            return self._perform(client, self._describe(*args, **kwargs))

        method.__wrapped__ = self._describe  # type: ignore[attr-defined]
        method.__name__ = self._describe.__name__
        method.__doc__ = self._describe.__doc__
        return method
