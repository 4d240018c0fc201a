"""A service: a process that executes the runs submitted to a store, beside any number of others.

One task, the poller, makes one request to the store over and over: to renew the leases of the runs executed here,
and to lease others. It sleeps until the store changes, a run is due, or a third of a lease has passed. Each run is
a task of its own, which walks the graph under the epoch of its lease, and at its end finishes the run or releases
it, or, if another process has taken the run over, does nothing.

The store decides which process holds a run: if this process disagrees, its next save is refused.
"""

import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractAsyncContextManager
from typing import Any, final

import trio

from trioflow._durable.waits import Parking, parking, payload_codec
from trioflow._runtime.block import Block
from trioflow._runtime.emitter import Emitter
from trioflow._runtime.errors import ErrorCollector
from trioflow._runtime.signals import Parked
from trioflow._text import describe_error, one_line, quote
from trioflow.checkpoint.service_protocol import Lease, LeaseGrant, LeaseRequest, Release, ServiceStore
from trioflow.checkpoint.session import shielded_save
from trioflow.config import ServiceConfig
from trioflow.config.checks import check_instance
from trioflow.errors import (
    CheckpointConflictError,
    CheckpointCorruptError,
    CheckpointError,
    CheckpointMismatchError,
    CheckpointStoreError,
    ConfigError,
)
from trioflow.events import EventType, Observer
from trioflow.graph import StateGraph
from trioflow.graph.graph import Served
from trioflow.graph.state import state_codec
from trioflow.observers.registry import check_observer, get_observer
from trioflow.outcomes import GraphResult
from trioflow.service._made import (
    RESUME,
    End,
    MadeRun,
    StillPaused,
    end_of_error,
    end_of_result,
    paused,
    release_of,
)
from trioflow.service.client import ServiceClient, check_service_store, graphs_by_name

__all__ = ("Service", "open_service")

_CONFIG = ServiceConfig()

_ERRORS_KEPT = 1_000
"""How many errors of runs that failed here are kept as they were raised: the last ones."""


def open_service(
    store: ServiceStore,
    graphs: Iterable[StateGraph[Any]],
    *,
    config: ServiceConfig = _CONFIG,
    observer: Observer | None = None,
) -> AbstractAsyncContextManager["Service"]:
    """Open a service, which executes the runs of these graphs that are submitted to `store`, until the block ends.

    ::

        async with open_service(SqliteStore("runs.db"), [review]) as service:
            run_id = await service.submit("review", Draft(text="..."))
            result = await service.result(run_id)

    Any number of processes may serve one store. One of them at a time executes a run; each of its steps is saved,
    and if its process dies, another one continues after the last step. Leaving the block normally lets running
    steps finish, for up to `config.drain_timeout`; otherwise they are cancelled at once. Runs that have not ended
    stay in the store for other processes.

    Args:
        store: the store of the runs; the caller closes it.
        graphs: the graphs whose runs this process executes. Their own stores and checkpoint settings are ignored.
        config: the number of concurrent runs, the length of a lease, and so on.
        observer: receives the events of runs whose graph has no observer; None takes the config's.

    Raises:
        ConfigError: an argument is invalid, such as a store that is not a `ServiceStore`.
        GraphError: a graph is invalid.
    """
    check_service_store(store)
    check_instance("config", config, ServiceConfig)
    named = graphs_by_name(graphs)
    if not named:
        raise ConfigError.refusing("graphs", graphs, "one StateGraph or more")
    if observer is not None:
        check_observer("observer", observer)
    default = get_observer(config.observer)
    return _ServiceBlock(Service._create(store, named, config, (observer, default)))  # noqa: SLF001 - only made here


@final
class Service:
    """An open service.

    Created only by `open_service`.
    """

    __slots__ = ("_client", "_engine")

    _engine: "_Engine"
    _client: ServiceClient

    def __init__(self) -> None:
        raise TypeError("a Service is created only by open_service")

    @classmethod
    def _create(
        cls,
        store: ServiceStore,
        graphs: dict[str, StateGraph[Any]],
        config: ServiceConfig,
        observers: tuple[Observer | None, Observer],
    ) -> "Service":
        self = cls.__new__(cls)
        self._engine = _Engine(store, graphs, config, observers)
        self._client = ServiceClient._create(store, graphs, self._engine.errors, config.poll)  # noqa: SLF001 - ours
        return self

    def __repr__(self) -> str:
        return f"<Service: {self._engine!r}>"

    async def submit(self, graph: str, state: Any, run_id: str | None = None, delay: float = 0.0) -> str:
        """Submit a run, which any process that serves the graph may execute; see `ServiceClient.submit`.

        Cancellation: the run was submitted whole, or not at all.
        """
        return await self._client.submit(graph, state, run_id, delay)

    async def result(self, run_id: str) -> GraphResult[Any]:
        """Wait until the run has ended, and return its result; see `ServiceClient.result`.

        Cancellation: nothing is changed; the run goes on.
        """
        return await self._client.result(run_id)

    async def signal(self, run_id: str, name: str, payload: Any = None) -> None:
        """Send a run a signal; see `ServiceClient.signal`.

        Cancellation: the signal was sent, or not.
        """
        await self._client.signal(run_id, name, payload)

    async def cancel(self, run_id: str) -> None:
        """Cancel a run; see `ServiceClient.cancel`.

        Cancellation: the cancellation was requested, or not.
        """
        await self._client.cancel(run_id)

    def drain(self) -> None:
        """Lease no more runs, let running steps finish, and release the rest; calling it again does nothing.

        Released runs stay in the store for other processes. Meant for SIGTERM; leaving the block does it too.
        """
        self._engine.drain()


@final
class _Engine:
    """The poller, and the runs that it has leased.

    Attributes:
        errors: the errors that runs failed with here, as they were raised, by the run and its stored outcome.
    """

    def __init__(
        self,
        store: ServiceStore,
        graphs: dict[str, StateGraph[Any]],
        config: ServiceConfig,
        observers: tuple[Observer | None, Observer],
    ) -> None:
        self.errors: dict[tuple[str, bytes], Exception] = {}
        self._store = store
        self._graphs = graphs
        self._config = config
        self._observer, self._default_observer = observers
        self._emitter = Emitter(self._observer or self._default_observer, "service", uuid.uuid4().hex)
        self._runs: dict[str, MadeRun] = {}
        self._refused: set[str] = set()
        self._is_draining = False
        self._is_woken = False
        self._nap = trio.CancelScope()
        self._renewed = 0.0
        self._emptied = trio.lowlevel.ParkingLot()
        self._trouble: str | None = None

    def __repr__(self) -> str:
        return f"<engine of {', '.join(self._graphs)}: {len(self._runs)} runs>"

    # The decisions: synchronous methods.

    def drain(self) -> None:
        """Lease no more runs, and release the current ones after their current steps."""
        if not self._is_draining:
            self._is_draining = True
            for run in self._runs.values():
                run.drain()

    def stop_all(self) -> None:
        """Release all runs at once."""
        for run in self._runs.values():
            run.stop("let go")

    def wake(self) -> None:
        """Make the poller read the store."""
        self._is_woken = True
        self._nap.cancel(reason="there is something to look for")

    def _request(self) -> LeaseRequest:
        held = [(run.run_id, run.lease.epoch) for run in self._runs.values() if run.why != "lost"]
        # A run that was lost here must not be leased again before its task has ended.
        lost = [run.run_id for run in self._runs.values() if run.why == "lost"]
        return LeaseRequest(
            graphs=list(self._graphs),
            room=0 if self._is_draining else self._config.max_runs - len(self._runs),
            limits=self._config.limits,
            lease=self._config.lease,
            held=held,
            refused=[*self._refused, *lost],
        )

    def _heed(self, held: Iterable[tuple[str, int]], grant: LeaseGrant) -> None:
        """Stop the runs that this process no longer holds, or that are to be cancelled."""
        for run_id, epoch in held:
            run = self._runs.get(run_id)
            if run is None or run.lease.epoch != epoch:
                continue
            is_cancelled = grant.held.get(run_id)
            if is_cancelled is None:
                self._lose(run)
            elif is_cancelled:
                run.stop("cancelled")

    def _lose(self, run: MadeRun) -> None:
        since = trio.current_time() - self._renewed
        run.stop("lost")
        when = f"its lease was prolonged {since:.1f} s ago"
        message = f"run {quote(run.run_id)} is lost: {when}, and another may have it"
        self._warn("lease lost", message, run.run_id)

    def _warn(self, name: str, message: str, run_id: str | None = None) -> None:
        """Emit an event that the log shows as a failure."""
        if self._emitter.active:
            data = {"name": name, "data": {"run_id": run_id}, "error": True, "error_message": message}
            self._emitter.emit(EventType.CUSTOM, data)

    # The poller.

    async def poll(self, nursery: trio.Nursery) -> None:
        """Renew leases and lease runs, over and over.

        Cancellation: no more runs are leased.
        """
        self._renewed = trio.current_time()
        while True:
            self._is_woken = False
            try:
                seen = await self._store.wait_for_change(None, self._config.poll)
                pause = await self._look(nursery)
                with trio.CancelScope(deadline=trio.current_time() + pause) as self._nap:
                    if not self._is_woken:
                        await self._store.wait_for_change(seen, self._config.poll)
            except CheckpointError as error:
                self._bear(error)
                await trio.sleep(self._config.poll)
            else:
                self._trouble = None

    async def _look(self, nursery: trio.Nursery) -> float:
        """Renew leases and lease runs, once; return the seconds until that is due again.

        Cancellation: runs may have been leased; they become due again when the lease expires.
        """
        request = self._request()
        asked = trio.current_time()
        grant = await self._store.lease(request)
        self._heed(request.held, grant)
        self._renewed = asked
        for lease in grant.taken:
            self._start(lease, nursery)
        pause = float("inf") if grant.next_due is None else grant.next_due
        return min(pause, self._config.lease / 3) if self._runs else pause

    def _bear(self, error: CheckpointError) -> None:
        """Continue without the store, until the leases that could not be renewed have expired."""
        trouble = one_line(describe_error(error))
        if trouble != self._trouble:
            self._trouble = trouble
            self._warn("store failed", trouble)
        if trio.current_time() - self._renewed > self._config.lease:
            for run in self._runs.values():
                if run.why != "lost":
                    self._lose(run)

    def _start(self, lease: Lease, nursery: trio.Nursery) -> None:
        run = MadeRun(lease, Parking(lease.run_id, self._config.park_after, self._config.poll))
        self._runs[lease.run_id] = run
        if self._is_draining:
            run.stop("let go")
        if lease.is_cancelled:
            run.stop("cancelled")
        nursery.start_soon(self._make, run, name=f"trioflow run {lease.run_id}")

    # One run.

    @trio.lowlevel.enable_ki_protection
    async def _make(self, run: MadeRun) -> None:
        """Execute the run, and store how it ended.

        Cancellation: the run is released, shielded.
        """
        # Holds if this task is cancelled, or ended by something that is not an `Exception`.
        end: End | Release | None = Release(status="queued", delay=0.0)
        try:
            with run.scope:
                end = await self._end_of(run)
            if run.scope.cancelled_caught:
                end = run.end_of_stop()
        finally:
            if end is not None:
                await self._keep(run, end)  # noqa: ASYNC102 - shielded and timed in there
            del self._runs[run.run_id]
            self.wake()
            self._emptied.unpark_all()

    async def _end_of(self, run: MadeRun) -> End | Release | None:
        """Execute the run, and return how it ended; None if another process has taken it over.

        Cancellation: passes through.
        """
        graph = self._graphs[run.lease.graph]
        try:
            return end_of_result(await self._execute(graph, run))
        except StillPaused:
            return paused()
        except Parked as parked:
            return release_of(parked)
        except CheckpointConflictError:
            return None
        except CheckpointError as error:
            return self._end_of_trouble(graph, run, error)
        except Exception as error:  # noqa: BLE001 - any error is the one that the run failed with
            return self._end_of_failure(graph, run, error)

    async def _execute(self, graph: StateGraph[Any], run: MadeRun) -> GraphResult[Any]:
        """Walk the graph.

        Cancellation: passes through.
        """
        await trio.lowlevel.checkpoint_if_cancelled()
        parking.set(run.parking)
        served = Served(
            run_id=run.run_id,
            epoch=run.lease.epoch,
            store=self._store,
            observer=self._observer or graph.observer_or(self._default_observer),
            on_step=run.on_step,
            answer=self._answer_for(graph, run),
            last=run.lease.last,
        )
        return await graph._serve(served)  # noqa: SLF001 - made for this call

    def _end_of_trouble(self, graph: StateGraph[Any], run: MadeRun, error: CheckpointError) -> End | Release:
        """Return how a run ends after an error of its store."""
        message = one_line(describe_error(error))
        if isinstance(error, CheckpointStoreError):
            self._warn("store failed", message, run.run_id)
            return Release(status="queued", delay=self._config.poll)
        if isinstance(error, CheckpointMismatchError | CheckpointCorruptError):
            # Another process may run other code, or this one may run a newer version next time.
            self._refused.add(run.run_id)
            return Release(status="blocked", delay=0.0, reason=message)
        return self._end_of_failure(graph, run, error)

    def _end_of_failure(self, graph: StateGraph[Any], run: MadeRun, error: Exception) -> End:
        end = end_of_error(error, state_codec(graph._state_type))  # noqa: SLF001 - for the state in it
        self.errors[run.run_id, end.outcome] = error
        if len(self.errors) > _ERRORS_KEPT:
            del self.errors[next(iter(self.errors))]
        return end

    def _answer_for(self, graph: StateGraph[Any], run: MadeRun) -> Callable[[str], Any]:
        async def answer(name: str) -> bytes:
            data = await self._store.take_signal(run.run_id, run.lease.epoch, RESUME, name)
            if data is None:
                raise StillPaused
            # Its sender did not know the graph, or it would have been refused.
            if graph._on_resume is None and payload_codec.decode(data) is not None:  # noqa: SLF001 - as above
                message = f"has no on_resume that could use the payload of {quote(RESUME)}"
                self._warn("payload unused", f"graph {quote(graph.name)} {message}", run.run_id)
            return data

        return answer

    async def _keep(self, run: MadeRun, end: End | Release) -> None:
        """Store how the run ended; if that is refused or fails, the run is left to the next process that takes it.

        Cancellation: shielded.
        """
        try:
            await shielded_save(self._store, lambda: run.keep(self._store, end))
        except CheckpointError as error:
            if isinstance(end, End):
                self.errors.pop((run.run_id, end.outcome), None)
            if not isinstance(error, CheckpointConflictError):
                self._warn("store failed", one_line(describe_error(error)), run.run_id)

    async def wait_until_empty(self) -> None:
        """Wait until no run is executed here.

        Cancellation: passes through.
        """
        while self._runs:
            await self._emptied.park()

    async def drain_for(self, seconds: float) -> None:
        """Let the current steps finish, for up to this many seconds; then release all runs.

        Cancellation: passes through.
        """
        self.drain()
        with trio.move_on_after(seconds):
            await self.wait_until_empty()
        self.stop_all()
        await self.wait_until_empty()

    @property
    def drain_timeout(self) -> float:
        """Seconds for which leaving the block waits for current steps."""
        return self._config.drain_timeout


@final
class _ServiceBlock(Block[Service]):
    """The block of `open_service`."""

    def __init__(self, service: Service) -> None:
        super().__init__(ErrorCollector())
        self._service = service
        self._engine = service._engine  # noqa: SLF001 - both belong to one service
        self._scope: trio.CancelScope

    def _open(self, nursery: trio.Nursery) -> Service:
        self._scope = nursery.cancel_scope
        nursery.start_soon(self._engine.poll, nursery, name="trioflow service")
        return self._service

    async def _leave(self, *, in_peace: bool) -> None:
        await self._engine.drain_for(self._engine.drain_timeout if in_peace else 0.0)
        self._scope.cancel(reason="the block of open_service was left")

    def _conclude(self) -> None:
        pass
