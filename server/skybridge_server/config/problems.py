"""What is wrong with the settings, by variable."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

PREFIX = "FAAS_"


def variable_of(setting: str) -> str:
    """Return the name of a setting's environment variable."""
    return PREFIX + setting.upper()


@dataclass(frozen=True, slots=True)
class Problem:
    """One wrong setting: its variable, and what is wrong with it."""

    variable: str
    description: str


class SettingsError(Exception):
    """The server cannot start as it is set; every wrong setting is named."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("\n".join(f"{p.variable}: {p.description}" for p in problems))
        self.problems = problems

    @classmethod
    def of(cls, setting: str, description: str) -> Self:
        """Return the error of one setting, named as in Settings."""
        return cls(Problem(variable_of(setting), description))
