"""The container engines, and whether each answers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import structlog

from skybridge_server.errors import FailedPreconditionError, RuntimeUnavailableError
from skybridge_server.runtimes.base import EngineInfo, Runtime
from skybridge_server.services.bell import Bell

CHECK_INTERVAL = 0.5
"""Seconds between two looks; with the second that a look may take, a change is seen within two."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class RuntimeStatus:
    """What is known of a runtime."""

    name: str
    default: bool
    ready: bool
    message: str
    """Why it does not answer; empty when it does."""
    info: EngineInfo | None
    """What it said of itself when it last answered."""


@dataclass(slots=True)
class _Engine:
    runtime: Runtime
    ready: bool = False
    message: str = "not asked yet"
    info: EngineInfo | None = None
    looks: int = 0
    looked: Bell = field(default_factory=Bell)


class Engines:
    """All runtimes of a server, by name."""

    def __init__(self, runtimes: Mapping[str, Runtime], default: str) -> None:
        self.default = default
        self._engines = {name: _Engine(runtime) for name, runtime in runtimes.items()}
        self._tasks: list[asyncio.Task[None]] = []
        self._on_change: list[Callable[[], None]] = []

    def get(self, name: str) -> Runtime:
        """Return the runtime of this name; '' is the default one."""
        return self._engine(name).runtime

    def check(self, name: str) -> None:
        """Raise RuntimeUnavailableError if the runtime does not answer."""
        engine = self._engine(name)
        if not engine.ready:
            raise RuntimeUnavailableError(engine.message)

    async def until_ready(self, name: str, *, doubt: bool = False) -> None:
        """Wait until a runtime answers; `doubt` what was known of it until now."""
        engine = self._engine(name)
        enough = engine.looks + 2 if doubt else 0  # one look may be under way
        while not engine.ready or engine.looks < enough:
            await engine.looked.wait()

    async def answers(self, name: str) -> bool:
        """Ask a runtime now, and tell whether it answers: what is known may be seconds old."""
        engine = self._engine(name)
        await self._look(engine)
        return engine.ready

    @property
    def ready(self) -> bool:
        """Whether the default runtime answers."""
        return self._engines[self.default].ready

    def status(self) -> tuple[RuntimeStatus, ...]:
        """Return what is known of each runtime."""
        return tuple(
            RuntimeStatus(
                name=name,
                default=name == self.default,
                ready=engine.ready,
                message=engine.message,
                info=engine.info,
            )
            for name, engine in self._engines.items()
        )

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call back whenever a runtime starts or stops answering."""
        self._on_change.append(callback)

    async def open(self) -> None:
        """Look at all runtimes once, then keep looking."""
        await asyncio.gather(*map(self._look, self._engines.values()))
        self._tasks = [asyncio.create_task(self._watch(e)) for e in self._engines.values()]

    async def close(self) -> None:
        """Stop looking, and let go of the engines."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for engine in self._engines.values():
            await engine.runtime.close()

    def _engine(self, name: str) -> _Engine:
        engine = self._engines.get(name or self.default)
        if engine is None:
            raise FailedPreconditionError(
                f"this server has no runtime '{name}': it has {', '.join(self._engines)}",
                reason="UNKNOWN_RUNTIME",
            )
        return engine

    async def _watch(self, engine: _Engine) -> None:
        while True:
            await asyncio.sleep(CHECK_INTERVAL)
            await self._look(engine)

    async def _look(self, engine: _Engine) -> None:
        was_ready = engine.ready
        try:
            engine.info = await engine.runtime.check()
        except RuntimeUnavailableError as error:
            engine.ready, engine.message = False, error.message
        except Exception:
            log.exception("engine check broke", runtime=engine.runtime.name)
            engine.ready, engine.message = False, "internal error of the server"
        else:
            engine.ready, engine.message = True, ""
        engine.looks += 1
        engine.looked.ring()
        if engine.ready != was_ready:
            log.info(
                "engine answers" if engine.ready else "engine does not answer",
                runtime=engine.runtime.name,
                detail=engine.message,
            )
            self._tell()

    def _tell(self) -> None:
        for callback in self._on_change:
            try:
                callback()
            except Exception:
                log.exception("callback broke")  # the others, and the next look, must come
