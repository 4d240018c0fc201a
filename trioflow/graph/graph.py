"""`StateGraph`: nodes that change a state, and edges that say which node comes next.

A graph is built (`_definition`), then run as often as one likes (`_walk`).
"""

import dataclasses
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, final, overload

import msgspec

from trioflow._runtime.calls import call_plain
from trioflow._runtime.isolation import isolate
from trioflow.config import CheckpointConfig, GraphConfig
from trioflow.config.checks import check_callable, check_instance, check_text
from trioflow.errors import ConfigError
from trioflow.events import Observer
from trioflow.graph._definition import Definition
from trioflow.graph._paused import PausedRuns
from trioflow.graph._walk import Position, Surroundings, Walk
from trioflow.graph.run import GraphRun, stepping
from trioflow.graph.state import State
from trioflow.observers.registry import check_observer, get_observer
from trioflow.outcomes import GraphResult

__all__ = ("StateGraph",)

S = TypeVar("S")


@final
class StateGraph(Definition[S]):
    """A graph whose nodes each make a new state of the one they are given.

    ::

        graph = StateGraph(GraphConfig(name="count"))
        graph.add_node("more", lambda state: more(state))
        graph.add_edge("more", "more", not_(key_equals("n", 3)))
        graph.add_edge("more", "done")
        ...
        result = await graph.execute(State(n=0))

    A run begins at the entry point and ends after an exit point. After any other node the first of its edges is
    taken whose predicate holds, in the order in which they were added. A node is given a copy of what could be
    changed in the state (see `docs/design/graph.md`), so a node that fails changes nothing.

    Args:
        config: the graph's name, limits, retries, and who hears of its runs.
        state_type: `State`, a `msgspec.Struct` or a dataclass; what each node is given and returns.
        observer: who hears of its runs; None takes the one that `config` names, or, in a node of another graph,
            that graph's.
        store: reserved for durable runs, which this version does not have.

    Raises:
        ConfigError: an argument cannot work.
    """

    @overload
    def __init__(
        self: "StateGraph[State]", config: GraphConfig, *, observer: Observer | None = None, store: None = None
    ) -> None: ...

    @overload
    def __init__(
        self, config: GraphConfig, state_type: type[S], *, observer: Observer | None = None, store: None = None
    ) -> None: ...

    def __init__(
        self,
        config: GraphConfig,
        state_type: type[Any] = State,
        *,
        observer: Observer | None = None,
        store: None = None,
    ) -> None:
        check_instance("config", config, GraphConfig)
        _check_state_type(state_type)
        check_observer("observer", observer or get_observer(config.observer))
        if store is not None:
            raise ConfigError.refusing("store", store, "None: this version has no durable runs")
        if config.checkpoint != CheckpointConfig():
            raise ConfigError.refusing("config.checkpoint", config.checkpoint, "the default: no stores yet")
        super().__init__(config.name)
        self._config = config
        self._state_type: type[S] = state_type
        self._observer = observer
        self._paused: PausedRuns[S] = PausedRuns(config.name)

    async def execute(self, state: S, run_id: str | None = None) -> GraphResult[S]:
        """Run the graph from its entry point.

        Args:
            state: what the entry point is given.
            run_id: the run's id; None makes one.

        Raises:
            GraphError: the graph has faults; nothing was called.
            ConfigError: `state` is not of the graph's type; nothing was called.
            CheckpointMismatchError: there is a paused run of this id.
            ExecutionError: a node failed (from what it raised), returned something else than a state, had no edge
                that may be taken or a predicate that failed, or the run came to `max_iterations`.
            BaseException: a `KeyboardInterrupt`, `SystemExit` or the like from a node, bare.

        Cancellation: passes through, and the steps made are lost to the caller; use `open_run` to keep them. A
        failure that happened before comes out instead, and a run that reached its end returns.
        """
        walk = self._begin(state, run_id)
        return self._conclude(walk, await walk.execute())

    def open_run(self, state: S, run_id: str | None = None) -> AbstractAsyncContextManager[GraphRun[S]]:
        """Open a run that is watched step by step.

        ::

            async with graph.open_run(State(n=0)) as steps:
                async for step in steps:
                    print(step.node, step.state)
            result = steps.result()

        A node is called when the block asks for its step, and not before: leaving the block early calls no more.
        Leaving it while a node is being called cancels that call.

        Args:
            state: as for `execute`.
            run_id: as for `execute`.

        Raises:
            GraphError: as for `execute`.
            ConfigError: as for `execute`.
            CheckpointMismatchError: as for `execute`.
            ExecutionError: by the iteration, as by `execute`; on leaving the block, where nobody did.

        Cancellation: passes through; the steps handed out are kept by who took them.
        """
        walk = self._begin(state, run_id)
        return stepping(walk, lambda result: self._conclude(walk, result))

    async def resume(
        self, run_id: str, *, step: None = None, update: Callable[[S], S] | None = None
    ) -> GraphResult[S]:
        """Go on with a paused run: the node that paused runs again.

        Paused runs are kept by the graph object, in memory, until they complete.

        Args:
            run_id: the run's id.
            step: reserved for durable runs, which this version does not have.
            update: a plain function that makes the state to go on with of the state that was kept, such as one
                that puts an answer in.

        Raises:
            CheckpointNotFoundError: there is no paused run of this id.
            CheckpointConflictError: the run is being resumed already.
            ConfigError: an argument cannot work, or `update` returned no state.
            Exception: what `update` raised, as it is; the run stays paused.
            ExecutionError: as for `execute`; the run stays paused where it was.

        Cancellation: passes through; the run stays paused where it was.
        """
        check_text("run_id", run_id)
        check_callable("update", update, optional=True)
        if step is not None:
            raise ConfigError.refusing("step", step, "None: this version has no durable runs")
        with self._paused.resuming(run_id) as position:
            state = position.state
            if update is not None:
                state = call_plain(update, isolate(state))
                self._check_state("what update returned", state)
            walk = self._walk(msgspec.structs.replace(position, state=state), run_id, None)
            return self._conclude(walk, await walk.execute())

    def _begin(self, state: S, run_id: str | None, around: Surroundings | None = None) -> Walk[S]:
        self._check_state("state", state)
        if run_id is not None:
            check_text("run_id", run_id, "a non-empty string or None")
            self._paused.check_new(run_id)
        return self._walk(Position(self._planned().entry, state), run_id, around)

    def _walk(self, position: Position[S], run_id: str | None, around: Surroundings | None) -> Walk[S]:
        if around is None:
            observer = self._observer or get_observer(self._config.observer)
            around = Surroundings(run_id or uuid.uuid4().hex, observer)
        return Walk(self._planned(), position, self._config, self._state_type, around)

    def _conclude(self, walk: Walk[S], result: GraphResult[S]) -> GraphResult[S]:
        """Keep a paused run, forget a completed one."""
        if result.status == "paused":
            self._paused.keep(result.run_id, walk.position)
        else:
            self._paused.forget(result.run_id)
        return result

    async def _execute_within(self, state: S, outer: Surroundings) -> GraphResult[S]:
        """Run as a node of another graph: under its run id, and for its observer where there is none of our own.

        Cancellation: passes through.
        """
        observer = self._observer or outer.observer
        return await self._begin(state, None, Surroundings(outer.run_id, observer)).execute()

    def _check_state(self, field: str, state: object) -> None:
        check_instance(field, state, self._state_type)


def _check_state_type(state_type: object) -> None:
    if not (
        isinstance(state_type, type)
        and (issubclass(state_type, State | msgspec.Struct) or dataclasses.is_dataclass(state_type))
    ):
        raise ConfigError.refusing("state_type", state_type, "State, a msgspec.Struct or a dataclass")
