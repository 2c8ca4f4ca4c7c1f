"""Where a server listens."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import ip_address
from typing import Self


@dataclass(frozen=True, slots=True)
class Address:
    """Where to listen: a host and a port, 0 for a free one, or the path of a unix socket."""

    host: str = ""
    port: int = 0
    path: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `HOST:PORT`, `[IPv6]:PORT` or `unix:PATH`. ValueError."""
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            # unix:///run/x is the form of URLs, unix:/run/x that of gRPC.
            path = "/" + path.lstrip("/") if path.startswith("//") else path
            if not path:
                raise ValueError("must name a socket, such as unix:/run/skybridge/skybridge.sock")
            return cls(path=path)
        host, _, port = text.rpartition(":")
        host = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        if not host or not port.isascii() or not port.isdecimal() or int(port) > 65535:
            raise ValueError("must be HOST:PORT with a port up to 65535, such as 127.0.0.1:50051")
        return cls(host, int(port))

    @property
    def local(self) -> bool:
        """Whether only this machine can reach it."""
        if self.path or self.host == "localhost":
            return True
        try:
            return ip_address(self.host).is_loopback
        except ValueError:
            return False

    def __str__(self) -> str:
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server that is ready listens, and how its default runtime is."""

    grpc: Address
    metrics: Address | None = None
    admin: Address | None = None
    runtime: str = ""
    """Such as `docker 27.3.1`, or why it does not answer."""
