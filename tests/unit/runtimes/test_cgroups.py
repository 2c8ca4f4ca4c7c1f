from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from skybridge_server.models.executions import Usage
from skybridge_server.runtimes.docker_engine.cgroups import read_processes, read_usage

V1 = {"CgroupVersion": "1", "CgroupDriver": "cgroupfs"}
V2 = {"CgroupVersion": "2", "CgroupDriver": "systemd"}


def write(root: Path, **files: str) -> None:
    root.mkdir(parents=True)
    for name, content in files.items():
        (root / name.replace("_", ".", 1)).write_text(content)


def test_version_1(tmp_path: Path) -> None:
    write(tmp_path / "cpuacct/docker/1a", cpuacct_usage="22477001\n")
    write(
        tmp_path / "memory/docker/1a",
        memory_max_usage_in_bytes="4198400\n",
        memory_oom_control="oom_kill_disable 0\nunder_oom 0\noom_kill 2\n",
    )
    used = timedelta(microseconds=22477)
    assert read_usage(V1, "1a", tmp_path) == Usage(used, 4198400, oom_killed=True)


def test_version_2(tmp_path: Path) -> None:
    write(
        tmp_path / "system.slice/docker-1a.scope",
        cpu_stat="usage_usec 1500\nuser_usec 1000\n",
        memory_peak="8192\n",
        memory_events="oom 0\noom_kill 0\n",
    )
    expected = Usage(timedelta(microseconds=1500), 8192, oom_killed=False)
    assert read_usage(V2, "1a", tmp_path) == expected


@pytest.mark.parametrize("info", [V1, V2, {}])
def test_nothing_is_shown_of_a_group_that_is_gone(info: dict[str, str], tmp_path: Path) -> None:
    assert read_usage(info, "1a", tmp_path) == Usage()


def test_what_the_kernel_does_not_count_is_unknown(tmp_path: Path) -> None:
    write(tmp_path / "system.slice/docker-1a.scope", cpu_stat="nr_periods 0\n", memory_peak="max\n")
    assert read_usage(V2, "1a", tmp_path) == Usage()


def test_processes(tmp_path: Path) -> None:
    write(tmp_path / "pids/docker/1a", pids_current="7\n")
    assert read_processes(V1, "1a", tmp_path) == 7
    write(tmp_path / "system.slice/docker-1a.scope", pids_current="9\n")
    assert read_processes(V2, "1a", tmp_path) == 9
    assert read_processes(V2, "2b", tmp_path) is None
