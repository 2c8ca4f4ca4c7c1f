"""`skybridge dead-letters`, against a server that answers as it is told."""

from __future__ import annotations

from google.protobuf.timestamp_pb2 import Timestamp

from skybridge.faas.v1 import dead_letter_service_pb2 as service
from skybridge.faas.v1 import execution_service_pb2
from skybridge_client.messages import (
    DeadLetter,
    Execution,
    Failure,
    FailureReason,
    RedriveDeadLettersResponse,
    RefusedRedrive,
)
from tests.client.commands import skybridge
from tests.client.scripted import Scripted

NAME = "namespaces/default/executions/e1"
LETTER = DeadLetter(
    name=NAME,
    execution=Execution(
        name=NAME,
        function="namespaces/default/functions/hello",
        attempt=3,
        failure=Failure(reason=FailureReason.FAILURE_REASON_EXIT_CODE),
        end_time=Timestamp(seconds=1_800_000_000),
    ),
    input=b"in",
)


def test_list(server: Scripted) -> None:
    server.on("ListDeadLetters", service.ListDeadLettersResponse(dead_letters=[LETTER]))
    ran = skybridge(server, "dead-letters", "list", "--filter", "reason = EXIT_CODE")
    assert ran.text.splitlines()[1].split()[:4] == ["e1", "hello", "exit_code", "3"]
    [request] = server.asked("ListDeadLetters")
    assert request.filter == "reason = EXIT_CODE"


def test_get(server: Scripted) -> None:
    server.on("GetDeadLetter", service.GetDeadLetterResponse(dead_letter=LETTER))
    ran = skybridge(server, "dead-letters", "get", "e1", "--json")
    assert ran.json["execution"]["failure"]["reason"] == "FAILURE_REASON_EXIT_CODE"


def test_redrive_by_name(server: Scripted) -> None:
    answer = service.RedriveDeadLetterResponse(execution="namespaces/default/executions/e2")
    server.on("RedriveDeadLetter", answer)
    assert skybridge(server, "dead-letters", "redrive", "e1").text == "e2\n"


def test_redrive_of_many_goes_on_to_the_end_and_tells_what_was_refused(server: Scripted) -> None:
    first = RedriveDeadLettersResponse(
        executions=["namespaces/default/executions/e2"], next_page_token="more"
    )
    refused = RefusedRedrive(name=NAME, message="function 'hello' is disabled")
    server.on("RedriveDeadLetters", first).on(
        "RedriveDeadLetters", RedriveDeadLettersResponse(refused=[refused])
    )
    ran = skybridge(server, "dead-letters", "redrive", "--all")
    assert ran.code == 1
    assert ran.text == "e2\n"
    assert "e1: function 'hello' is disabled" in ran.stderr
    asked = server.asked("RedriveDeadLetters")
    assert [(request.filter, request.page_token) for request in asked] == [("*", ""), ("*", "more")]


def test_purge_of_many_goes_on_until_nothing_is_left(server: Scripted) -> None:
    for count in (1000, 5):
        server.on("PurgeDeadLetters", service.PurgeDeadLettersResponse(purged_count=count))
    ran = skybridge(server, "dead-letters", "purge", "--filter", 'function = "hello"')
    assert ran.text == "1005\n"


def test_purge_by_name_deletes_dead_letters_only(server: Scripted) -> None:
    server.on("GetDeadLetter", service.GetDeadLetterResponse(dead_letter=LETTER))
    server.on("DeleteExecution", execution_service_pb2.DeleteExecutionResponse())
    assert skybridge(server, "dead-letters", "purge", "e1").text == "1\n"
    assert server.asked("DeleteExecution")[0].name == "e1"


def test_what_is_meant_has_to_be_said_once(server: Scripted) -> None:
    for verb in ("redrive", "purge"):
        for words in ((), ("e1", "--all"), ("--all", "--filter", "reason = LOST")):
            assert skybridge(server, "dead-letters", verb, *words).code == 2
