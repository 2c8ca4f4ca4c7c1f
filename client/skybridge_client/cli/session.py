"""What all commands share: their common options, the client, and the end of an error."""

from __future__ import annotations

import functools
import inspect
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from skybridge_client.channel import TlsConfig, resolve_address
from skybridge_client.cli import exits
from skybridge_client.cli.interrupts import Interrupts
from skybridge_client.cli.output import Format
from skybridge_client.cli.text import parse_duration
from skybridge_client.client import DEFAULT_TIMEOUT, Client
from skybridge_client.errors import SkybridgeError

F = TypeVar("F", bound=Callable[..., None])
T = TypeVar("T")
R = TypeVar("R")

PANEL = "Connection and output"


def seconds(text: str) -> float:
    """Parses an option that is a duration."""
    return parsed(parse_duration, text)


def parsed(parse: Callable[[T], R], value: T) -> R:
    """What `parse` makes of a value; what it refuses is a wrong argument."""
    try:
        return parse(value)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


COMMON: dict[str, Any] = {
    "address": Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT",
            help="The server. Default: $SKYBRIDGE_ADDRESS or 127.0.0.1:50051.",
            rich_help_panel=PANEL,
        ),
    ],
    "tls": Annotated[
        bool | None,
        typer.Option(
            "--tls/--no-tls",
            help="TLS with the system's authorities, or none whatever the environment says.",
            rich_help_panel=PANEL,
        ),
    ],
    "tls_ca": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Authorities to trust. Default: $SKYBRIDGE_TLS_CA.",
            rich_help_panel=PANEL,
        ),
    ],
    "tls_cert": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Your certificate. Default: $SKYBRIDGE_TLS_CERT.",
            rich_help_panel=PANEL,
        ),
    ],
    "tls_key": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Its key. Default: $SKYBRIDGE_TLS_KEY.", rich_help_panel=PANEL
        ),
    ],
    "token_file": Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="File with the token that says who you are. Default: $SKYBRIDGE_TOKEN.",
            rich_help_panel=PANEL,
        ),
    ],
    "timeout": Annotated[
        float | None,
        typer.Option(
            parser=seconds,
            metavar="DURATION",
            help="How long a call may take, such as 30s. Default: 1m; streams: for ever.",
            rich_help_panel=PANEL,
        ),
    ],
    "json": Annotated[
        bool | None,
        typer.Option("--json", help="Short for -o json.", rich_help_panel=PANEL),
    ],
    "output": Annotated[
        Format | None,
        typer.Option(
            "--output",
            "-o",
            help="Tables for people; JSON or names for programs. Default: table.",
            rich_help_panel=PANEL,
        ),
    ],
}
"""The options of every command; they may also stand before it."""


@dataclass(frozen=True)
class Settings:
    """The common options as they were given."""

    address: str | None = None
    tls: bool | None = None
    tls_ca: Path | None = None
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    timeout: float | None = None
    output: Format = Format.TABLE

    def over(self, json: bool | None, **given: Any) -> Settings:
        """These settings with the given ones set over them."""
        if json and given["output"] is None:
            given["output"] = Format.JSON
        return replace(self, **{name: value for name, value in given.items() if value is not None})

    def tls_config(self) -> TlsConfig | bool | None:
        """TLS as a client takes it; None leaves it to the environment."""
        if self.tls is not False and (self.tls_ca or self.tls_cert or self.tls_key):
            return parsed(lambda files: TlsConfig(*files), self._files())
        if self.tls:
            return TlsConfig.from_environment() or True
        return self.tls

    def token(self) -> str | None:
        """The token as a client takes it; None leaves it to the environment."""
        if self.token_file is None:
            return None
        try:
            token = self.token_file.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"--token-file: {error}") from None
        if not token:
            raise typer.BadParameter(f"--token-file: {self.token_file} is empty")
        return token

    def _files(self) -> tuple[Path | None, Path | None, Path | None]:
        return self.tls_ca, self.tls_cert, self.tls_key


class Session:
    """One run of a command: its settings and its client."""

    def __init__(self, settings: Settings) -> None:
        self.timeout = settings.timeout
        """What --timeout says; None: the default of each call."""
        self.form = settings.output
        try:
            self.client = Client(
                resolve_address(settings.address),
                tls=settings.tls_config(),
                token=settings.token(),
                timeout=settings.timeout or DEFAULT_TIMEOUT,
            )
        except OSError as error:
            raise typer.BadParameter(f"TLS: {error}") from None
        except ValueError as error:
            raise typer.BadParameter(str(error)) from None

    @property
    def json(self) -> bool:
        """Whether programs read the output."""
        return self.form is Format.JSON


def command(
    app: typer.Typer,
    name: str,
    *examples: str,
    options: Mapping[str, Any] | None = None,
) -> Callable[[F], F]:
    """Registers a function as a command, with the common options and a session.

    The function takes the session first. With `options`, those options are added too, and
    what was given of them is its keyword `given`.
    """
    extra = options or {}

    def register(function: F) -> F:
        @functools.wraps(function)
        def run(context: typer.Context, **kwargs: Any) -> None:
            common = {name: kwargs.pop(name) for name in COMMON}
            if options is not None:
                taken = {name: kwargs.pop(name) for name in extra}
                kwargs["given"] = {key: value for key, value in taken.items() if _is_given(value)}
            settings = (context.obj or Settings()).over(**common)
            with _reported(resolve_address(settings.address)):
                session = Session(settings)
                with Interrupts(session.client), session.client:
                    function(session, **kwargs)

        run.__signature__ = _signature(function, extra)  # type: ignore[attr-defined]
        run.__annotations__ = {}  # those of the signature are resolved, once
        app.command(name, epilog=_examples(examples))(run)
        return function

    return register


def take_common(app: typer.Typer, about: str) -> None:
    """Lets the common options stand before the command as well."""

    def callback(context: typer.Context, **kwargs: Any) -> None:
        context.obj = Settings().over(**kwargs)

    callback.__signature__ = _signature(lambda _: None, {})  # type: ignore[attr-defined]
    app.callback(help=about)(callback)


def _is_given(value: Any) -> bool:
    return value is not None and value != []


def _signature(function: Callable[..., None], extra: Mapping[str, Any]) -> inspect.Signature:
    """The function's parameters, with the context instead of the session, and the options."""
    keyword = inspect.Parameter.KEYWORD_ONLY
    _, *own = inspect.signature(function, eval_str=True).parameters.values()
    context = inspect.Parameter("context", keyword, annotation=typer.Context)
    options = [
        inspect.Parameter(name, keyword, default=None, annotation=annotation)
        for name, annotation in {**extra, **COMMON}.items()
    ]
    mine = [each.replace(kind=keyword) for each in own if each.name != "given"]
    return inspect.Signature([context, *mine, *options])


def _examples(examples: tuple[str, ...]) -> str:
    return "\n\n".join(["Examples:", *(f"  {example}" for example in examples)])


@contextmanager
def _reported(address: str) -> Iterator[None]:
    """Turns errors into one line on stderr and an exit code."""
    try:
        yield
    except SkybridgeError as error:
        exits.say(exits.explain(error, address))
        raise typer.Exit(exits.of_error(error)) from None
    except typer.BadParameter as error:
        exits.say(error.message)
        raise typer.Exit(exits.USAGE) from None
    except KeyboardInterrupt:
        raise typer.Exit(exits.INTERRUPTED) from None
    except BrokenPipeError:
        # Who read our output has left. Python must not complain about it once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(exits.REFUSED) from None
