"""Builds base images from what this machine has; see scripts/images."""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from importlib.metadata import Distribution, distribution
from pathlib import Path, PurePosixPath
from typing import NoReturn

import docker
from docker.errors import DockerException, ImageNotFound
from docker.models.images import Image
from packaging.requirements import Requirement
from rootfs import Rootfs

LABEL = "skybridge.recipe"
HERE = Path(__file__).resolve().parent
# Parts of the standard library that no function needs.
UNUSED = {
    "config-*",
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "test",
    "tests",
    "tkinter",
    "turtledemo",
    "_tkinter.*",
    "*.opt-?.pyc",
}


@dataclass(frozen=True)
class Recipe:
    """How one image is made, and the command that proves it good.

    `public` is pulled and renamed where this machine's programs cannot run in the engine.
    """

    tag: str
    public: str
    source: Path | None
    write: Callable[[Rootfs], None]
    command: list[str]
    proof: list[str]
    packages: tuple[str, ...] = ()

    def fingerprint(self) -> str:
        """Changes when the recipe or the program it copies does."""
        digest = hashlib.sha256()
        for name in ("images.py", "rootfs.py"):
            digest.update((HERE / name).read_bytes())
        if self.source:
            stat = self.source.stat()
            digest.update(f"{self.source} {stat.st_size} {stat.st_mtime_ns}".encode())
        digest.update(versions(self.packages).encode())
        return digest.hexdigest()[:16]


def fail(message: str) -> NoReturn:
    """Ends the script with one line."""
    sys.exit(f"images: {message}")


# --- what goes in ---------------------------------------------------------------------------


def busybox_program(folder: Path) -> Path:
    """The machine's busybox, else Debian's static one, unpacked but not installed."""
    present = shutil.which("busybox")
    if present:
        return Path(present).resolve()
    if not shutil.which("apt-get"):
        fail("no busybox here: install busybox-static")
    download = ["apt-get", "download", "busybox-static"]
    if subprocess.run(download, cwd=folder, capture_output=True, check=False).returncode:
        # A fresh machine has no package lists yet.
        subprocess.run(["apt-get", "update"], capture_output=True, check=False)
        if subprocess.run(download, cwd=folder, capture_output=True, check=False).returncode:
            fail("busybox-static cannot be downloaded: run 'apt-get update' as root")
    package = next(folder.glob("busybox-static_*.deb"))
    subprocess.run(["dpkg", "-x", package, folder], check=True)
    return next(
        path for path in (folder / "bin/busybox", folder / "usr/bin/busybox") if path.exists()
    )


def write_busybox(root: Rootfs) -> None:
    """A shell and the usual small programs."""
    with tempfile.TemporaryDirectory() as folder:
        program = busybox_program(Path(folder))
        applets = subprocess.run(
            [program, "--list"], capture_output=True, text=True, check=True
        ).stdout.split()
        root.file(program, "/bin/busybox")
        root.libraries([program])
    for applet in applets:
        root.link(f"/bin/{applet}", "busybox")
    root.link("/usr/bin/env", "/bin/busybox")


def base_python() -> Path:
    """The interpreter under this virtual environment."""
    return Path(getattr(sys, "_base_executable", sys.executable)).resolve()


def write_python(root: Rootfs) -> None:
    """This interpreter and its standard library, moved to /usr/local, and a shell."""
    write_busybox(root)
    prefix = Path(sys.base_prefix).resolve()
    library = Path(sysconfig.get_path("stdlib")).resolve()
    files = sorted(standard_library(library))
    for path in files:
        root.file(path, f"/usr/local/{path.relative_to(prefix)}")
    program = base_python()
    root.file(program, f"/usr/local/bin/{program.name}")
    root.libraries([program, *(path for path in files if path.suffix == ".so")])
    for name in {"python", "python3"} - {program.name}:
        root.link(f"/usr/local/bin/{name}", program.name)
    root.link("/usr/bin/python3", "/usr/local/bin/python3")


def standard_library(folder: Path) -> Iterator[Path]:
    """The files of the standard library, without the parts that no function needs."""
    for entry in folder.iterdir():
        if any(entry.match(pattern) for pattern in UNUSED):
            continue
        if entry.is_dir():
            yield from standard_library(entry)
        else:
            yield entry


# What examples ask pip for: with these there, it has nothing to fetch.
PACKAGES = ("awslambdaric", "functions-framework", "pip")


def write_python_packages(root: Rootfs) -> None:
    """Python, pip, and the packages that functions of the warm contracts are written with."""
    write_python(root)
    home = PurePosixPath("/usr/local", *Path(sysconfig.get_path("stdlib")).parts[-2:])
    programs = []
    for package in closure(PACKAGES):
        for file in package.files or ():
            source = Path(str(file.locate()))
            if ".." in file.parts or not source.is_file():
                continue  # a program, or what was never compiled
            root.file(source, str(home / "site-packages" / file))
            programs += [source] if source.suffix == ".so" else []
    root.libraries(programs)


def closure(names: Iterable[str]) -> list[Distribution]:
    """These packages of the virtual environment, and all that they need."""
    found: dict[str, Distribution] = {}
    missing = [Requirement(name) for name in names]
    while missing:
        requirement = missing.pop()
        marker = requirement.marker
        if requirement.name in found or (marker and not marker.evaluate({"extra": ""})):
            continue
        found[requirement.name] = package = distribution(requirement.name)
        missing += map(Requirement, package.requires or ())
    return [*found.values()]


def versions(names: Iterable[str]) -> str:
    """The packages and all that they need, each with its version."""
    return " ".join(sorted(f"{each.name}=={each.version}" for each in closure(names)))


def node_program() -> Path | None:
    """The machine's Node, where it has one."""
    found = shutil.which("node")
    return Path(found).resolve() if found else None


def write_node(root: Rootfs) -> None:
    """Node and a shell."""
    write_busybox(root)
    program = node_program()
    assert program  # noqa: S101 - recipes() asked before
    root.file(program, "/usr/local/bin/node")
    root.libraries([program])


def recipes() -> list[Recipe]:
    """What this machine can make."""
    python_proof = "import asyncio, ctypes, json, sqlite3, ssl"
    found = [
        Recipe(
            "skybridge-local/busybox:latest",
            "busybox:1.36",
            None,
            write_busybox,
            ["sh"],
            ["sh", "-c", "ls / | cat"],
        ),
        # The name is that of the public image it stands for; it holds the Python of this machine.
        Recipe(
            "skybridge-local/python:3.11",
            "python:3.11-slim",
            base_python(),
            write_python,
            ["python3"],
            ["python3", "-c", python_proof],
        ),
        Recipe(
            "skybridge-local/python-packages:3.11",
            "python:3.11-slim",
            base_python(),
            write_python_packages,
            ["python3"],
            ["python3", "-c", "import awslambdaric.bootstrap, functions_framework, runtime_client"],
            PACKAGES,
        ),
    ]
    if node_program() or sys.platform != "linux":
        node = Recipe(
            "skybridge-local/node:20",
            "node:20-slim",
            node_program(),
            write_node,
            ["node"],
            ["node", "-e", "require('crypto')"],
        )
        found.append(node)
    return found


# --- making them ----------------------------------------------------------------------------


def find(client: docker.DockerClient, recipe: Recipe) -> Image | None:
    """The image that has the recipe's name now."""
    try:
        return client.images.get(recipe.tag)
    except ImageNotFound:
        return None


def current(image: Image | None, recipe: Recipe) -> bool:
    """The image is there and made by this very recipe."""
    if image is None or sys.platform != "linux":
        return image is not None
    return image.labels.get(LABEL) == recipe.fingerprint()


def build(client: docker.DockerClient, recipe: Recipe) -> None:
    """Makes the image and runs its proof; an image that fails it loses its name."""
    repository, tag = recipe.tag.split(":")
    if sys.platform == "linux":
        import_image(client, recipe, repository, tag)
    else:
        client.images.pull(recipe.public).tag(repository, tag)
    try:
        client.containers.run(recipe.tag, recipe.proof, remove=True, network_mode="none")
    except DockerException as error:
        client.images.remove(recipe.tag, force=True)
        fail(f"{recipe.tag} does not run: {error}")


def import_image(client: docker.DockerClient, recipe: Recipe, repository: str, tag: str) -> None:
    """Hands a root file system to the engine as one layer."""
    changes = [
        "ENV PATH=/usr/local/bin:/usr/bin:/bin",
        f"CMD {json.dumps(recipe.command)}",
        f"LABEL {LABEL}={recipe.fingerprint()}",
    ]
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "rootfs.tar"
        with Rootfs(archive) as root:
            recipe.write(root)
        client.api.import_image_from_file(
            str(archive), repository=repository, tag=tag, changes=changes
        )


def ensure(client: docker.DockerClient, recipe: Recipe) -> None:
    """Builds what is missing or old; what it replaces goes, unless something still uses it."""
    old = find(client, recipe)
    if current(old, recipe):
        return
    started = time.monotonic()
    build(client, recipe)
    if old:
        with contextlib.suppress(DockerException):
            client.images.remove(str(old.id))
    print(f"images: {recipe.tag} made in {time.monotonic() - started:.1f} s")


def main() -> None:
    """Builds what is missing or old, or lists it."""
    client = docker.from_env()
    for recipe in recipes():
        if "--list" not in sys.argv[1:]:
            ensure(client, recipe)
        else:
            print(recipe.tag, "ready" if current(find(client, recipe), recipe) else "missing")


if __name__ == "__main__":
    try:
        main()
    except DockerException as error:
        fail(str(error))
