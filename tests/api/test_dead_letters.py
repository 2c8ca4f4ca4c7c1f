"""DeadLetterService on the wire."""

from __future__ import annotations

import grpc
import pytest

from skybridge.faas.v1 import dead_letter_service_pb2 as pb
from skybridge.faas.v1 import execution_pb2
from skybridge.faas.v1 import execution_service_pb2 as executions_pb
from tests.api.served import Served, refusal
from tests.fakes.runtime import FakeProcess
from tests.support.waiting import PATIENCE

Code = grpc.StatusCode
NOBODY = "01890a5d-ac96-774b-bcce-b302099a8057"


async def breaks(process: FakeProcess) -> int:
    await process.write(b"out")
    return 3


async def dead(served: Served, **spec: object) -> str:
    """Return the name of an execution that failed for good."""
    served.runtime.containers.program = breaks
    policy = {"dead_letters": True, "max_attempts": 2, "initial_backoff": {}, **spec}
    await served.create(spec={"image": "busybox", "retry_policy": policy})
    await served.deploy()
    request = executions_pb.StartExecutionRequest(function="hello", input=b"in")
    answer = await served.executions.StartExecution(request, timeout=PATIENCE)
    await served.ended(answer.execution.name)
    return answer.execution.name


async def test_from_a_failure_to_another_try(served: Served) -> None:
    await served.services.delays_alarm.open(served.services.delays.run_due)
    name = await dead(served)
    stub = served.dead_letters
    filter_ = 'function = "hello" AND reason = EXIT_CODE AND end_time >= "2026-01-31T00:00:00Z"'
    listed = await stub.ListDeadLetters(pb.ListDeadLettersRequest(filter=filter_), timeout=PATIENCE)
    (letter,) = listed.dead_letters
    assert (letter.name, letter.execution.attempt, letter.input) == (name, 2, b"")
    got = await stub.GetDeadLetter(pb.GetDeadLetterRequest(name=name), timeout=PATIENCE)
    letter = got.dead_letter
    assert (letter.input, letter.execution.output) == (b"in", b"out")
    (first,) = letter.execution.attempts
    assert (first.number, first.exit_code) == (1, 3)
    assert first.failure.reason == execution_pb2.FAILURE_REASON_EXIT_CODE

    redrive = pb.RedriveDeadLetterRequest(name=name)
    made = (await stub.RedriveDeadLetter(redrive, timeout=PATIENCE)).execution
    assert (await stub.RedriveDeadLetter(redrive, timeout=PATIENCE)).execution == made
    again = await served.ended(made)
    assert again.labels["skybridge.redrive-of"] == name.rpartition("/")[2]
    got = await stub.GetDeadLetter(pb.GetDeadLetterRequest(name=name), timeout=PATIENCE)
    assert got.dead_letter.redriven_as == made

    many = pb.RedriveDeadLettersRequest(filter="*")
    answer = await stub.RedriveDeadLetters(many, timeout=PATIENCE)
    assert len(answer.executions) == 1
    assert not answer.next_page_token
    await served.ended(answer.executions[0])
    purge = pb.PurgeDeadLettersRequest(filter="redriven = true")
    assert (await stub.PurgeDeadLetters(purge, timeout=PATIENCE)).purged_count == 2
    await served.services.delays_alarm.close()


@pytest.mark.parametrize(
    ("method", "request_", "code", "field"),
    [
        ("ListDeadLetters", pb.ListDeadLettersRequest(filter="reason = NO"), None, "filter"),
        ("ListDeadLetters", pb.ListDeadLettersRequest(page_token="x"), None, "page_token"),
        ("GetDeadLetter", pb.GetDeadLetterRequest(), None, "name"),
        ("GetDeadLetter", pb.GetDeadLetterRequest(name=NOBODY), Code.NOT_FOUND, None),
        ("RedriveDeadLetter", pb.RedriveDeadLetterRequest(), None, "name"),
        ("RedriveDeadLetters", pb.RedriveDeadLettersRequest(), None, "filter"),
        ("PurgeDeadLetters", pb.PurgeDeadLettersRequest(filter=" "), None, "filter"),
        ("PurgeDeadLetters", pb.PurgeDeadLettersRequest(filter="state = X"), None, "filter"),
    ],
)
async def test_refusals(
    served: Served, method: str, request_: object, code: Code | None, field: str | None
) -> None:
    refused = await refusal(
        lambda: getattr(served.dead_letters, method)(request_, timeout=PATIENCE)
    )
    assert refused.code is (code or Code.INVALID_ARGUMENT)
    if field:
        assert field in refused.fields
