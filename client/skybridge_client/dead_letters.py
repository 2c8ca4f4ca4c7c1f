"""The calls about dead letters: executions that failed for good while nobody waited."""

from __future__ import annotations

from skybridge.faas.v1.dead_letter_pb2 import DeadLetter
from skybridge.faas.v1.dead_letter_service_pb2 import (
    GetDeadLetterRequest,
    ListDeadLettersRequest,
    PurgeDeadLettersRequest,
    RedriveDeadLetterRequest,
    RedriveDeadLettersRequest,
    RedriveDeadLettersResponse,
)
from skybridge_client.calls import Pages, Unary, pages, unary

EVERYTHING = "*"
"""The filter of `redrive_dead_letters` and `purge_dead_letters` that means all."""


def list_dead_letters(
    *,
    parent: str = "",
    filter: str = "",  # noqa: A002 - the API's word
    page_size: int = 0,
    timeout: float | None = None,
) -> Pages[DeadLetter]:
    """Gives dead letters, the newest first; asks for the next page when it is needed.

    `filter` is such as `function = "hello" AND reason = EXIT_CODE`; those that were redriven
    come with `redriven = true` only. Input, attempts and output are left out.

    Raises InvalidArgumentError.
    """
    request = ListDeadLettersRequest(parent=parent, filter=filter, page_size=page_size)
    return pages(
        lambda s: s.dead_letters.ListDeadLetters, request, lambda a: a.dead_letters, timeout
    )


def get_dead_letter(name: str, *, timeout: float | None = None) -> Unary[DeadLetter]:
    """Returns a dead letter with its input, attempts and output. Raises NotFoundError."""
    request = GetDeadLetterRequest(name=name)
    return unary(lambda s: s.dead_letters.GetDeadLetter, request, lambda a: a.dead_letter, timeout)


def redrive_dead_letter(name: str, *, timeout: float | None = None) -> Unary[str]:
    """Makes a new execution of a dead letter, and returns its name; a repeat returns the same.

    Raises NotFoundError (the dead letter or its function), FailedPreconditionError (the function
    is disabled, or not deployed), InvalidArgumentError, ResourceExhaustedError.
    """
    request = RedriveDeadLetterRequest(name=name)
    return unary(
        lambda s: s.dead_letters.RedriveDeadLetter, request, lambda a: a.execution, timeout
    )


def redrive_dead_letters(
    filter: str,  # noqa: A002 - the API's word
    *,
    parent: str = "",
    timeout: float | None = None,
) -> Pages[RedriveDeadLettersResponse]:
    """Makes new executions of all dead letters that a filter chooses; "*" means all.

    Gives what became of each 1,000 of them, the oldest first; the next are dealt with when their
    answer is asked for. `timeout` is that of each call.

    Raises InvalidArgumentError, ResourceExhaustedError.
    """
    request = RedriveDeadLettersRequest(parent=parent, filter=filter)
    return pages(lambda s: s.dead_letters.RedriveDeadLetters, request, lambda a: [a], timeout)


def purge_dead_letters(
    filter: str,  # noqa: A002 - the API's word
    *,
    parent: str = "",
    timeout: float | None = None,
) -> Unary[int]:
    """Deletes up to 1,000 dead letters that a filter chooses, with all of their executions.

    Returns how many; 1,000 if there may be more. "*" means all that are not redriven.

    Raises InvalidArgumentError.
    """
    request = PurgeDeadLettersRequest(parent=parent, filter=filter)
    return unary(
        lambda s: s.dead_letters.PurgeDeadLetters, request, lambda a: a.purged_count, timeout
    )
