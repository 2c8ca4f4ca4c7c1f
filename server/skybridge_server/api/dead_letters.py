"""DeadLetterService over gRPC."""

from __future__ import annotations

from typing import TYPE_CHECKING

from skybridge.faas.v1 import dead_letter_pb2
from skybridge.faas.v1 import dead_letter_service_pb2 as pb
from skybridge.faas.v1.dead_letter_service_pb2_grpc import DeadLetterServiceServicer
from skybridge_server.api import filters, names, paging
from skybridge_server.api.convert.executions import execution_to_proto
from skybridge_server.api.convert.values import optional_timestamp_to_proto
from skybridge_server.models.dead_letters import DeadLetter
from skybridge_server.models.paging import DeadLetterQuery, Page
from skybridge_server.services.dead_letters import DeadLetterService
from skybridge_server.services.executions import ExecutionService
from skybridge_server.services.violations import Violations

if TYPE_CHECKING:
    from skybridge.faas.v1.dead_letter_service_pb2_grpc import _ServicerContext as Context

EVERYTHING = "*"


class DeadLetterServicer(DeadLetterServiceServicer):
    """Dead letters."""

    def __init__(self, dead_letters: DeadLetterService, executions: ExecutionService) -> None:
        self._dead_letters = dead_letters
        self._executions = executions

    async def ListDeadLetters(
        self, request: pb.ListDeadLettersRequest, context: Context
    ) -> pb.ListDeadLettersResponse:
        with Violations() as wrong:
            parent = names.namespace(request.parent, "parent", wrong)
            query = filters.dead_letter_query(parent, request.filter, wrong)
            scope = ("ListDeadLetters", parent, request.filter)
            wanted = paging.page_request(request.page_size, request.page_token, scope, wrong)
        page = await self._dead_letters.list(query, wanted)
        return pb.ListDeadLettersResponse(
            dead_letters=[_to_proto(letter) for letter in page.items],
            next_page_token=paging.next_page_token(page, scope),
        )

    async def GetDeadLetter(
        self, request: pb.GetDeadLetterRequest, context: Context
    ) -> pb.GetDeadLetterResponse:
        with Violations() as wrong:
            name = names.execution(request.name, "name", wrong)
        letter = await self._dead_letters.get(name)
        message = _to_proto(letter)
        message.input = await self._dead_letters.input(letter)
        output = await self._executions.output(letter.execution)
        attempts = await self._executions.attempts(letter.execution)
        message.execution.CopyFrom(execution_to_proto(letter.execution, output, attempts))
        return pb.GetDeadLetterResponse(dead_letter=message)

    async def RedriveDeadLetter(
        self, request: pb.RedriveDeadLetterRequest, context: Context
    ) -> pb.RedriveDeadLetterResponse:
        with Violations() as wrong:
            name = names.execution(request.name, "name", wrong)
        return pb.RedriveDeadLetterResponse(execution=str(await self._dead_letters.redrive(name)))

    async def RedriveDeadLetters(
        self, request: pb.RedriveDeadLettersRequest, context: Context
    ) -> pb.RedriveDeadLettersResponse:
        with Violations() as wrong:
            query = _chosen(request, wrong)
            scope = ("RedriveDeadLetters", query.namespace, request.filter)
            after = paging.page_request(0, request.page_token, scope, wrong).after
        done = await self._dead_letters.redrive_all(query, after)
        return pb.RedriveDeadLettersResponse(
            executions=[str(name) for name in done.executions],
            refused=[pb.RefusedRedrive(name=str(name), message=why) for name, why in done.refused],
            next_page_token=paging.next_page_token(Page((), done.next), scope),
        )

    async def PurgeDeadLetters(
        self, request: pb.PurgeDeadLettersRequest, context: Context
    ) -> pb.PurgeDeadLettersResponse:
        with Violations() as wrong:
            query = _chosen(request, wrong)
        return pb.PurgeDeadLettersResponse(purged_count=await self._dead_letters.purge(query))


def _chosen(
    request: pb.RedriveDeadLettersRequest | pb.PurgeDeadLettersRequest, wrong: Violations
) -> DeadLetterQuery:
    """Return the query of a change of many, which has to say that it means all."""
    parent = names.namespace(request.parent, "parent", wrong)
    if not request.filter.strip():
        wrong.add("filter", f"is required; {EVERYTHING} for all")
    filter_ = "" if request.filter.strip() == EVERYTHING else request.filter
    return filters.dead_letter_query(parent, filter_, wrong)


def _to_proto(letter: DeadLetter) -> dead_letter_pb2.DeadLetter:
    return dead_letter_pb2.DeadLetter(
        name=str(letter.name),
        execution=execution_to_proto(letter.execution),
        redriven_as=str(letter.redriven_as or ""),
        redrive_time=optional_timestamp_to_proto(letter.redrive_time),
    )
