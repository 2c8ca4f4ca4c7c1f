"""Every setting, its default and its check. The variable of `listen` is FAAS_LISTEN."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from skybridge_server.config.addresses import Address
from skybridge_server.config.problems import PREFIX, Problem, SettingsError, variable_of
from skybridge_server.config.units import GIB, parse_duration, parse_size
from skybridge_server.models.ports import PortAccess
from skybridge_server.models.shutdown import ShutdownPolicy


@dataclass(frozen=True, slots=True)
class RegistryLogin:
    """User and password, or token, of an image registry."""

    username: str
    password: str = field(repr=False)


class LogFormat(StrEnum):
    """How log lines look; AUTO means for people on a terminal, else for programs."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(StrEnum):
    """The lowest level that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


def _parse_list(value: object) -> object:
    if not isinstance(value, str):
        return value
    return tuple(item for item in map(str.strip, value.split(",")) if item)


def _parse_address(value: object) -> object:
    return Address.parse(value) if isinstance(value, str) else value


def _parse_optional_address(value: object) -> object:
    return _parse_address(value) if value else None


def _parse_json(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError:
        raise ValueError("must be JSON") from None


def _positive(value: timedelta) -> timedelta:
    if value <= timedelta(0):
        raise ValueError("must be longer than 0")
    return value


Listen = Annotated[Address, NoDecode, BeforeValidator(_parse_address)]
OptionalListen = Annotated[Address | None, NoDecode, BeforeValidator(_parse_optional_address)]
Duration = Annotated[timedelta, BeforeValidator(parse_duration), AfterValidator(_positive)]
Size = Annotated[int, BeforeValidator(parse_size), Field(ge=1)]
Count = Annotated[int, Field(ge=1)]
Names = Annotated[tuple[str, ...], NoDecode, BeforeValidator(_parse_list)]
Logins = Annotated[Mapping[str, RegistryLogin], NoDecode, BeforeValidator(_parse_json)]


_TOKEN = re.compile(r"[!-~]{32,256}")
_SECRET = {"registry_credentials", "admin_token"}


def default_database() -> Path:
    """Return the path of the database among the user's state files."""
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(state) / "skybridge" / "skybridge.db"


def _most_of_the_memory() -> int:
    """Return three quarters of this machine's memory, in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 * 3


class Settings(BaseSettings):
    """Every setting; the variable of `listen` is FAAS_LISTEN. A description says what it does."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, frozen=True, extra="ignore", validate_default=True
    )

    listen: Listen = Field(
        Address("127.0.0.1", 50051), description="Where gRPC listens: HOST:PORT or unix:PATH"
    )
    tls_cert: Path | None = Field(None, description="Certificate chain (PEM): listen with TLS")
    tls_key: Path | None = Field(None, description="Private key (PEM) of FAAS_TLS_CERT")
    tls_client_ca: Path | None = Field(
        None, description="Authorities (PEM): callers must have a certificate of one of them"
    )
    admin_token: SecretStr = Field(
        SecretStr(""),
        description="Token that may do everything: every call needs a token then; empty: none does",
    )
    insecure: bool = Field(
        False, description="Allow FAAS_LISTEN to be open to other machines without TLS"
    )
    metrics_listen: OptionalListen = Field(
        Address("127.0.0.1", 9464), description="Where Prometheus finds /metrics; empty: nowhere"
    )
    admin_listen: OptionalListen = Field(
        None, description="Where channelz listens, on this machine only; empty: nowhere"
    )
    database: Path = Field(default_factory=default_database, description="File of the database")
    default_runtime: str = Field("docker", description="Runtime of functions that ask for none")
    max_concurrent_executions: Count = Field(32, description="Executions that run at once")
    max_queued_executions: Count = Field(10_000, description="Executions that wait at once")
    max_instances: Count = Field(
        32, description="Instances of functions with the contract HTTP or LAMBDA at once"
    )
    instance_memory_bytes: Size = Field(
        default_factory=_most_of_the_memory,
        description="Memory of all instances together, by their functions' limits",
    )
    instance_cpu_millis: Count = Field(
        (os.cpu_count() or 1) * 16_000,
        description="Thousandths of a core of all instances together; idle ones use none",
    )
    network_sandboxes: int = Field(
        12, ge=0, description="Networks kept for executions with none, which start faster; 0: off"
    )
    port_access: PortAccess = Field(
        PortAccess.AUTO,
        description="Way to containers' ports: namespace, relay, or auto: the first that works",
    )
    max_memory_bytes: Size = Field(8 * GIB, description="Highest memory of one execution")
    max_cpu_millis: Count = Field(
        (os.cpu_count() or 1) * 1000, description="Most thousandths of a core for one execution"
    )
    max_pids: Count = Field(4096, description="Most processes and threads of one execution")
    max_tmp_bytes: Size = Field(4 * GIB, description="Highest size of /tmp of one execution")
    max_output_bytes: Size = Field(GIB, description="Highest output of one execution")
    max_execution_timeout: Duration = Field(
        timedelta(hours=24),
        le=timedelta(hours=24),
        description="Longest time that one execution may run",
    )
    allowed_images: Names = Field(
        (), description="Patterns of images that may be deployed, by comma; empty: any"
    )
    require_digest: bool = Field(False, description="Deploy only images named by digest")
    registry_credentials: Logins = Field(
        {}, description='Logins as JSON: {"HOST": {"username": "...", "password": "..."}}'
    )
    allow_root: bool = Field(False, description="Functions may run as root in their container")
    allow_writable_root: bool = Field(
        False, description="Functions may write to their container's root file system"
    )
    allowed_oci_runtimes: Names = Field(
        (), description="OCI runtimes that functions may ask for, by comma, such as runsc"
    )
    heartbeat_interval: Duration = Field(
        timedelta(seconds=10),
        ge=timedelta(seconds=1),
        description="Silence after which a stream sends a heartbeat, unless it asks for another",
    )
    request_retention: Duration = Field(
        timedelta(hours=24), description="How long a request id is remembered"
    )
    execution_retention: Duration = Field(
        timedelta(days=7), description="How long an execution is kept after its end"
    )
    max_executions_per_function: Count = Field(
        100_000, description="Newest executions that are kept of a function"
    )
    max_revisions_per_function: Count = Field(
        100, description="Newest revisions that are kept of a function"
    )
    webhook_hosts: Names = Field(
        (), description="Patterns of hosts that destinations may post to, by comma; empty: none"
    )
    prune_images: bool = Field(
        False, description="Remove images that deployments pulled and no revision needs any more"
    )
    shutdown_grace: Duration = Field(
        timedelta(seconds=10), description="How long calls may go on when the server stops"
    )
    on_shutdown: ShutdownPolicy = Field(
        ShutdownPolicy.CANCEL,
        description="What runs longer: cancel, or handover: it runs on for the next start",
    )
    log_format: LogFormat = Field(
        LogFormat.AUTO, description="console, json, or auto: console on a terminal, else json"
    )
    log_level: LogLevel = Field(LogLevel.INFO, description="debug, info, warning or error")

    @model_validator(mode="before")
    @classmethod
    def _empty_is_unset(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Take the default for an empty variable, as compose files pass them."""
        return {k: v for k, v in values.items() if v != "" or k == "metrics_listen"}

    # Checks that look at two settings stand at the later one, so that a check of another setting
    # that fails does not hide them.

    @field_validator("tls_key")
    @classmethod
    def _cert_and_key(cls, key: Path | None, info: ValidationInfo) -> Path | None:
        if (key is None) != (info.data.get("tls_cert") is None):
            raise ValueError("FAAS_TLS_CERT and FAAS_TLS_KEY must be set together")
        return key

    @field_validator("tls_client_ca")
    @classmethod
    def _client_ca_needs_tls(cls, ca: Path | None, info: ValidationInfo) -> Path | None:
        if ca is not None and info.data.get("tls_cert", ca) is None:
            raise ValueError("needs FAAS_TLS_CERT and FAAS_TLS_KEY, too")
        return ca

    @field_validator("admin_token")
    @classmethod
    def _hard_to_guess(cls, token: SecretStr) -> SecretStr:
        secret = token.get_secret_value()
        if secret and not _TOKEN.fullmatch(secret):
            raise ValueError(
                "must be 32 to 256 visible characters of ASCII, such as `openssl rand -hex 32` says"
            )
        return token

    @field_validator("insecure")
    @classmethod
    def _open_needs_tls(cls, insecure: bool, info: ValidationInfo) -> bool:
        listen, cert = info.data.get("listen"), info.data.get("tls_cert")
        if listen and not listen.local and cert is None and not insecure:
            raise ValueError(
                f"other machines can reach {listen}: set FAAS_TLS_CERT and FAAS_TLS_KEY, or "
                "FAAS_INSECURE=true if you trust everyone on that network"
            )
        return insecure

    @field_validator("metrics_listen")
    @classmethod
    def _metrics_speak_http(cls, listen: Address | None) -> Address | None:
        if listen is not None and listen.path:
            raise ValueError("must be HOST:PORT")
        return listen

    @field_validator("admin_listen")
    @classmethod
    def _admin_is_local(cls, listen: Address | None) -> Address | None:
        if listen is not None and not listen.local:
            raise ValueError("must be on loopback or a unix socket: it shows every caller")
        return listen

    @property
    def tls(self) -> bool:
        """Whether gRPC listens with TLS."""
        return self.tls_cert is not None


def load_settings() -> Settings:
    """Read the settings from the environment. SettingsError, with every wrong one."""
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(*map(_problem, error.errors())) from None


def _problem(error: ErrorDetails) -> Problem:
    setting, *inner = (str(part) for part in error["loc"])
    description = error["msg"].removeprefix("Value error, ")
    if setting in _SECRET:
        # Neither the value nor a part of it: it may be a password.
        return Problem(variable_of(setting), ": ".join([*inner, description]))
    found = os.environ.get(variable_of(setting))
    return Problem(variable_of(setting), description + (f" (found '{found}')" if found else ""))
