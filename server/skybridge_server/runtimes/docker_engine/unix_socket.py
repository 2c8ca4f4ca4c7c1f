"""How docker-py reaches an engine by a unix socket: mended where it leaves sockets open."""

from __future__ import annotations

import socket
from typing import Any, Self

from docker.transport import UnixHTTPAdapter
from docker.transport.unixconn import UnixHTTPConnection, UnixHTTPConnectionPool


class OnePool(UnixHTTPAdapter):
    """One pool of connections for an engine.

    docker-py has a pool for each URL: paths hold ids, so hardly a connection is used twice, and
    those left behind stay open until they are collected as garbage.
    """

    @classmethod
    def like(cls, adapter: UnixHTTPAdapter) -> Self:
        """Return an adapter with the settings of another."""
        url = f"http+unix://{adapter.socket_path}"
        return cls(url, adapter.timeout, max_pool_size=adapter.max_pool_size)

    def get_connection(self, url: object, proxies: object = None) -> Any:  # noqa: ARG002
        with self.pools.lock:
            if "" not in self.pools:
                self.pools[""] = _Pool("", self.socket_path, self.timeout, self.max_pool_size)
            return self.pools[""]


class _Pool(UnixHTTPConnectionPool):
    def _new_conn(self) -> Any:
        timeout: Any = self.timeout  # seconds, whatever the types of docker-py say
        return _Connection(self.base_url, self.socket_path, timeout)


class _Connection(UnixHTTPConnection):
    def connect(self) -> None:
        """Connect as docker-py does, but leave no socket open where nobody answers."""
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        try:
            self.sock.connect(self.unix_socket)
        except OSError:
            self.close()
            raise
