"""The client of a service, for a program that executes no runs: submit, signal, cancel, and wait for results.

Everything goes through the store, so client and service need not know each other.
"""

import time
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, final

import trio

from trioflow._durable.waits import payload_codec
from trioflow._text import list_known, quote, show
from trioflow.checkpoint.codec import LARGE, Codec, sealed
from trioflow.checkpoint.protocol import Checkpoint
from trioflow.checkpoint.registry import check_store
from trioflow.checkpoint.service_protocol import ServiceRun, ServiceStore
from trioflow.checkpoint.session import check_loaded, check_run_id, decode, encode, load_verified
from trioflow.config import ServiceConfig
from trioflow.config.checks import check_in_trio, check_instance, check_number, check_text
from trioflow.errors import CheckpointNotFoundError, ConfigError, RunCancelledError
from trioflow.graph import State, StateGraph
from trioflow.graph.state import is_state_type, state_codec
from trioflow.outcomes import GraphResult
from trioflow.service._endings import Endings
from trioflow.service._made import RESUME
from trioflow.service._outcomes import Completed, decode_outcome, rebuilt

__all__ = ("ServiceClient", "check_service_store", "graphs_by_name", "service_client")

_METHODS = (
    "submit",
    "lease",
    "release",
    "finish",
    "put_signal",
    "take_signal",
    "request_cancel",
    "look",
    "ended",
    "wait_for_change",
)

_POLL = ServiceConfig().poll


def service_client(store: ServiceStore, graphs: Iterable[StateGraph[Any]] = ()) -> "ServiceClient":
    """Return a client that submits runs to the services of `store`, and waits for their results.

    ::

        client = service_client(SqliteStore("runs.db"), [review])
        run_id = await client.submit("review", Draft(text="..."))
        result = await client.result(run_id)

    Args:
        store: the store; the caller closes it.
        graphs: the graphs of the service, for their names and the types of their states; without them any name
            is accepted, and states are restored as `State`.

    Raises:
        ConfigError: an argument is invalid.
        GraphError: a graph is invalid.
    """
    check_service_store(store)
    return ServiceClient._create(store, graphs_by_name(graphs), {})  # noqa: SLF001 - only made here and by a service


@final
class ServiceClient:
    """Submits, signals and cancels runs, and waits for their results.

    Created only by `service_client`.
    """

    __slots__ = ("_endings", "_errors", "_graphs", "_store")

    _store: ServiceStore
    _graphs: Mapping[str, StateGraph[Any]]
    _errors: Mapping[tuple[str, bytes], Exception]
    _endings: Endings

    def __init__(self) -> None:
        raise TypeError("a ServiceClient is created only by service_client")

    @classmethod
    def _create(
        cls,
        store: ServiceStore,
        graphs: Mapping[str, StateGraph[Any]],
        errors: Mapping[tuple[str, bytes], Exception],
        poll: float = _POLL,
    ) -> "ServiceClient":
        self = cls.__new__(cls)
        self._store, self._graphs, self._errors = store, graphs, errors
        self._endings = Endings(store, poll)
        return self

    def __repr__(self) -> str:
        return f"<ServiceClient of {self._store!r}>"

    async def submit(self, graph: str, state: Any, run_id: str | None = None, delay: float = 0.0) -> str:
        """Submit a run, and return its id; once this has returned the run is not lost.

        Args:
            graph: the graph's name.
            state: the input state of its entry point.
            run_id: the run's id; None generates one.
            delay: seconds before the run may begin.

        Raises:
            CheckpointMismatchError: a run of this id exists; nothing is submitted.
            CheckpointEncodeError: the state cannot be stored exactly.
            CheckpointStoreError: the store cannot be written.
            ConfigError: the client has no graph of this name, or another argument is invalid.

        Cancellation: the run was submitted whole, or not at all.
        """
        check_in_trio()
        check_text("graph", graph, "the name of a graph")
        check_number("delay", delay, allowed="a number of seconds, 0 or more", least="zero")
        if run_id is None:
            run_id = uuid.uuid4().hex
        check_text("run_id", run_id, "a non-empty string or None")
        check_run_id(run_id)
        codec, entry = self._begin(graph, state)
        data = await encode(codec, state)
        checkpoint = Checkpoint(
            run_id=run_id,
            graph=graph,
            step=0,
            node="",
            next_node=entry,
            iterations=0,
            state=data,
            status="running",
            pause=None,
            created_at=time.time(),
        )
        if len(data) < LARGE:
            sealed(checkpoint)
        else:
            await trio.to_thread.run_sync(sealed, checkpoint)
        await self._store.submit(checkpoint, delay)
        return run_id

    async def result(self, run_id: str) -> GraphResult[Any]:
        """Wait until the run has ended, and return its result, whichever process executed it.

        Raises:
            CheckpointNotFoundError: no such run was submitted, or it was pruned.
            CheckpointCorruptError: the stored run is damaged.
            CheckpointStoreError: the store cannot be read.
            RunCancelledError: it was cancelled.
            Exception: the error that it failed with, an `ExecutionError` for a node. If another process executed
                the run: an error of the same type from a `RemoteError`, or the `RemoteError` itself if the type is
                neither Python's nor trioflow's.

        Cancellation: nothing is changed; the run goes on.
        """
        check_in_trio()
        check_text("run_id", run_id)
        await self._endings.wait(run_id)
        return await self._concluded(await self._store.look(run_id))

    async def signal(self, run_id: str, name: str, payload: Any = None) -> None:
        """Send a run a signal; once this has returned the signal is not lost.

        Args:
            run_id: any run in the store.
            name: the signal's name; `resume` continues a paused run.
            payload: plain data that `wait_for_signal` returns, or that `on_resume` receives.

        Raises:
            CheckpointNotFoundError: there is no such run.
            CheckpointMismatchError: it has ended.
            CheckpointEncodeError: the payload cannot be stored exactly.
            CheckpointStoreError: the store cannot be written.
            ConfigError: an argument is invalid, or the run's graph has no `on_resume` that could use the payload.

        Cancellation: the signal was sent, or not.
        """
        check_in_trio()
        check_text("run_id", run_id)
        check_text("name", name)
        data = payload_codec.encode(payload)
        if name == RESUME and payload is not None:
            await self._check_resumable(run_id)
        await self._store.put_signal(run_id, name, data)

    async def cancel(self, run_id: str) -> None:
        """Cancel a run: at once if no process executes it, else as soon as that process next reads the store.

        A run that has ended stays as it is.

        Raises:
            CheckpointNotFoundError: no such run was submitted, or it was pruned.
            CheckpointStoreError: the store cannot be written.

        Cancellation: the cancellation was requested, or not.
        """
        check_in_trio()
        check_text("run_id", run_id)
        await self._store.request_cancel(run_id)

    def _begin(self, graph: str, state: Any) -> tuple[Codec[Any], str]:
        """Return the codec for the state of a new run, and its first node: empty if that is not known."""
        if graph in self._graphs:
            known = self._graphs[graph]
            known._check_state("state", state)  # noqa: SLF001 - as execute does
            return state_codec(known._state_type), known._planned().entry  # noqa: SLF001 - the same
        if self._graphs:
            allowed = f"the name of a graph that is served {list_known(graph, self._graphs)}"
            raise ConfigError.refusing("graph", graph, allowed)
        if not is_state_type(type(state)):
            allowed = "a State, a msgspec.Struct, a dataclass or a pydantic model"
            raise ConfigError.refusing("state", state, allowed)
        return state_codec(type(state)), ""

    async def _check_resumable(self, run_id: str) -> None:
        """Raise if the run's graph could not use a payload.

        Cancellation: nothing is changed.
        """
        try:
            run = await self._store.look(run_id)
        except CheckpointNotFoundError:
            return
        graph = self._graphs.get(run.graph)
        if graph is not None and graph._on_resume is None:  # noqa: SLF001 - internal to the library
            message = f"graph {quote(run.graph)} has no on_resume that could use a payload"
            raise ConfigError(f"{message}: give it one, or send no payload", field="payload")

    async def _concluded(self, run: ServiceRun) -> GraphResult[Any]:
        """Return the result of the run, or raise its error.

        Cancellation: nothing is changed.
        """
        if run.status == "cancelled" or run.outcome is None:
            raise RunCancelledError(f"run {quote(run.run_id)} was cancelled", run_id=run.run_id)
        # If the id was deleted and submitted again, an error known under it may not be this run's.
        raised = self._errors.get((run.run_id, run.outcome))
        if raised is not None:
            raise raised
        outcome = decode_outcome(run.outcome)
        codec = self._codec(run.graph)
        if not isinstance(outcome, Completed):
            raise rebuilt(outcome, run.run_id, codec)
        if run.last is None:
            last = await load_verified(self._store, run.run_id)
        else:
            last = await check_loaded(run.last, run.run_id)
        state = await decode(codec, last.state)
        path, iterations = outcome.path, outcome.iterations
        return GraphResult(state, run.run_id, "completed", outcome.exit_point, path, iterations)

    def _codec(self, graph: str) -> Codec[Any]:
        known = self._graphs.get(graph)
        return state_codec(State) if known is None else state_codec(known._state_type)  # noqa: SLF001 - as above


def check_service_store(store: Any) -> None:
    """Raise if the store is not a `ServiceStore`."""
    check_store("store", store)
    missing = [method for method in _METHODS if not callable(getattr(store, method, None))]
    if missing:
        allowed = f"a store that can keep runs of a service; {show(type(store).__name__)} has no {missing[0]}"
        raise ConfigError.refusing("store", store, allowed)


def graphs_by_name(graphs: Iterable[StateGraph[Any]]) -> dict[str, StateGraph[Any]]:
    """Return graphs by their names; raise if two have the same name, or one is invalid."""
    given: object = graphs
    if isinstance(given, StateGraph) or not isinstance(given, Iterable):
        raise ConfigError.refusing("graphs", graphs, "StateGraphs, in a list")
    found: dict[str, StateGraph[Any]] = {}
    for graph in graphs:
        check_instance("graphs", graph, StateGraph)
        if graph.name in found:
            raise ConfigError.refusing("graphs", graph.name, "graphs of different names")
        graph.validate()
        found[graph.name] = graph
    return found
