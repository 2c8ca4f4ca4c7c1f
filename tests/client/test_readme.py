"""What the client's README says of its command is so."""

from __future__ import annotations

import re
from pathlib import Path

from skybridge_client.cli import exits
from skybridge_client.cli.manifest import Manifest, load

README = (Path(__file__).parents[2] / "client" / "README.md").read_text()


def test_the_example_of_skybridge_toml_is_read(tmp_path: Path) -> None:
    example = README.partition("```toml\n")[2].partition("```")[0]
    (tmp_path / "skybridge.toml").write_text(example)
    assert load(tmp_path) == Manifest(
        name="resize",
        fields={
            "network": "egress",
            "memory_bytes": 256 << 20,
            "execution_timeout": 120.0,
            "env": {"QUALITY": "80"},
        },
        dockerfile="Dockerfile",
        image="skybridge-local/resize",
        args={"BASE": "python:3.13-slim"},
    )


def test_every_exit_code_is_told() -> None:
    numbers = {value for value in vars(exits).values() if isinstance(value, int)}
    told = set(map(int, re.findall(r"\b\d+\b", README.partition("| exit code |")[2])))
    assert numbers < told
    assert numbers <= set(map(int, re.findall(r"\b\d+\b", exits.HELP)))
