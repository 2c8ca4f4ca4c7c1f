"""Settings: what the environment says, checked."""

from __future__ import annotations

from skybridge_server.config.addresses import Address, Addresses
from skybridge_server.config.problems import Problem, SettingsError, variable_of
from skybridge_server.config.settings import (
    LogFormat,
    LogLevel,
    RegistryLogin,
    Settings,
    load_settings,
)
from skybridge_server.config.show import Shown, show, unknown_variables

__all__ = [
    "Address",
    "Addresses",
    "LogFormat",
    "LogLevel",
    "Problem",
    "RegistryLogin",
    "Settings",
    "SettingsError",
    "Shown",
    "load_settings",
    "show",
    "unknown_variables",
    "variable_of",
]
