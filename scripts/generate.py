"""Compiles protos/ into generated/ with the pinned protoc, and the program of sandboxes.

See scripts/generate.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path

import grpc_tools
import sandbox_program
from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "generated"
# What protoc writes; py.typed and pyproject.toml beside it are written by hand.
PATTERNS = ("skybridge/**/*_pb2.py", "skybridge/**/*_pb2.pyi", "skybridge/**/*_pb2_grpc.py*")


def compile_protos(target: Path) -> None:
    """Runs protoc over every file; stubs of services only where a file holds one."""
    protos = sorted(PROTOS.glob("skybridge/**/*.proto"))
    if not protos:
        sys.exit(f"generate: no .proto file under {PROTOS}")
    services = [path for path in protos if re.search(r"^service ", path.read_text(), re.MULTILINE)]
    run_protoc(protos, f"--python_out={target}", f"--mypy_out=quiet:{target}")
    run_protoc(services, f"--grpc_python_out={target}", f"--mypy_grpc_out=quiet:{target}")


def run_protoc(protos: list[Path], *outputs: str) -> None:
    """Calls protoc in this process; its plugins are found beside the running Python."""
    include = Path(grpc_tools.__file__).parent / "_proto"
    command = ["protoc", f"-I{PROTOS}", f"-I{include}", *outputs, *map(str, protos)]
    if protoc.main(command) != 0:
        sys.exit("generate: protoc refused the protos, see above")


def contents(folder: Path) -> dict[Path, bytes]:
    """The generated files of a folder, by their path in it."""
    files = (path for pattern in PATTERNS for path in folder.glob(pattern))
    return {path.relative_to(folder): path.read_bytes() for path in files}


def update(path: Path, content: bytes | None) -> None:
    """Writes one file, or removes it where its proto is gone."""
    target = GENERATED / path
    if content is None:
        target.unlink()
    else:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)


def main() -> None:
    """Compares a fresh compilation with generated/, and mends or reports what differs."""
    os.environ["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    with tempfile.TemporaryDirectory() as folder:
        compile_protos(Path(folder))
        wanted = contents(Path(folder))
    present = contents(GENERATED)
    stale = sorted(
        path for path in wanted.keys() | present.keys() if wanted.get(path) != present.get(path)
    )
    if "--check" in sys.argv[1:]:
        report([*(GENERATED / path for path in stale), *sandbox_program.stale()])
        return
    for path in stale:
        update(path, wanted.get(path))
    sandbox_program.update()


def report(stale: list[Path]) -> None:
    """Names what is stale, and fails where anything is."""
    if stale:
        names = (f"stale: {path.relative_to(ROOT)}" for path in stale)
        sys.exit("\n".join([*names, "run scripts/generate"]))


if __name__ == "__main__":
    main()
