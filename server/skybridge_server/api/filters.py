"""`filter` and `order_by` of lists.

A filter is terms joined by AND; a term is a field, an operator and a value. Values stand in double
quotes, where a backslash takes away the meaning of a quote or backslash, or bare if they are words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import IntEnum
from typing import Any, TypeVar

from skybridge_server.models.executions import ExecutionState, FailureReason
from skybridge_server.models.functions import FunctionState
from skybridge_server.models.names import ID_PATTERN, FunctionName
from skybridge_server.models.paging import (
    DeadLetterQuery,
    ExecutionQuery,
    FunctionQuery,
    LabelFilter,
    ScheduleQuery,
)
from skybridge_server.services.rules import LABEL_KEY
from skybridge_server.services.violations import Violations

E = TypeVar("E", bound=IntEnum)

MAX_FILTER_LENGTH = 1024

_TOKEN = re.compile(
    r"""(?P<word>\w[\w./-]*) | (?P<string>"(?:[^"\\]|\\["\\])*") | (?P<operator>[<>!]=|[=:<>])
    | (?P<any>\*)""",
    re.VERBOSE | re.ASCII,
)
_ESCAPE = re.compile(r"\\(.)")
_PREFIX = re.compile(r"[-a-z0-9]{0,63}")
_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?(?:Z|[+-]\d\d:\d\d)", re.ASCII)

_LABEL_TERMS = 'labels.KEY = "value", labels.KEY : *'
_FUNCTION_TERMS = f'state = STATE, name : "prefix", {_LABEL_TERMS}'
_EXECUTION_TERMS = (
    f'function = "id", state = STATE, create_time >= "time", create_time < "time", {_LABEL_TERMS}'
)
_DEAD_LETTER_TERMS = (
    'function = "id", reason = REASON, end_time >= "time", end_time < "time", redriven = true,'
    f" redriven = false, {_LABEL_TERMS}"
)
_SCHEDULE_TERMS = 'function = "id", paused = true, paused = false'


@dataclass(frozen=True, slots=True)
class _Term:
    """One condition; `value` None stands for `*`."""

    field: str
    operator: str
    value: str | None
    position: int


class _FilterError(Exception):
    """A filter, or a term of it, that says nothing we know; positions count from 1."""

    def __init__(self, position: int, problem: str) -> None:
        super().__init__(f"at character {position}: {problem}")


def function_query(namespace: str, filter_: str, order_by: str, wrong: Violations) -> FunctionQuery:
    """Return the query of ListFunctions."""
    labels, conditions = _conditions(filter_, _function_condition, wrong)
    field, descending = _order(order_by, ("name", "create_time", "update_time"), "name", wrong)
    return FunctionQuery(
        namespace, labels=labels, order_by=field, descending=descending, **conditions
    )


def execution_query(
    namespace: str, filter_: str, order_by: str, wrong: Violations
) -> ExecutionQuery:
    """Return the query of ListExecutions."""
    labels, conditions = _conditions(
        filter_, lambda term: _execution_condition(term, namespace), wrong
    )
    _, descending = _order(order_by, ("create_time",), "create_time desc", wrong)
    return ExecutionQuery(namespace, labels=labels, descending=descending, **conditions)


def dead_letter_query(namespace: str, filter_: str, wrong: Violations) -> DeadLetterQuery:
    """Return the query of ListDeadLetters, and of what deals with many of them."""
    labels, conditions = _conditions(
        filter_, lambda term: _dead_letter_condition(term, namespace), wrong
    )
    return DeadLetterQuery(namespace, labels=labels, **conditions)


def schedule_query(namespace: str, filter_: str, wrong: Violations) -> ScheduleQuery:
    """Return the query of ListSchedules."""
    labels, conditions = _conditions(
        filter_, lambda term: _schedule_condition(term, namespace), wrong
    )
    if labels:
        wrong.add("filter", f"allowed are: {_SCHEDULE_TERMS}")
    return ScheduleQuery(namespace, **conditions)


def _function_condition(term: _Term) -> tuple[str, object]:
    match term.field, term.operator, term.value:
        case "state", "=", str(value):
            return "state", _member(FunctionState, value, term.position)
        case "name", ":", str(value) if _PREFIX.fullmatch(value):
            return "name_prefix", value
        case "name", ":", str():
            raise _FilterError(term.position, "a prefix of an id has characters of a-z 0-9 - only")
    raise _FilterError(term.position, f"allowed are: {_FUNCTION_TERMS}")


def _execution_condition(term: _Term, namespace: str) -> tuple[str, object]:
    match term.field, term.operator, term.value:
        case "function", "=", str(value):
            return "function", _function_id(value, namespace, term.position)
        case "state", "=", str(value):
            return "states", frozenset({_member(ExecutionState, value, term.position)})
        case "create_time", ">=", str(value):
            return "created_from", _time(value, term.position)
        case "create_time", "<", str(value):
            return "created_before", _time(value, term.position)
    raise _FilterError(term.position, f"allowed are: {_EXECUTION_TERMS}")


def _dead_letter_condition(term: _Term, namespace: str) -> tuple[str, object]:
    match term.field, term.operator, term.value:
        case "function", "=", str(value):
            return "function", _function_id(value, namespace, term.position)
        case "reason", "=", str(value):
            return "reason", _member(FailureReason, value, term.position)
        case "end_time", ">=", str(value):
            return "ended_from", _time(value, term.position)
        case "end_time", "<", str(value):
            return "ended_before", _time(value, term.position)
        case "redriven", "=", "true" | "false":
            return "redriven", term.value == "true"
    raise _FilterError(term.position, f"allowed are: {_DEAD_LETTER_TERMS}")


def _schedule_condition(term: _Term, namespace: str) -> tuple[str, object]:
    match term.field, term.operator, term.value:
        case "function", "=", str(value):
            return "function", _function_id(value, namespace, term.position)
        case "paused", "=", "true" | "false":
            return "paused", term.value == "true"
    raise _FilterError(term.position, f"allowed are: {_SCHEDULE_TERMS}")


def _conditions(
    filter_: str, condition: Callable[[_Term], tuple[str, object]], wrong: Violations
) -> tuple[tuple[LabelFilter, ...], dict[str, Any]]:
    """Return the conditions on labels and the others, each by its field of the query."""
    labels: list[LabelFilter] = []
    others: dict[str, Any] = {}
    for term in _terms(filter_, wrong):
        try:
            if term.field.startswith("labels."):
                labels.append(_label(term))
                continue
            name, value = condition(term)
        except _FilterError as error:
            wrong.add("filter", str(error))
            continue
        if name in others:
            wrong.add("filter", f"at character {term.position}: {term.field} is given twice")
        others[name] = value
    return tuple(labels), others


def _label(term: _Term) -> LabelFilter:
    key = term.field.removeprefix("labels.")
    if not LABEL_KEY.fullmatch(key):
        raise _FilterError(term.position, "the key of a label has 1 to 63 of a-z 0-9 . _ - /")
    if (term.operator, term.value is None) not in {("=", False), (":", True)}:
        raise _FilterError(term.position, f"allowed are: {_LABEL_TERMS}")
    return LabelFilter(key, term.value)


def _terms(filter_: str, wrong: Violations) -> list[_Term]:
    """Return the terms of a filter; none if it is not written as a filter."""
    if len(filter_) > MAX_FILTER_LENGTH:
        wrong.add("filter", f"must have at most {MAX_FILTER_LENGTH} characters")
        return []
    try:
        return list(_parse(filter_))
    except _FilterError as error:
        wrong.add("filter", str(error))
        return []


def _parse(text: str) -> Iterator[_Term]:
    position = _skip(text, 0)
    while position < len(text):
        start = position
        field, position = _take(text, position, ("word",), "a field")
        operator, position = _take(text, position, ("operator",), "one of = : < >=")
        value, position = _take(text, position, ("word", "string", "any"), "a value")
        yield _Term(field, operator, _unquote(value), start + 1)
        if position == len(text):
            return
        before = position
        joint, position = _take(text, position, ("word",), "AND")
        if joint != "AND":
            raise _FilterError(before + 1, "expected AND")
        if position == len(text):
            raise _FilterError(position + 1, "expected a field")


def _take(text: str, position: int, kinds: tuple[str, ...], expected: str) -> tuple[str, int]:
    """Return the token at a position, if it is of these kinds, and where the next one starts."""
    match = _TOKEN.match(text, position)
    if match is None or match.lastgroup not in kinds:
        raise _FilterError(position + 1, f"expected {expected}")
    return match[0], _skip(text, match.end())


def _skip(text: str, position: int) -> int:
    while position < len(text) and text[position] == " ":
        position += 1
    return position


def _unquote(text: str) -> str | None:
    if text == "*":
        return None
    return _ESCAPE.sub(r"\1", text[1:-1]) if text.startswith('"') else text


def _member(kind: type[E], name: str, position: int) -> E:
    try:
        return kind[name]
    except KeyError:
        names = ", ".join(kind.__members__)
        what = "reason" if kind is FailureReason else "state"
        raise _FilterError(position, f"{what} is one of {names}") from None


def _function_id(value: str, namespace: str, position: int) -> str:
    """Return the id of a function that is given by its id or, as answers show it, its full name."""
    id_ = value.removeprefix(str(FunctionName(namespace, "")))
    if not ID_PATTERN.fullmatch(id_):
        raise _FilterError(position, "function is the id of a function of this namespace")
    return id_


def _time(value: str, position: int) -> datetime:
    try:
        if _TIME.fullmatch(value):
            return datetime.fromisoformat(value).astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise _FilterError(position, 'a time is written "2026-01-31T00:00:00Z", with quotes')


def _order(
    order_by: str, names: tuple[str, ...], default: str, wrong: Violations
) -> tuple[str, bool]:
    """Return the field to order by, and whether the order is descending."""
    match (order_by or default).split():
        case [name] if name in names:
            return name, False
        case [name, "desc"] if name in names:
            return name, True
    wrong.add("order_by", f"must be one of {', '.join(names)}, each with an optional ' desc'")
    return names[0], False
