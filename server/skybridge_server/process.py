"""The server as a process: event loop, logging, signals, and the line that says it is ready."""

from __future__ import annotations

import asyncio
import gc
import signal

import structlog
import uvloop

from skybridge_server import __version__, heap, log
from skybridge_server.app import serve
from skybridge_server.config import Addresses, Settings, unknown_variables

logger = structlog.get_logger()

YOUNG_OBJECTS = 10_000
"""Objects after which the collector looks for cycles; Python's 700 come with every few calls."""


def run(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT; return False if a second one cut running calls off.

    SettingsError, FailedPreconditionError, StorageError: it cannot start.
    """
    heap.keep_together()
    log.configure(settings.log_format, settings.log_level)
    _warn(settings)
    try:
        uvloop.run(_serve(settings))
    except asyncio.CancelledError:
        logger.warning("stopped without waiting for running calls")
        return False
    return True


async def _serve(settings: Settings) -> None:
    stop, task = asyncio.Event(), asyncio.current_task()

    def on_signal() -> None:
        if not stop.is_set():
            logger.info("stopping; a second signal does not wait for running calls")
            stop.set()
        elif task is not None:
            task.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, on_signal)

    def on_ready(addresses: Addresses) -> None:
        _spare_collections()
        _say_ready(settings, addresses)

    await serve(settings, stop, on_ready)


def _spare_collections() -> None:
    """Let the garbage collector look at what calls leave, seldom, and never at what stays.

    With thousands of executions in memory, each of its rounds would stop all calls for long.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(YOUNG_OBJECTS, 10, 10)


def _say_ready(settings: Settings, addresses: Addresses) -> None:
    facts = {"grpc": str(addresses.grpc), "runtime": addresses.runtime}
    if addresses.metrics is not None:
        facts["metrics"] = f"http://{addresses.metrics}/metrics"
    if addresses.admin is not None:
        facts["admin"] = str(addresses.admin)
    if log.as_json(settings.log_format):
        logger.info("ready", version=__version__, **facts)
        return
    told = ", ".join(f"{name} {fact}" for name, fact in facts.items())
    print(f"skybridge-server {__version__} is ready: {told}", flush=True)  # noqa: T201 # for people


def _warn(settings: Settings) -> None:
    for problem in unknown_variables():
        logger.warning("unknown setting", variable=problem.variable, detail=problem.description)
    if not settings.listen.local and (risk := _risk(settings)):
        logger.warning(risk, listen=str(settings.listen))


def _risk(settings: Settings) -> str:
    """Return what to think of before other machines reach this one; '' for nothing."""
    tokens = bool(settings.admin_token.get_secret_value())
    if not settings.tls:
        who = "can listen in learns its callers' tokens" if tokens else "reaches it may run code"
        return f"no TLS: who {who}"
    if not tokens and settings.tls_client_ca is None:
        return "neither FAAS_ADMIN_TOKEN nor FAAS_TLS_CLIENT_CA: who reaches it may run code"
    return ""
