"""The options that describe a function: those of `function create`, `function update` and `up`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import typer

from skybridge_client.cli.session import parsed, seconds
from skybridge_client.cli.text import parse_pairs, parse_size
from skybridge_client.specs import FunctionFields

PANEL = "The function"


def _size(text: str) -> int:
    return int(parsed(parse_size, text))


def _option(kind: Any, name: str, about: str, **more: Any) -> Any:
    return Annotated[kind | None, typer.Option(name, help=about, rich_help_panel=PANEL, **more)]


_BYTES: dict[str, Any] = {"parser": _size, "metavar": "SIZE"}
_TIME: dict[str, Any] = {"parser": seconds, "metavar": "DURATION"}
_PAIR: dict[str, Any] = {"metavar": "K=V"}

OPTIONS: dict[str, Any] = {
    "description": _option(str, "--description", "What it does, in words."),
    "labels": _option(list[str], "--label", "A label; repeatable, replaces all.", **_PAIR),
    "image": _option(str, "--image", "Image, by tag or digest."),
    "command": _option(list[str], "--command", "A word in place of ENTRYPOINT; repeatable."),
    "args": _option(list[str], "--arg", "A word in place of CMD; repeatable."),
    "env": _option(list[str], "--env", "A variable; repeatable, replaces all.", **_PAIR),
    "secrets": _option(
        list[str],
        "--secret",
        "The secret NAME, in /run/secrets/FILE; repeatable, replaces all.",
        metavar="FILE=NAME",
    ),
    "working_dir": _option(str, "--working-dir", "Working directory."),
    "contract": _option(
        Literal["stdio", "http", "lambda"], "--contract", "How input gets in and output out."
    ),
    "port": _option(int, "--port", "HTTP: where it listens."),
    "path": _option(str, "--path", "HTTP: where input is posted to."),
    "health_path": _option(str, "--health-path", "HTTP: path that tells when it is ready."),
    "input_mode": _option(Literal["stdin", "env"], "--input-mode", "Where the input stands."),
    "memory_bytes": _option(int, "--memory", "Memory, such as 128MiB.", **_BYTES),
    "cpu_millis": _option(int, "--cpu-millis", "Processor time in thousandths of a core."),
    "pids": _option(int, "--pids", "Processes and threads."),
    "tmp_bytes": _option(int, "--tmp", "Size of /tmp, such as 64MiB.", **_BYTES),
    "output_bytes": _option(int, "--output-limit", "Kept bytes of output.", **_BYTES),
    "queue_timeout": _option(float, "--queue-timeout", "For waiting for a place.", **_TIME),
    "start_timeout": _option(float, "--start-timeout", "For starting.", **_TIME),
    "execution_timeout": _option(float, "--execution-timeout", "For running.", **_TIME),
    "shutdown_grace": _option(float, "--shutdown-grace", "From SIGTERM to SIGKILL.", **_TIME),
    "idle_timeout": _option(float, "--idle-timeout", "Instances kept idle so long.", **_TIME),
    "max_concurrency": _option(int, "--max-concurrency", "Executions that run at once."),
    "max_queue_depth": _option(int, "--max-queue-depth", "Executions that wait."),
    "min_instances": _option(
        int, "--min-instances", "Instances, or containers of STDIO, made ahead."
    ),
    "max_instances": _option(int, "--max-instances", "Instances at once."),
    "instance_concurrency": _option(
        int, "--instance-concurrency", "Executions that an instance takes at once."
    ),
    "max_executions_per_instance": _option(
        int, "--max-executions-per-instance", "Executions until an instance is replaced."
    ),
    "reuse": _option(
        Literal["allowed", "never"], "--reuse", "Whether an instance takes several executions."
    ),
    "pause_after": _option(float, "--pause-after", "Idle instances paused then.", **_TIME),
    "durability": _option(
        Literal["committed", "deferred"], "--durability", "When a warm execution is answered."
    ),
    "network": _option(Literal["none", "egress"], "--network", "What it can reach."),
    "user": _option(str, "--user", "User, uid or uid:gid."),
    "writable_root": _option(
        bool, "--writable-root/--read-only-root", "Whether it can write to its root file system."
    ),
    "oci_runtime": _option(str, "--oci-runtime", "OCI runtime, such as runsc."),
    "pull_policy": _option(
        Literal["always", "if_not_present", "never"], "--pull-policy", "When to pull the image."
    ),
    "runtime": _option(str, "--runtime", "Container engine, see `skybridge runtimes`."),
    "execution_age": _option(float, "--execution-age", "Executions kept so long.", **_TIME),
    "max_executions": _option(int, "--max-executions", "Executions that are kept."),
    "max_revisions": _option(int, "--max-revisions", "Revisions that are kept."),
    "max_attempts": _option(int, "--max-attempts", "Attempts in all, where nobody waits."),
    "initial_backoff": _option(float, "--initial-backoff", "To the second attempt.", **_TIME),
    "max_backoff": _option(float, "--max-backoff", "Between two attempts at most.", **_TIME),
    "backoff_coefficient": _option(
        float, "--backoff-coefficient", "How many times longer each further backoff is."
    ),
    "backoff_jitter": _option(float, "--backoff-jitter", "Share left to chance, 0 to 1."),
    "retry_max_age": _option(float, "--retry-max-age", "No attempt begins later.", **_TIME),
    "retry_on": _option(
        list[str], "--retry-on", "A failure to try again, such as exit_code; repeatable."
    ),
    "retry_exit_codes": _option(
        list[int], "--retry-exit-code", "Only with this exit code; repeatable."
    ),
    "dead_letters": _option(
        bool, "--dead-letters/--no-dead-letters", "Whether to keep what failed for good."
    ),
    "on_success_function": _option(str, "--on-success-function", "Function to tell of success."),
    "on_success_url": _option(str, "--on-success-url", "URL to tell of success."),
    "on_success_secret": _option(str, "--on-success-secret", "Signs that: whsec_ and base64."),
    "on_failure_function": _option(str, "--on-failure-function", "Function to tell of failure."),
    "on_failure_url": _option(str, "--on-failure-url", "URL to tell of failure."),
    "on_failure_secret": _option(str, "--on-failure-secret", "Signs that: whsec_ and base64."),
}
"""An option for each keyword of FunctionFields."""


_PAIRS = ("labels", "env", "secrets")


def function_fields(given: Mapping[str, Any]) -> FunctionFields:
    """The keywords that were given as options; K=V words become dictionaries."""
    pairs = {key: parsed(parse_pairs, given[key]) for key in _PAIRS if key in given}
    return FunctionFields(**{**given, **pairs})  # type: ignore[typeddict-item]
