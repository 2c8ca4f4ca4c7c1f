"""TLS: reads and checks the operator's files, also after they were renewed."""

from __future__ import annotations

import ssl
from pathlib import Path

import grpc
import structlog

from skybridge_server.config import Problem, Settings, SettingsError, variable_of

log = structlog.get_logger()


class TlsFiles:
    """Certificate, key and, if callers must have certificates, the authorities of those."""

    def __init__(self, cert: Path, key: Path, client_ca: Path | None) -> None:
        self._paths = {"tls_cert": cert, "tls_key": key}
        if client_ca is not None:
            self._paths["tls_client_ca"] = client_ca
        self._read_at: tuple[int, ...] = ()

    def credentials(self) -> grpc.ServerCredentials:
        """Return credentials that follow the files. SettingsError, with every wrong file."""
        first = self._load()
        return grpc.dynamic_ssl_server_credentials(
            first,
            self._renewed,  # type: ignore[arg-type] # None means as before, which the stubs deny
            require_client_authentication="tls_client_ca" in self._paths,
        )

    def _renewed(self) -> grpc.ServerCertificateConfiguration | None:
        """Return what the files say if they have changed; asked before every handshake."""
        try:
            return None if self._changes() == self._read_at else self._load()
        except (OSError, SettingsError) as error:
            # Half-written files; those who connect now get the certificate from before.
            log.warning("new TLS files not taken", reason=str(error))
            return None

    def _changes(self) -> tuple[int, ...]:
        return tuple(path.stat().st_mtime_ns for path in self._paths.values())

    def _load(self) -> grpc.ServerCertificateConfiguration:
        contents = self._read()
        self._check()
        self._read_at = self._changes()
        return grpc.ssl_server_certificate_configuration(
            [(contents["tls_key"], contents["tls_cert"])], contents.get("tls_client_ca")
        )

    def _read(self) -> dict[str, bytes]:
        contents, problems = {}, []
        for setting, path in self._paths.items():
            try:
                contents[setting] = path.read_bytes()
            except OSError as error:
                problems.append(
                    Problem(variable_of(setting), f"cannot read {path}: {error.strerror}")
                )
        if problems:
            raise SettingsError(*problems)
        return contents

    def _check(self) -> None:
        """Let the ssl module look: gRPC only says that no handshake works."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        try:
            context.load_cert_chain(self._paths["tls_cert"], self._paths["tls_key"], _no_password)
        except (ssl.SSLError, ValueError) as error:
            description = f"is no private key (PEM, without password) of FAAS_TLS_CERT: {error}"
            raise SettingsError.of("tls_key", description) from None
        if "tls_client_ca" not in self._paths:
            return
        try:
            context.load_verify_locations(self._paths["tls_client_ca"])
        except ssl.SSLError as error:
            raise SettingsError.of(
                "tls_client_ca", f"holds no certificates (PEM): {error}"
            ) from None


def _no_password() -> str:
    raise ValueError("the key is encrypted")


def server_credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """Return the credentials to listen with; None without TLS. SettingsError."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    return TlsFiles(settings.tls_cert, settings.tls_key, settings.tls_client_ca).credentials()
