"""Logging: structlog for us, the same look for libraries; on stderr, for people or as JSON."""

from __future__ import annotations

import logging
import sys

import structlog
from structlog.typing import Processor

from skybridge_server.config import LogFormat, LogLevel


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Write log lines from `level` on, once for the process."""
    number = logging.getLevelNamesMapping()[level.value.upper()]
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
        logger_factory=structlog.WriteLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
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
