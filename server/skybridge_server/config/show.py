"""Shows the settings: values, where they came from, and variables that mean nothing."""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from pydantic import SecretStr

from skybridge_server.config.problems import PREFIX, Problem, variable_of
from skybridge_server.config.settings import Settings
from skybridge_server.config.units import format_duration, format_size


def unknown_variables() -> list[Problem]:
    """Return the FAAS_ variables that mean nothing, with what may have been meant."""
    known = [variable_of(setting) for setting in Settings.model_fields]
    unknown = sorted(name for name in os.environ if name.startswith(PREFIX) and name not in known)
    return [Problem(name, _did_you_mean(name, known)) for name in unknown]


def _did_you_mean(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.7)
    return f"is no setting{'; did you mean ' + close[0] + '?' if close else ''}"


@dataclass(frozen=True, slots=True)
class Shown:
    """A setting as it is shown: secrets masked."""

    variable: str
    value: str
    source: str
    """`environment` or `default`."""
    description: str


ENGINE_VARIABLES = {
    "DOCKER_HOST": ("unix:///var/run/docker.sock", "Where the container engine listens"),
    "DOCKER_TLS_VERIFY": ("", "Check the engine's certificate; not empty: yes"),
    "DOCKER_CERT_PATH": ("", "Folder with ca.pem, cert.pem and key.pem for the engine"),
}


def show(settings: Settings) -> list[Shown]:
    """Return every setting, and what else the server reads from the environment."""
    shown = [
        Shown(
            variable_of(name),
            _format(name, getattr(settings, name)),
            _source(name in settings.model_fields_set),
            field.description or "",
        )
        for name, field in Settings.model_fields.items()
    ]
    for name, (default, description) in ENGINE_VARIABLES.items():
        value = os.environ.get(name)
        shown.append(Shown(name, value or default, _source(bool(value)), description))
    return shown


def _source(given: bool) -> str:
    return "environment" if given else "default"


def _format(name: str, value: object) -> str:
    if isinstance(value, int) and name.endswith("_bytes"):
        return format_size(value)
    return next((write(value) for kind, write in _WRITERS if isinstance(value, kind)), str(value))


_WRITERS: tuple[tuple[type, Callable[[Any], str]], ...] = (
    (type(None), lambda _: ""),
    (bool, lambda value: str(value).lower()),
    (timedelta, format_duration),
    (tuple, ",".join),
    (SecretStr, lambda secret: "***" if secret.get_secret_value() else ""),
    # Logins: the hosts, not what is secret.
    (dict, lambda logins: ",".join(f"{host}:***" for host in logins)),
)
