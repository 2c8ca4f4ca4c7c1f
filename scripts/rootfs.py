"""A root file system written straight into a tar file, for `docker import`."""

from __future__ import annotations

import io
import re
import subprocess
import tarfile
from pathlib import Path, PurePosixPath
from typing import Self

USERS = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
GROUPS = "root:x:0:\nnogroup:x:65534:\n"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


class Rootfs:
    """Collects files at absolute paths; everything belongs to root and is readable by all.

    Times are kept, because Python trusts its compiled files by the time of their source.
    """

    def __init__(self, target: Path) -> None:
        self._tar = tarfile.open(target, "w")  # noqa: SIM115 - closed by __exit__
        self._seen = {PurePosixPath("/")}
        self.folder("/tmp", mode=0o1777)  # noqa: S108 - a path in the image
        self.folder("/root", mode=0o700)
        self.text("/etc/passwd", USERS)
        self.text("/etc/group", GROUPS)
        self.text("/etc/nsswitch.conf", "hosts: files dns\n")
        if CERTIFICATES.exists():
            self.file(CERTIFICATES, str(CERTIFICATES))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._tar.close()

    def folder(self, path: str, mode: int = 0o755) -> None:
        """Adds a folder and those above it."""
        self._add(tarfile.TarInfo(path), tarfile.DIRTYPE, mode)

    def text(self, path: str, content: str) -> None:
        """Adds a small file."""
        data = content.encode()
        info = tarfile.TarInfo(path)
        info.size = len(data)
        self._add(info, tarfile.REGTYPE, 0o644, io.BytesIO(data))

    def link(self, path: str, target: str) -> None:
        """Adds a symbolic link."""
        info = tarfile.TarInfo(path)
        info.linkname = target
        self._add(info, tarfile.SYMTYPE, 0o777)

    def file(self, source: Path, path: str) -> None:
        """Copies one file; a link is followed."""
        stat = source.stat()
        info = tarfile.TarInfo(path)
        info.size, info.mtime = stat.st_size, int(stat.st_mtime)
        with source.open("rb") as content:
            self._add(info, tarfile.REGTYPE, 0o755 if stat.st_mode & 0o100 else 0o644, content)

    def libraries(self, programs: list[Path]) -> None:
        """Copies the shared libraries and the loader that these programs ask for.

        All libraries go where libc is, since the loader always looks there. libgcc_s is named
        by nobody: libc loads it when a thread ends early.
        """
        libraries, loaders = shared_libraries(programs)
        if "libc.so.6" in libraries:
            home = libraries["libc.so.6"].parent
            libraries["libgcc_s.so.1"] = home / "libgcc_s.so.1"
            for name in filter(lambda name: libraries[name].exists(), libraries):
                self.file(libraries[name], str(home / name))
        for path in loaders:
            self.file(path, str(path))

    def _add(
        self, info: tarfile.TarInfo, kind: bytes, mode: int, content: io.IOBase | None = None
    ) -> None:
        path = PurePosixPath(info.name)
        if path in self._seen:
            return
        if path.parent not in self._seen:
            self.folder(str(path.parent))
        self._seen.add(path)
        info.name, info.type, info.mode = str(path.relative_to("/")), kind, mode
        self._tar.addfile(info, content)


def shared_libraries(programs: list[Path]) -> tuple[dict[str, Path], set[Path]]:
    """The libraries by name, and the loaders, that `ldd` names; none for static programs."""
    answer = subprocess.run(["ldd", *programs], capture_output=True, text=True, check=False)
    found = re.findall(r"^\s+(\S+) => (/\S+)", answer.stdout, re.MULTILINE)
    loaders = re.findall(r"^\s+(/\S+) \(0x", answer.stdout, re.MULTILINE)
    return {name: Path(path) for name, path in found}, set(map(Path, loaders))
