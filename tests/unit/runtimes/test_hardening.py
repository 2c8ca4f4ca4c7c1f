from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from skybridge_server.models.functions import MIB, Isolation, Network, Resources
from skybridge_server.runtimes.base import ContainerSpec
from skybridge_server.runtimes.docker_engine.hardening import container_config, host_options

INFO: dict[str, Any] = {"NCPU": 2, "Plugins": {"Log": ["json-file", "local"]}}


def spec(**changes: Any) -> ContainerSpec:
    fields: dict[str, Any] = {
        "name": "one",
        "image_id": "sha256:1",
        "command": (),
        "args": (),
        "env": {"A": "1"},
        "labels": {"l": "2"},
        "working_dir": "",
        "resources": Resources(),
        "network": Network.NONE,
        "isolation": Isolation(),
        "stop_grace": timedelta(seconds=5),
    }
    return ContainerSpec(**{**fields, **changes})


def test_defaults_are_the_strictest() -> None:
    options = host_options(INFO, spec())
    assert options["cap_drop"] == ["ALL"]
    assert options["security_opt"] == ["no-new-privileges"]
    assert options["read_only"] is True
    assert options["network_mode"] == "none"
    assert options["mem_limit"] == options["memswap_limit"] == 128 * MIB
    assert options["nano_cpus"] == 10**9
    assert options["pids_limit"] == 128
    assert options["runtime"] is None
    assert options["tmpfs"] == {"/tmp": f"size={64 * MIB},mode=1777,nosuid,nodev,exec"}


def test_what_is_opened_is_opened_alone() -> None:
    isolation = Isolation(user="0", writable_root=True, oci_runtime="runsc")
    options = host_options(INFO, spec(isolation=isolation, network=Network.EGRESS))
    assert options["read_only"] is False
    assert options["network_mode"] == "skybridge-egress"
    assert options["runtime"] == "runsc"
    assert options["cap_drop"] == ["ALL"]
    assert options["security_opt"] == ["no-new-privileges"]


@pytest.mark.parametrize(("millis", "nano"), [(10, 10**7), (2000, 2 * 10**9), (9000, 2 * 10**9)])
def test_no_more_processors_than_there_are(millis: int, nano: int) -> None:
    assert host_options(INFO, spec(resources=Resources(cpu_millis=millis)))["nano_cpus"] == nano


def test_the_log_holds_the_output_that_is_kept() -> None:
    log = host_options(INFO, spec(resources=Resources(output_bytes=3 * MIB)))["log_config"]
    assert log["Type"] == "local"
    assert log["Config"]["max-size"] == str(3 * MIB)
    old = host_options({"NCPU": 2}, spec(resources=Resources(output_bytes=1)))["log_config"]
    assert old["Type"] == "json-file"
    assert old["Config"]["max-size"] == str(MIB)


def test_commands_replace_only_what_they_name() -> None:
    config = container_config(spec())
    assert (config["entrypoint"], config["command"]) == (None, None)
    config = container_config(spec(command=("a", "b"), args=("c",)))
    assert (config["entrypoint"], config["command"]) == (["a", "b"], ["c"])


def test_the_container_is_what_the_specification_says() -> None:
    config = container_config(spec(working_dir="/work", stop_grace=timedelta(seconds=1.2)))
    assert config["image"] == "sha256:1"
    assert config["environment"] == {"A": "1"}
    assert config["labels"] == {"l": "2"}
    assert config["working_dir"] == "/work"
    assert config["user"] == "65532:65532"
    assert config["stop_timeout"] == 2
    assert config["stdin_open"]
    assert not config["tty"]
