"""The server as a process: event loop, logging, signals, and the line that says it is ready."""

from __future__ import annotations

import asyncio
import signal

import structlog
import uvloop

from skybridge_server import __version__, log
from skybridge_server.app import serve
from skybridge_server.config import Addresses, Settings, unknown_variables

logger = structlog.get_logger()


def run(settings: Settings) -> bool:
    """Serve until SIGTERM or SIGINT; return False if a second one cut running calls off.

    SettingsError, FailedPreconditionError, StorageError: it cannot start.
    """
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
    await serve(settings, stop, lambda addresses: _say_ready(settings, addresses))


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
    if not settings.tls and not settings.listen.local:
        logger.warning("no TLS: who reaches this address may run code", listen=str(settings.listen))
