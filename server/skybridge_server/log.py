"""Logging: structlog for us, the same look for libraries; on stderr, for people or as JSON."""

from __future__ import annotations

import io
import logging
import os
import sys
from typing import TextIO, cast

import structlog
from structlog.typing import Processor

from skybridge_server.config import LogFormat, LogLevel


class _Steadfast(io.TextIOBase):
    """Writes lines to a stream for as long as somebody reads it.

    A reader that goes away must not take the server with it, nor keep it from stopping.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            self._stream.write(text)
            self._stream.flush()
        except OSError:
            # What is still in the buffer, and comes later, goes where it does no harm.
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self._stream.fileno())
            os.close(nowhere)
        return len(text)

    def flush(self) -> None:
        self.write("")


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Write log lines from `level` on, once for the process."""
    number = logging.getLevelNamesMapping()[level.value.upper()]
    stream = cast("TextIO", _Steadfast(sys.stderr))
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([structlog.processors.format_exc_info] if as_json(log_format) else []),
    ]
    render = _json() if as_json(log_format) else _console()
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.WriteLoggerFactory(stream),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, render],
        )
    )
    # Libraries tell every request at INFO; ours is the one log of requests.
    logging.basicConfig(handlers=[handler], level=max(number, logging.WARNING), force=True)


def as_json(log_format: LogFormat) -> bool:
    """Tell whether log lines are JSON: asked for, or not read by a person."""
    if log_format is LogFormat.AUTO:
        return not sys.stderr.isatty()
    return log_format is LogFormat.JSON


def _json() -> Processor:
    return structlog.processors.JSONRenderer()


def _console() -> Processor:
    # Plain tracebacks: the rich ones show local variables, and with them secrets.
    return structlog.dev.ConsoleRenderer(
        colors=sys.stderr.isatty(), exception_formatter=structlog.dev.plain_traceback
    )
