"""TLS: reads and checks the operator's files, also after they were renewed."""

from __future__ import annotations

import ssl
from pathlib import Path

import structlog

from skybridge_server.config import Problem, Settings, SettingsError, variable_of
from skybridge_server.http2.connection import ALPN

log = structlog.get_logger()


class TlsFiles:
    """Certificate, key and, if callers must have certificates, the authorities of those."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._paths = {"tls_cert": cert, "tls_key": key}
        if client_ca is not None:
            self._paths["tls_client_ca"] = client_ca
        self._read_at: tuple[int, ...] = ()

    def context(self) -> ssl.SSLContext:
        """Return a context that follows the files. SettingsError, with every wrong file."""
        first = self._current = self._load()
        first.sni_callback = self._renew  # asked in every handshake
        return first

    def _renew(self, connection: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        """Let a connection have what the files say now."""
        try:
            if self._changes() != self._read_at:
                self._current = self._load()
        except (OSError, SettingsError) as error:
            # Half-written files; those who connect now get the certificate from before.
            log.warning("new TLS files not taken", reason=str(error))
        connection.context = self._current

    def _changes(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._paths.values())

    def _load(self) -> ssl.SSLContext:
        self._read()
        context = self._context()
        self._read_at = self._changes()
        return context

    def _read(self) -> None:
        """Name all files that cannot be read; the ssl module does not say which. SettingsError."""
        problems = []
        for setting, path in self._paths.items():
            try:
                path.read_bytes()
            except OSError as error:
                problems.append(
                    Problem(variable_of(setting), f"cannot read {path}: {error.strerror}")
                )
        if problems:
            raise SettingsError(*problems)

    def _context(self) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols([ALPN])
        try:
            context.load_cert_chain(self._paths["tls_cert"], self._paths["tls_key"], _no_password)
        except (ssl.SSLError, ValueError) as error:
            description = f"is no private key (PEM, without password) of FAAS_TLS_CERT: {error}"
            raise SettingsError.of("tls_key", description) from None
        if "tls_client_ca" not in self._paths:
            return context
        context.verify_mode = ssl.CERT_REQUIRED
        try:
            context.load_verify_locations(self._paths["tls_client_ca"])
        except ssl.SSLError as error:
            raise SettingsError.of(
                "tls_client_ca", f"holds no certificates (PEM): {error}"
            ) from None
        return context


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """Return the context to listen with; None without TLS. SettingsError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca).context()
