"""What a function may set whose instances are kept, and what goes with an input."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from skybridge_server.models.executions import Envelope
from skybridge_server.models.functions import (
    MIB,
    Contract,
    ContractKind,
    Durability,
    FunctionSpec,
    InputMode,
    Resources,
    Reuse,
    Scaling,
    Timeouts,
)
from skybridge_server.services import warm_rules
from skybridge_server.services.violations import Violations
from tests.limits import LIMITS

HTTP, LAMBDA = Contract(ContractKind.HTTP), Contract(ContractKind.LAMBDA)
SECOND = timedelta(seconds=1)


def wrong_in(contract: Contract, **changes: Any) -> list[str]:
    wrong = Violations()
    warm_rules.check(FunctionSpec("a", contract=contract, **changes), LIMITS, "spec", wrong)
    return [violation.field.removeprefix("spec.") for violation in wrong]


@pytest.mark.parametrize("contract", [Contract(), HTTP, LAMBDA])
def test_the_defaults_are_right(contract: Contract) -> None:
    assert wrong_in(contract) == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_instances", 1),
        ("instance_concurrency", 2),
        ("max_executions_per_instance", 1),
        ("reuse", Reuse.NEVER),
        ("pause_after", SECOND),
    ],
)
def test_a_process_per_execution_has_no_instances(name: str, value: object) -> None:
    scaling: dict[str, Any] = {name: value}
    assert wrong_in(Contract(), scaling=Scaling(**scaling)) == [f"scaling.{name}"]
    assert wrong_in(HTTP, scaling=Scaling(**scaling)) == []


def test_what_is_created_ahead_cannot_know_its_input() -> None:
    most, stdin = LIMITS.max_instances, Contract()
    assert wrong_in(stdin, scaling=Scaling(min_instances=most)) == []
    assert wrong_in(stdin, scaling=Scaling(min_instances=most + 1)) == ["scaling.min_instances"]
    assert wrong_in(stdin, scaling=Scaling(min_instances=-1)) == ["scaling.min_instances"]
    by_env = replace(stdin, input=InputMode.ENV)
    assert wrong_in(by_env) == []
    assert wrong_in(by_env, scaling=Scaling(min_instances=1)) == ["contract.input"]


def test_all_that_needs_another_contract_is_named_at_once() -> None:
    contract = Contract(port=1, path="/a", health_path="/b")
    found = wrong_in(contract, timeouts=Timeouts(idle=SECOND), durability=Durability.DEFERRED)
    http = ["contract.port", "contract.path", "contract.health_path"]
    assert found == [*http, "timeouts.idle", "durability"]
    assert wrong_in(replace(contract, kind=ContractKind.LAMBDA)) == http
    assert wrong_in(replace(HTTP, input=InputMode.ENV)) == ["contract.input"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"port": 0}, "port"),
        ({"port": 65536}, "port"),
        ({"path": "work"}, "path"),
        ({"path": "/a b"}, "path"),
        ({"path": "/\r\nhost: evil"}, "path"),
        ({"path": "/" + "a" * 2048}, "path"),
        ({"health_path": "health"}, "health_path"),
    ],
)
def test_where_a_function_listens(changes: dict[str, Any], field: str) -> None:
    assert wrong_in(replace(HTTP, **changes)) == [f"contract.{field}"]


@pytest.mark.parametrize(
    ("scaling", "field"),
    [
        (Scaling(min_instances=-1), "min_instances"),
        (Scaling(min_instances=LIMITS.max_instances + 1), "min_instances"),
        (Scaling(min_instances=3, max_instances=2), "max_instances"),
        (Scaling(max_instances=1001), "max_instances"),
        (Scaling(instance_concurrency=0), "instance_concurrency"),
        (Scaling(instance_concurrency=1001), "instance_concurrency"),
        (Scaling(instance_concurrency=2, reuse=Reuse.NEVER), "instance_concurrency"),
        (Scaling(max_executions_per_instance=-1), "max_executions_per_instance"),
        (
            Scaling(max_executions_per_instance=2, reuse=Reuse.NEVER),
            "max_executions_per_instance",
        ),
        (Scaling(pause_after=SECOND / 5), "pause_after"),
        (Scaling(pause_after=timedelta(days=2)), "pause_after"),
    ],
)
def test_what_scaling_may_be(scaling: Scaling, field: str) -> None:
    assert wrong_in(HTTP, scaling=scaling) == [f"scaling.{field}"]


def test_an_instance_must_fit_into_the_budget() -> None:
    large = Resources(memory_bytes=8192 * MIB, cpu_millis=50_000)
    assert wrong_in(HTTP, resources=large) == ["resources.memory_bytes", "resources.cpu_millis"]
    assert wrong_in(HTTP, timeouts=Timeouts(idle=SECOND / 2)) == ["timeouts.idle"]


def wrong_with(content_type: str = "", **headers: str) -> list[str]:
    wrong = Violations()
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    warm_rules.check_envelope(Envelope(content_type, fields), "options", wrong)
    return [violation.field for violation in wrong]


def test_what_goes_with_an_input() -> None:
    assert wrong_with("text/plain", ce_id="7", empty="") == []
    assert wrong_with("a\r\nb") == ["options.content_type"]
    assert wrong_with("a" * 256) == ["options.content_type"]
    assert wrong_with(host="x") == ["options.headers['host']"]
    assert wrong_with(Content_Length="1") == ["options.headers['Content-Length']"]
    assert wrong_with(x_skybridge_a="1") == ["options.headers['x-skybridge-a']"]
    assert wrong_with(a="b\r\nhost: evil") == ["options.headers['a']"]
    assert wrong_with(**{"a b": "c"}) == ["options.headers['a b']"]
    assert wrong_with(a="x" * 20_000) == ["options.headers"]
    assert wrong_with(**{f"h{n}": "" for n in range(65)}) == ["options.headers"]
