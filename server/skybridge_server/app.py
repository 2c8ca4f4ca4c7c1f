"""The composition root: the only place that knows concrete classes, and wires them.

What is opened is closed in reverse: calls end first, then executions, then engines and store.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import structlog
from prometheus_client import CollectorRegistry

from skybridge_server import __version__, heap
from skybridge_server.api.access import Access
from skybridge_server.api.dead_letters import DeadLetterServicer
from skybridge_server.api.executions import ExecutionServicer
from skybridge_server.api.functions import FunctionServicer
from skybridge_server.api.instances import InstanceServicer
from skybridge_server.api.metrics import MetricsServicer
from skybridge_server.api.prometheus import MetricsPage, new_registry
from skybridge_server.api.schedules import ScheduleServicer
from skybridge_server.api.secrets import SecretServicer
from skybridge_server.api.server import GrpcServer, Servicer
from skybridge_server.api.system import SystemServicer
from skybridge_server.api.tokens import TokenServicer
from skybridge_server.config import Address, Addresses, Settings, SettingsError
from skybridge_server.models.functions import Retention
from skybridge_server.models.shutdown import ShutdownPolicy
from skybridge_server.repositories.base import Repositories
from skybridge_server.repositories.store import SqliteRepositories
from skybridge_server.runtimes.base import Credentials, Runtime
from skybridge_server.runtimes.docker_engine import DockerRuntime
from skybridge_server.services import labels
from skybridge_server.services.acceptance import Acceptance
from skybridge_server.services.admission import Admission
from skybridge_server.services.ahead import Ahead
from skybridge_server.services.alarm import Alarm
from skybridge_server.services.backlog import Backlog
from skybridge_server.services.clock import SYSTEM_CLOCK, Clock
from skybridge_server.services.dead_letters import DeadLetterService
from skybridge_server.services.delays import Delays
from skybridge_server.services.deliveries import PLACES, Deliveries
from skybridge_server.services.deployments import DeploymentService
from skybridge_server.services.engines import Engines
from skybridge_server.services.executions import ExecutionService
from skybridge_server.services.firing import Firing
from skybridge_server.services.functions import FunctionService
from skybridge_server.services.housekeeping import Chore, Housekeeping
from skybridge_server.services.instances import InstanceService
from skybridge_server.services.limits import Limits
from skybridge_server.services.logs import LogService
from skybridge_server.services.maker import Maker
from skybridge_server.services.metrics import MetricsService
from skybridge_server.services.places import Places
from skybridge_server.services.pool.adoption import Adoption
from skybridge_server.services.pool.budget import Cost
from skybridge_server.services.pool.launcher import ContainerLauncher
from skybridge_server.services.pool.marks import Marks
from skybridge_server.services.pool.pool import Launcher, Pool
from skybridge_server.services.pulled_images import PulledImages
from skybridge_server.services.recovery import Recovery
from skybridge_server.services.registry import Registry
from skybridge_server.services.retention import RetentionService
from skybridge_server.services.retries import Retries
from skybridge_server.services.revisions import KnownRevisions
from skybridge_server.services.runners import Runners
from skybridge_server.services.scheduler import Scheduler
from skybridge_server.services.schedules import ScheduleService
from skybridge_server.services.secrets import SecretService
from skybridge_server.services.shutdown import Shutdown
from skybridge_server.services.slots import Slots
from skybridge_server.services.sweeper import Sweeper
from skybridge_server.services.swift import Swift
from skybridge_server.services.system import SystemService
from skybridge_server.services.telemetry import Telemetry
from skybridge_server.services.tokens import TokenService
from skybridge_server.services.watching import Watching
from skybridge_server.services.webhooks import Webhooks

MARKS_SUFFIX = "-instances"
"""Behind the name of the database: the file that says which instances may be taken over."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Services:
    """All services of a server, wired."""

    functions: FunctionService
    deployments: DeploymentService
    executions: ExecutionService
    dead_letters: DeadLetterService
    schedules: ScheduleService
    secrets: SecretService
    metrics: MetricsService
    pulled_images: PulledImages
    system: SystemService
    registry: Registry
    recovery: Recovery
    sweeper: Sweeper
    scheduler: Scheduler
    backlog: Backlog
    delays: Delays
    delays_alarm: Alarm
    deliveries: Deliveries
    deliveries_alarm: Alarm
    webhooks: Webhooks
    instances: InstanceService
    pool: Pool
    ahead: Ahead


def runtimes(settings: Settings, server_id: str = "") -> dict[str, Runtime]:
    """Return the runtimes by name, the default one first. SettingsError."""
    docker = DockerRuntime(
        credentials={
            host: Credentials(login.username, login.password)
            for host, login in settings.registry_credentials.items()
        },
        max_waits=settings.max_concurrent_executions,
        max_sandboxes=settings.network_sandboxes,
        sandbox_labels=labels.of_sandbox(server_id),
        port_access=settings.port_access,
    )
    available: dict[str, Runtime] = {docker.name: docker}
    if settings.default_runtime not in available:
        raise SettingsError.of("default_runtime", f"must be one of {', '.join(available)}")
    return available


def limits(settings: Settings, names: tuple[str, ...]) -> Limits:
    """Return what the operator allows."""
    return Limits(
        max_memory_bytes=settings.max_memory_bytes,
        max_cpu_millis=settings.max_cpu_millis,
        max_pids=settings.max_pids,
        max_tmp_bytes=settings.max_tmp_bytes,
        max_output_bytes=settings.max_output_bytes,
        max_execution_timeout=settings.max_execution_timeout,
        max_concurrent_executions=settings.max_concurrent_executions,
        max_queued_executions=settings.max_queued_executions,
        max_instances=settings.max_instances,
        instance_memory_bytes=settings.instance_memory_bytes,
        instance_cpu_millis=settings.instance_cpu_millis,
        runtimes=names,
        request_retention=settings.request_retention,
        allowed_images=settings.allowed_images,
        require_digest=settings.require_digest,
        allow_root=settings.allow_root,
        allow_writable_root=settings.allow_writable_root,
        allowed_oci_runtimes=settings.allowed_oci_runtimes,
        webhook_hosts=settings.webhook_hosts,
    )


def wire(
    repositories: Repositories,
    engines: Engines,
    bounds: Limits,
    registry_of_metrics: CollectorRegistry,
    server_id: str,
    clock: Clock = SYSTEM_CLOCK,
    launcher: Launcher | None = None,
) -> Services:
    """Make all services over a store and engines, whichever they are.

    `clock`: what plans are made by, those of schedules and those of delayed executions.
    `launcher`: what makes instances; it does so in containers unless told otherwise.
    """
    slots = Slots(bounds.max_concurrent_executions, bounds.max_queued_executions)
    most = Cost(bounds.max_instances, bounds.instance_memory_bytes, bounds.instance_cpu_millis)
    secrets = SecretService(repositories, clock)
    maker = Maker(engines, secrets)
    launcher = launcher or ContainerLauncher(engines, maker, server_id, Marks.none())
    pool = Pool(slots, launcher, most)
    ahead = Ahead(engines, maker, server_id)
    telemetry = Telemetry(registry_of_metrics, slots, pool, ahead)
    retries = Retries(clock)
    delays_alarm = Alarm("delayed executions", clock)
    deliveries_alarm = Alarm("deliveries", clock)
    runners = Runners(engines, repositories.executions, retries, ahead, maker, server_id)
    registry = Registry(runners, telemetry, delays_alarm.wake, deliveries_alarm.wake)
    swift = Swift(repositories.executions, telemetry)
    places = Places(slots, pool)
    revisions = KnownRevisions(repositories.revisions)
    backlog = Backlog(repositories.waiting, revisions, slots, registry, delays_alarm.wake)
    admission = Admission(repositories.executions, registry, backlog, clock)
    acceptance = Acceptance(repositories, engines, places, registry, swift, backlog, admission)
    recovery = Recovery(repositories, acceptance, backlog, retries, server_id)
    backlog.open(recovery.let_go_on)
    webhooks = Webhooks(bounds.webhook_hosts, PLACES)
    deliveries = Deliveries(
        repositories, acceptance, webhooks, clock, telemetry, deliveries_alarm.wake
    )
    delays = Delays(repositories.waiting, backlog, slots, clock)
    watching = Watching(repositories.executions, registry)
    logs = LogService(repositories, registry, watching)
    executions = ExecutionService(
        repositories.executions, acceptance, registry, watching, logs, engines, backlog
    )
    instances = InstanceService(repositories, pool, ahead, registry)
    functions = FunctionService(repositories, executions, instances)
    pulled_images = PulledImages(repositories.images, engines)
    firing = Firing(repositories.requests, acceptance, executions)
    scheduler = Scheduler(repositories.schedules, firing, bounds, clock)
    return Services(
        functions=functions,
        deployments=DeploymentService(
            repositories, functions, engines, pulled_images, bounds, instances, secrets
        ),
        executions=executions,
        dead_letters=DeadLetterService(repositories, acceptance, clock, delays_alarm.wake),
        schedules=ScheduleService(repositories, firing, clock, on_change=scheduler.wake),
        secrets=secrets,
        metrics=MetricsService(repositories),
        pulled_images=pulled_images,
        system=SystemService(engines, slots, bounds, server_id=server_id, version=__version__),
        registry=registry,
        recovery=recovery,
        sweeper=Sweeper(
            registry,
            pool,
            ahead,
            Adoption(repositories, engines, pool, launcher.marks, server_id),
            engines,
            server_id,
        ),
        scheduler=scheduler,
        backlog=backlog,
        delays=delays,
        delays_alarm=delays_alarm,
        deliveries=deliveries,
        deliveries_alarm=deliveries_alarm,
        webhooks=webhooks,
        instances=instances,
        pool=pool,
        ahead=ahead,
    )


def chores(
    settings: Settings, repositories: Repositories, services: Services, tokens: TokenService
) -> dict[str, Chore]:
    """Return what housekeeping does, in this order."""
    most = Retention(
        execution_age=settings.execution_retention,
        executions=settings.max_executions_per_function,
        revisions=settings.max_revisions_per_function,
    )
    retention = RetentionService(repositories, most, settings.request_retention)
    all_chores: dict[str, Chore] = {
        "forget requests": retention.forget_requests,
        "forget tokens": tokens.forget_expired,
        "delete executions": retention.delete_executions,
        "delete revisions": retention.delete_revisions,
        "give space back": retention.give_space_back,
        "give memory back": partial(asyncio.to_thread, heap.give_back),
    }
    if settings.prune_images:
        all_chores["prune images"] = services.pulled_images.prune
    return all_chores


def servicers(
    services: Services,
    tokens: TokenService,
    bounds: Limits,
    heartbeat: timedelta,
    shutdown: Shutdown,
) -> list[Servicer]:
    """Return what answers calls."""
    return [
        FunctionServicer(services.functions, services.deployments, bounds),
        ExecutionServicer(services.executions, services.deliveries, bounds, heartbeat),
        DeadLetterServicer(services.dead_letters, services.executions),
        ScheduleServicer(services.schedules, bounds),
        SecretServicer(services.secrets),
        MetricsServicer(services.metrics),
        InstanceServicer(services.instances),
        SystemServicer(services.system, services.deployments, bounds, shutdown),
        TokenServicer(tokens),
    ]


async def serve(
    settings: Settings, stop: asyncio.Event, on_ready: Callable[[Addresses], None]
) -> None:
    """Serve until `stop` is set. SettingsError, FailedPreconditionError, StorageError."""
    async with AsyncExitStack() as opened:
        repositories = await SqliteRepositories.open(settings.database)
        opened.push_async_callback(repositories.close)
        server_id = await repositories.server_id()
        named = runtimes(settings, server_id)
        engines = Engines(named, settings.default_runtime)
        opened.push_async_callback(engines.close)
        await engines.open()

        bounds = limits(settings, tuple(named))
        collectors = new_registry()
        shutdown = Shutdown(stop, settings.shutdown_grace, settings.on_shutdown)
        maker = Maker(engines, SecretService(repositories, SYSTEM_CLOCK))
        launcher = ContainerLauncher(engines, maker, server_id, _open_marks(settings))
        services = wire(repositories, engines, bounds, collectors, server_id, launcher=launcher)
        tokens = TokenService(
            repositories.tokens, SYSTEM_CLOCK, settings.admin_token.get_secret_value()
        )
        await tokens.open()
        opened.push_async_callback(services.deployments.close)
        opened.callback(services.webhooks.close)
        housekeeping = Housekeeping(chores(settings, repositories, services, tokens))

        async def close_instances() -> None:
            # A server that did not get to serve has nothing to end.
            policy = shutdown.policy if stop.is_set() else ShutdownPolicy.HANDOVER
            await services.instances.close(policy)

        opened.push_async_callback(close_instances)
        # If the server cannot start, what was taken over runs on for one that can.
        opened.push_async_callback(services.registry.close, 0.0, ShutdownPolicy.HANDOVER)
        opened.push_async_callback(services.backlog.close)
        await services.recovery.run()
        await services.instances.open()
        for background in (services.sweeper, housekeeping):
            opened.push_async_callback(background.close)
            await background.open()

        server = GrpcServer(
            settings,
            servicers(services, tokens, bounds, settings.heartbeat_interval, shutdown),
            collectors,
            Access(tokens).guard,
        )

        async def drain(cut_short: object, *_: object) -> None:
            # The second signal may have met another callback: then nothing waits any more.
            grace = timedelta() if cut_short else shutdown.grace
            try:
                await _drain(server, services.registry, grace, shutdown.policy)
            except asyncio.CancelledError:
                await _drain(server, services.registry, timedelta(), shutdown.policy)
                raise

        opened.push_async_exit(drain)
        engines.on_change(lambda: server.health.set_execution_serving(engines.ready))
        server.health.set_execution_serving(engines.ready)
        opened.push_async_callback(services.deliveries.close)
        for source in (
            services.scheduler,
            services.delays_alarm,
            services.deliveries_alarm,
            services.backlog,
        ):
            opened.push_async_callback(source.close)  # nothing new starts while it drains
        addresses = Addresses(
            grpc=await server.start(),
            metrics=_open_metrics(settings, collectors, opened),
            admin=await _open_admin(settings, server, opened),
            runtime=_describe(engines),
        )
        await services.scheduler.open()
        await services.delays_alarm.open(services.delays.run_due)
        await services.deliveries_alarm.open(services.deliveries.run_due)
        on_ready(addresses)
        await stop.wait()


async def _drain(
    server: GrpcServer, registry: Registry, grace: timedelta, policy: ShutdownPolicy
) -> None:
    """Let calls, then executions, end; both together within the grace."""
    began = asyncio.get_running_loop().time()
    registry.hang_up()
    await server.stop(grace)
    spent = asyncio.get_running_loop().time() - began
    await registry.close(max(grace.total_seconds() - spent, 0.0), policy)


def _open_marks(settings: Settings) -> Marks:
    """Return the marks of instances, beside the database."""
    path = settings.database.with_name(settings.database.name + MARKS_SUFFIX)
    try:
        return Marks.open(path, settings.max_instances)
    except OSError as error:
        log.warning("instances will not be taken over", file=str(path), detail=error.strerror)
        return Marks.none()


def _open_metrics(
    settings: Settings, collectors: CollectorRegistry, opened: AsyncExitStack
) -> Address | None:
    if settings.metrics_listen is None:
        return None
    page = MetricsPage(collectors)
    opened.push_async_callback(page.stop)
    return page.start(settings.metrics_listen)


async def _open_admin(
    settings: Settings, server: GrpcServer, opened: AsyncExitStack
) -> Address | None:
    if settings.admin_listen is None:
        return None
    # Imported here: channelz brings more than the servers need that are not asked for it.
    from skybridge_server.api.admin import AdminServer  # noqa: PLC0415

    admin = AdminServer(server.wire)
    opened.push_async_callback(admin.stop)
    return await admin.start(settings.admin_listen)


def _describe(engines: Engines) -> str:
    status = next(s for s in engines.status() if s.default)
    return status.info.engine if status.ready and status.info else status.message
