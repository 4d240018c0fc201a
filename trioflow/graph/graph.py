"""`StateGraph`: nodes that change a state, and edges that choose the next node.

A graph is built (`GraphBuilder`), then run any number of times (`GraphRunner`). `Runs` saves its runs: in a store,
or, while they are paused, in memory.
"""

import uuid
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, final, overload

import msgspec
import trio

from trioflow._durable.children import Child
from trioflow._durable.runs import Claimed, KeptRuns, PausedRuns, Resumed, Resumption, Runs
from trioflow._durable.steps import Keeping, Position, Steps
from trioflow._durable.waits import payload_codec
from trioflow._runtime.calls import call_plain
from trioflow._runtime.errors import foreign_cancelled
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore
from trioflow.checkpoint.session import choose_store
from trioflow.config import GraphConfig
from trioflow.config.checks import check_callable, check_count, check_in_trio, check_instance, check_text
from trioflow.errors import ConfigError
from trioflow.events import Observer
from trioflow.graph._builder import GraphBuilder
from trioflow.graph._runner import GraphRunner
from trioflow.graph.run import GraphRun, OnStep, RunBlock
from trioflow.graph.state import State, is_state_type, isolate, state_codec
from trioflow.observers.registry import check_observer, get_observer
from trioflow.outcomes import GraphResult

__all__ = ("Served", "StateGraph")

S = TypeVar("S")

DEFAULT_OBSERVER = GraphConfig(name="default").observer
"""The observer of a config that does not set one; in a node it stands for the graph's observer."""


class Served(msgspec.Struct, frozen=True):
    """A run that a service executes, and its connections to the service."""

    run_id: str
    """The run's id."""
    epoch: int
    """The epoch of the service's claim."""
    store: CheckpointStore
    """Where it is stored."""
    observer: Observer
    """Receives its events."""
    on_step: OnStep[Any]
    """Awaited after each step."""
    answer: Callable[[str], Awaitable[bytes]]
    """Returns the payload that a pause waits for, by the name of the signal; or raises `Parked`."""
    last: Checkpoint | None = None
    """Its last step, if it was read together with the lease."""


@final
class StateGraph(GraphBuilder[S]):
    """A graph whose nodes each turn a state into the next one.

    ::

        graph = StateGraph(GraphConfig(name="count"))
        graph.add_node("more", lambda state: more(state))
        graph.add_edge("more", "more", not_(key_equals("n", 3)))
        graph.add_edge("more", "done")
        ...
        result = await graph.execute(State(n=0))

    A run starts at the entry point and ends after an exit point. After any other node, the first of its edges
    whose predicate holds is taken, in the order in which they were added. A node gets a copy of what is mutable in
    the state (see `docs/design/graph.md`), so a node that fails changes nothing.

    Args:
        config: the graph's name, limits, retries, and the name of its observer.
        state_type: `State`, a `msgspec.Struct`, a dataclass or a pydantic model: the type that each node takes and
            returns.
        observer: receives the events of its runs; None is the one that `config` names, or, in a node of another
            graph and with the default name, that graph's.
        store: where runs are stored, unless `config.checkpoint.interval` is 0; None is the store that
            `config.checkpoint` names. The caller closes a store given here.
        on_resume: a plain function of the state and the payload of a signal `resume` that returns the state with
            which a paused run continues; for runs that a service executes.

    Raises:
        ConfigError: an argument is invalid.
    """

    @overload
    def __init__(
        self: "StateGraph[State]",
        config: GraphConfig,
        *,
        observer: Observer | None = None,
        store: CheckpointStore | None = None,
        on_resume: Callable[[State, Any], State] | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        config: GraphConfig,
        state_type: type[S],
        *,
        observer: Observer | None = None,
        store: CheckpointStore | None = None,
        on_resume: Callable[[S, Any], S] | None = None,
    ) -> None: ...

    def __init__(
        self,
        config: GraphConfig,
        state_type: type[Any] = State,
        *,
        observer: Observer | None = None,
        store: CheckpointStore | None = None,
        on_resume: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        check_instance("config", config, GraphConfig)
        if not is_state_type(state_type):
            allowed = "State, a msgspec.Struct or a dataclass, or a pydantic model"
            raise ConfigError.refusing("state_type", state_type, allowed)
        check_observer("observer", observer or get_observer(config.observer))
        check_callable("on_resume", on_resume, optional=True)
        super().__init__(config.name, state_type)
        self._config = config
        self._observer = observer
        self._on_resume: Callable[[S, Any], S] | None = on_resume
        self._runs: Runs[S] = self._open_runs(choose_store(store, config.checkpoint))

    async def execute(
        self, state: S, run_id: str | None = None, observer: Observer | None = None
    ) -> GraphResult[S]:
        """Run the graph from its entry point.

        Args:
            state: the input state of the entry point.
            run_id: the run's id; None generates one. With a store it identifies the stored run; without one it is
                only used in events, and by `resume` while the run is paused.
            observer: receives this run's events, instead of the graph's or the config's observer.

        Raises:
            GraphError: the graph has faults; no node was called.
            ConfigError: `state` is not of the graph's type, or `run_id` is invalid; no node was called.
            CheckpointMismatchError: a run of this id exists.
            CheckpointEncodeError: a state cannot be stored exactly; the step before it is still stored.
            CheckpointConflictError: another process has claimed the run since.
            CheckpointStoreError: the store cannot be read or written.
            ExecutionError: a node failed (from what it raised), returned something other than a state, had no edge
                that may be taken or a predicate that failed, or the run reached `max_iterations`.
            BaseException: a `KeyboardInterrupt`, `SystemExit` or other non-`Exception` from a node, bare.

        Cancellation: passes through, and the caller does not see the completed steps; `open_run` yields them. An
        error that happened before is raised instead, and a run that has reached its end returns.
        """
        check_in_trio()
        return await self._begin(self._runner(state, run_id, observer))

    def open_run(
        self, state: S, run_id: str | None = None, observer: Observer | None = None
    ) -> AbstractAsyncContextManager[GraphRun[S]]:
        """Open a run that yields its steps.

        ::

            async with graph.open_run(State(n=0)) as steps:
                async for step in steps:
                    print(step.node, step.state)
            result = steps.result()

        A node is called only when its step is requested, so leaving the block early calls no further node. Leaving
        it while a node is running cancels that node.

        Args:
            state: as for `execute`.
            run_id: as for `execute`.
            observer: as for `execute`.

        Raises:
            GraphError: as for `execute`.
            ConfigError: as for `execute`.
            CheckpointMismatchError: as for `execute`.
            ExecutionError: as for `execute`, from the iteration; or on leaving the block, if the iteration did not
                raise it.

        Cancellation: passes through; the steps already yielded are the caller's.
        """
        runner = self._runner(state, run_id, observer)

        async def run(on_step: OnStep[S]) -> GraphResult[S]:
            runner.on_step = on_step
            return await self._begin(runner)

        return RunBlock(run, f"{runner.task_name} run")

    async def resume(
        self,
        run_id: str,
        *,
        step: int | None = None,
        update: Callable[[S], S] | None = None,
        as_run_id: str | None = None,
        observer: Observer | None = None,
    ) -> GraphResult[S]:
        """Resume a run from where it paused, failed, was cancelled or was killed.

        The node that had not completed runs again, from its beginning. For a completed run that is still stored,
        nothing runs and its result is returned. Without checkpoints, only paused runs can be resumed: the graph
        object holds them in memory until they complete.

        Args:
            run_id: the run's id.
            step: fork the run: continue after this step of it, as a new run with its own id; the old run stays
                as it is. Step 0 is the beginning of the run.
            update: a plain function of the stored state that returns the state to continue with, such as one that
                adds an answer. Its result is saved before the node runs.
            as_run_id: the id of the fork; None generates one, which is in the result, or in the error. Without
                `step` the fork continues after the latest step.
            observer: as for `execute`.

        Raises:
            CheckpointNotFoundError: there is no such run, or no such step.
            CheckpointMismatchError: the run is another graph's, its node or state type no longer exists, or a run
                with the fork's id exists.
            CheckpointConflictError: another process has claimed the run since; its steps count.
            CheckpointCorruptError: the stored run is damaged.
            CheckpointStoreError: the store cannot be read or written.
            ConfigError: an argument is invalid, nothing is left to do after `step`, or `update` returned something
                other than a state.
            Exception: what `update` raised; the run stays as it was.
            ExecutionError: as for `execute`; the run can be resumed again.

        Cancellation: passes through; the run can be resumed again.
        """
        check_in_trio()
        check_text("run_id", run_id)
        check_callable("update", update, optional=True)
        if step is not None:
            check_count("step", step, minimum=0, allowed="0 or more, or None (the latest)")
        if as_run_id is not None:
            check_text("as_run_id", as_run_id, "a non-empty string or None")
        updating = None if update is None else self._updating(update)
        resumption = self._resumption(run_id)
        resumption = msgspec.structs.replace(resumption, step=step, as_run_id=as_run_id, update=updating)
        chosen = self._choose_observer(observer)
        return await self._runs.resume(resumption, lambda resumed: self._continue(resumed, chosen))

    async def _begin(self, runner: GraphRunner[S]) -> GraphResult[S]:
        """Run from the entry point.

        Cancellation: passes through.
        """

        async def run(steps: Steps[S]) -> GraphResult[S]:
            runner.steps = steps
            return await runner.execute()

        return await self._runs.begin(runner.run_id, runner.position, run)

    def _resumption(self, run_id: str) -> Resumption[S]:
        plan = self._planned()
        return Resumption(run_id, plan.nodes, [name for name, node in plan.nodes.items() if node.is_exit])

    async def _continue(
        self, resumed: Resumed[S], observer: Observer, on_step: OnStep[S] | None = None
    ) -> GraphResult[S]:
        """Run from the resumed position, or return the result of a completed run.

        Cancellation: passes through; the run can be resumed again.
        """
        position = resumed.position
        if resumed.status == "completed":
            node, iterations = position.node, position.iterations
            return GraphResult(position.state, resumed.run_id, "completed", node, [], iterations)
        runner = self._runner_at(position, resumed.run_id, observer)
        runner.steps = resumed.steps
        runner.on_step = on_step
        if resumed.from_store:
            runner.events.run_resumed(position.step, position.node, resumed.status)
        return await runner.execute()

    def _runner(self, state: S, run_id: str | None, observer: Observer | None) -> GraphRunner[S]:
        """Return a runner from the entry point, or raise what `execute` raises for its arguments."""
        self._check_state("state", state)
        if run_id is not None:
            check_text("run_id", run_id, "a non-empty string or None")
            self._runs.check_new(run_id)
        return self._runner_at(self._entrance(state), run_id or uuid.uuid4().hex, self._choose_observer(observer))

    def _runner_at(self, position: Position[S], run_id: str, observer: Observer) -> GraphRunner[S]:
        plan = self._planned()
        return GraphRunner(plan, position, self._config, self._state_type, run_id=run_id, observer=observer)

    def _entrance(self, state: S) -> Position[S]:
        return Position(self._planned().entry, state)

    def _choose_observer(self, given: Observer | None) -> Observer:
        if given is not None:
            check_observer("observer", given)
        return given or self._observer or get_observer(self._config.observer)

    def _open_runs(self, store: CheckpointStore | str | None) -> Runs[S]:
        if store is None:
            return PausedRuns(self.name, isolate)
        return KeptRuns(store, self._keeping(preserve=self._config.checkpoint.preserve))

    def _keeping(self, *, preserve: bool, interval: int | None = None) -> Keeping[S]:
        codec = state_codec(self._state_type)
        return Keeping("graph", self.name, codec, interval or self._config.checkpoint.interval or 1, preserve)

    def _updating(self, update: Callable[[S], S]) -> Callable[[S], S]:
        """Return `update` wrapped to take a copy, and to check that it returns a state of the graph's type."""

        def updated(state: S) -> S:
            try:
                changed = call_plain(update, isolate(state))
            except trio.Cancelled as cancelled:  # noqa: ASYNC103 - no plain function is cancelled
                raise foreign_cancelled(cancelled, "update") from cancelled  # noqa: ASYNC104 - the same
            self._check_state("what update returned", changed)
            return changed

        return updated

    async def _execute_inside(self, state: S, child: Child) -> GraphResult[S]:
        """Run as a node of another graph, with that graph's observer if this one has none of its own.

        Cancellation: passes through; if it is durable, it continues when the node is called again.
        """
        self._check_state("state", state)
        observer = self.observer_or(child.observer)
        run_id = child.run_id or uuid.uuid4().hex
        first = self._entrance(state)
        if child.store is None:
            return await self._runner_at(first, run_id, observer).execute()
        runs = KeptRuns(child.store, self._keeping(preserve=True))
        return await runs.enter(self._resumption(run_id), first, lambda resumed: self._continue(resumed, observer))

    async def _serve(self, served: Served) -> GraphResult[S]:
        """Execute a run that a service has claimed; each step is saved.

        Raises:
            Parked: the run waits, and is to continue later.
            CheckpointMismatchError: its node or state type no longer exists.
            Exception: as for `resume`.

        Cancellation: passes through; another process can take the run over.
        """

        async def answer(name: str, position: Position[S]) -> S:
            payload = payload_codec.decode(await served.answer(name))
            on_resume = self._on_resume
            if payload is None or on_resume is None:
                return position.state
            return self._updating(lambda state: on_resume(state, payload))(position.state)

        async def go_on(resumed: Resumed[S]) -> GraphResult[S]:
            return await self._continue(resumed, served.observer, served.on_step)

        runs = KeptRuns(served.store, self._keeping(preserve=True, interval=1))
        claimed = Claimed(served.epoch, self._planned().entry, served.last)
        return await runs.serve(self._resumption(served.run_id), claimed, answer, go_on)

    def observer_or(self, default: Observer) -> Observer:
        """Return the observer of the graph's runs; `default` if neither it nor its config sets one."""
        named = self._config.observer != DEFAULT_OBSERVER
        return self._observer or (get_observer(self._config.observer) if named else default)

    def _check_state(self, field: str, state: object) -> None:
        check_instance(field, state, self._state_type)
