"""What became of it all: every execution, from the server's own records."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import dataclass, field

from skybridge_client import AsyncClient, Execution, ExecutionState, FailureReason, is_final
from tests.chaos.load import TOKEN, Ledger, expected
from tests.support.functions import collect
from tests.support.server import Server
from tests.support.waiting import until

PATIENCE = 300
"""Seconds for all that was accepted to end, and for all containers to go."""
AT_ONCE = 16
UNKNOWN_ENDS = {"LOST", "RUNTIME_UNAVAILABLE"}
DUE_TIME = "skybridge.due-time"
INSTANCE = "skybridge.instance"


@dataclass(slots=True)
class Findings:
    """How many, and which went wrong."""

    accepted: int = 0
    finished: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    duplicated: list[str] = field(default_factory=list)
    leaked: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    @property
    def good(self) -> bool:
        return not (self.lost or self.duplicated or self.leaked or self.wrong)

    def lines(self) -> list[str]:
        """Return what to print."""
        found = [f"accepted {self.accepted}", *_counts(self.finished), "failed by cause:"]
        found += _counts(self.failures, "  ") or ["  none"]
        for name in ("lost", "duplicated", "leaked", "wrong"):
            values = getattr(self, name)
            found.append(f"{name} {len(values)}")
            found += [f"  {value}" for value in values]
        return found


def _counts(counter: Counter[str], indent: str = "") -> list[str]:
    return [f"{indent}{name} {count}" for name, count in sorted(counter.items())]


class Audit:
    """Looks at every execution once nothing disturbs it any more."""

    def __init__(self, server: Server, client: AsyncClient, ledger: Ledger) -> None:
        self._server = server
        self._client = client
        self._ledger = ledger
        self._findings = Findings()
        self._places = asyncio.Semaphore(AT_ONCE)

    async def run(self) -> Findings:
        """Wait until all has ended, and compare it with what callers were told."""
        findings, accepted = self._findings, self._ledger.accepted
        with_end = await self._settled()
        findings.accepted = len(accepted.keys() | with_end.keys())
        findings.lost += sorted(accepted.keys() - with_end.keys())
        for execution in with_end.values():
            if not is_final(execution):
                findings.lost.append(f"{execution.name} is {_word(execution)}")
        self._look_for_twins(with_end)
        await asyncio.gather(*(self._look_at(each) for each in with_end.values()))
        await self._look_for_leaks()
        return findings

    async def _settled(self) -> dict[str, Execution]:
        found: dict[str, Execution] = {}

        async def all_ended() -> bool:
            found.clear()
            found.update({each.name: each async for each in self._client.list_executions()})
            return all(is_final(each) for each in found.values())

        try:
            await until(all_ended, "all executions to end", PATIENCE)
        except AssertionError as error:
            print(error)
        return found

    def _look_for_twins(self, executions: dict[str, Execution]) -> None:
        """No request and no due time may have two executions."""
        labels = [each.labels for each in executions.values()]
        for label in (TOKEN, DUE_TIME):
            counts = Counter(each.get(label, "") for each in labels)
            twins = [value for value, count in counts.items() if value and count > 1]
            self._findings.duplicated += [f"{label} {value}" for value in twins]

    async def _look_at(self, listed: Execution) -> None:
        async with self._places:
            execution = await self._client.get_execution(listed.name)
            events = await collect(self._client.watch(listed.name))
        name, findings = execution.name, self._findings
        findings.finished[_word(execution)] += 1
        if [event.sequence for event in events] != [*range(1, len(events) + 1)]:
            findings.lost.append(f"{name}: its journal has holes")
        results = [number for number, event in enumerate(events, 1) if event.HasField("result")]
        if results != [len(events)]:
            findings.duplicated.append(f"{name} has the results {results} of {len(events)}")
        token = execution.labels.get(TOKEN, "timed")
        whole = expected(token)
        if execution.HasField("failure"):
            findings.failures[_cause(execution)] += 1
            if not whole.startswith(execution.output):
                findings.wrong.append(f"{name} failed, and wrote {execution.output!r}")
        elif execution.output != whole:
            findings.wrong.append(f"{name} wrote {execution.output!r}, not {whole!r}")
        if self._ledger.streamed.get(name, whole) != whole:
            findings.wrong.append(f"{name}: its caller saw {self._ledger.streamed[name]!r}")
        told = self._ledger.ends.get(name, execution)
        if _end(told) != _end(execution):
            findings.duplicated.append(f"{name} is {_end(execution)}, and was {_end(told)}")

    async def _look_for_leaks(self) -> None:
        """Wait until there are containers of instances only: those are kept."""
        left: list[str] = []

        async def none_left() -> bool:
            found = await asyncio.to_thread(self._server.containers)
            kept = {each.name async for each in self._client.list_instances()}
            left[:] = [str(each.name) for each in found if each.labels.get(INSTANCE) not in kept]
            return not left

        try:
            await until(none_left, "all containers to go", PATIENCE)
        except AssertionError:
            self._findings.leaked += left


def _end(execution: Execution) -> tuple[str, str, int]:
    """Return what a caller relies on, once told."""
    return _word(execution), _reason(execution), execution.last_sequence


def _word(execution: Execution) -> str:
    return ExecutionState.Name(execution.state).removeprefix("EXECUTION_STATE_")


def _cause(execution: Execution) -> str:
    """Return why it failed; where nobody can know what became of it, in whole."""
    reason = _reason(execution)
    return f"{reason}: {execution.failure.message}" if reason in UNKNOWN_ENDS else reason


def _reason(execution: Execution) -> str:
    return FailureReason.Name(execution.failure.reason).removeprefix("FAILURE_REASON_")
