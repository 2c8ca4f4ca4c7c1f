"""The three distributions: one version, and nothing in them but what is ours to ship."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest

import skybridge_client
import skybridge_server

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {
    # Folder of the project: folder above its packages, and the package.
    "generated": ("generated", "skybridge"),
    "client": ("client", "skybridge_client"),
    ".": ("server", "skybridge_server"),
}


def project(folder: str) -> dict[str, Any]:
    content: dict[str, dict[str, Any]] = tomllib.loads(
        (ROOT / folder / "pyproject.toml").read_text()
    )
    return content["project"]


def requirements(folder: str) -> set[str]:
    """Return the names of what a project needs."""
    return {line.split(">")[0].split("=")[0] for line in project(folder)["dependencies"]}


def test_versions_agree() -> None:
    versions = {project(folder)["version"] for folder in SOURCES}
    assert versions == {skybridge_client.__version__} == {skybridge_server.__version__}


@pytest.mark.parametrize("folder", ["client", "."])
def test_generated_code_comes_in_its_exact_version(folder: str) -> None:
    version = project("generated")["version"]
    assert f"skybridge-faas-proto=={version}" in project(folder)["dependencies"]


def test_client_needs_nothing_but_grpc() -> None:
    assert requirements("client") == {
        "googleapis-common-protos",
        "grpcio",
        "protobuf",
        "skybridge-faas-proto",
    }


def test_server_does_not_need_the_client() -> None:
    assert "skybridge-faas-client" not in requirements(".")


@pytest.mark.parametrize("folder", SOURCES)
def test_wheel_holds_the_package_and_nothing_else(folder: str, tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)],
        cwd=ROOT / folder,
        check=True,
        capture_output=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    above, package = SOURCES[folder]
    ours = {
        str(path.relative_to(ROOT / above))
        for path in (ROOT / above / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert names == ours
    assert any(name.endswith("py.typed") for name in names)
