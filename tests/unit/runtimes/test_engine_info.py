from __future__ import annotations

from skybridge_server.runtimes.docker_engine.info import to_engine_info

VERSION = {"Version": "28.1.0", "ApiVersion": "1.49", "Os": "linux", "Arch": "arm64"}


def test_an_engine_that_can_do_everything() -> None:
    info = to_engine_info(
        VERSION,
        {
            "CgroupVersion": "2",
            "Runtimes": {"runc": {}, "crun": {}},
            "MemoryLimit": True,
            "SwapLimit": True,
            "CpuCfsQuota": True,
            "PidsLimit": True,
        },
    )
    assert info.engine == "docker 28.1.0"
    assert (info.api_version, info.platform, info.cgroup_version) == ("1.49", "linux/arm64", 2)
    assert info.oci_runtimes == ("crun", "runc")
    assert info.unsupported_limits == ()


def test_limits_that_it_cannot_enforce_are_named() -> None:
    info = to_engine_info(
        VERSION, {"MemoryLimit": True, "SwapLimit": False, "CpuCfsQuota": False, "PidsLimit": False}
    )
    assert info.unsupported_limits == (
        "resources.memory_bytes",
        "resources.cpu_millis",
        "resources.pids",
    )
    assert info.cgroup_version == 0


def test_podman_in_the_place_of_docker() -> None:
    version = {**VERSION, "Version": "4.3.1", "Components": [{"Name": "Podman Engine"}]}
    assert to_engine_info(version, {}).engine == "podman 4.3.1"
