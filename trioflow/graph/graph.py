"""`StateGraph`: nodes that change a state, and edges that say which node comes next.

A graph is built (`_definition`), then run as often as one likes (`_walk`).
"""

import dataclasses
import uuid
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar, cast, final, overload

import msgspec

from trioflow._durable.steps import Saver
from trioflow._runtime.calls import call_plain
from trioflow.checkpoint.codec import Codec
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore
from trioflow.checkpoint.session import check_run_id, choose_store, decode, open_store
from trioflow.config import GraphConfig
from trioflow.config.checks import check_callable, check_count, check_instance, check_text
from trioflow.errors import ConfigError
from trioflow.events import Observer
from trioflow.graph._definition import Definition
from trioflow.graph._isolation import isolate
from trioflow.graph._kept import find, state_codec
from trioflow.graph._paused import PausedRuns
from trioflow.graph._walk import DEFAULT_OBSERVER, Position, Surroundings, Walk
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
        observer: who hears of its runs; None takes the one that `config` names, or, in a node of another graph and
            with the default name, that graph's.
        store: where runs are kept; None takes the store that `config.checkpoint` names, if its `interval` is not
            0. A store that is given is the caller's to close.

    Raises:
        ConfigError: an argument cannot work.
    """

    @overload
    def __init__(
        self: "StateGraph[State]",
        config: GraphConfig,
        *,
        observer: Observer | None = None,
        store: CheckpointStore | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        config: GraphConfig,
        state_type: type[S],
        *,
        observer: Observer | None = None,
        store: CheckpointStore | None = None,
    ) -> None: ...

    def __init__(
        self,
        config: GraphConfig,
        state_type: type[Any] = State,
        *,
        observer: Observer | None = None,
        store: CheckpointStore | None = None,
    ) -> None:
        check_instance("config", config, GraphConfig)
        _check_state_type(state_type)
        check_observer("observer", observer or get_observer(config.observer))
        self._store = choose_store(store, config.checkpoint)
        self._codec: Codec[S] = state_codec(state_type)
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
            ConfigError: `state` is not of the graph's type, or `run_id` is not safe; nothing was called.
            CheckpointMismatchError: there is a run of this id that is kept.
            CheckpointEncodeError: a state cannot be kept exactly; the step before it still is.
            CheckpointConflictError: somebody else has claimed the run since.
            CheckpointStoreError: the store cannot be read or written.
            ExecutionError: a node failed (from what it raised), returned something else than a state, had no edge
                that may be taken or a predicate that failed, or the run came to `max_iterations`.
            BaseException: a `KeyboardInterrupt`, `SystemExit` or the like from a node, bare.

        Cancellation: passes through, and the steps made are lost to the caller; use `open_run` to keep them. A
        failure that happened before comes out instead, and a run that reached its end returns.
        """
        return await self._run(self._begin(state, run_id))

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
        return stepping(walk, lambda: self._run(walk))

    async def resume(
        self, run_id: str, *, step: int | None = None, update: Callable[[S], S] | None = None
    ) -> GraphResult[S]:
        """Go on with a run: from where it paused, failed, was cancelled or was killed.

        The node that had not completed runs again, from its beginning. A completed run that is still kept returns
        its result, and nothing is run. Without checkpoints, only paused runs are kept: by the graph object, in
        memory, until they complete.

        Args:
            run_id: the run's id.
            step: go on from after this step of it, as a new run with an id of its own; the old one stays as it is.
            update: a plain function that makes the state to go on with of the state that was kept, such as one
                that puts an answer in.

        Raises:
            CheckpointNotFoundError: there is no such run, or no such step.
            CheckpointMismatchError: it is another graph's run, or its node or state type is gone.
            CheckpointConflictError: somebody else has claimed the run since; their steps count.
            CheckpointCorruptError: what was kept is damaged.
            CheckpointStoreError: the store cannot be read or written.
            ConfigError: an argument cannot work, or `update` returned no state.
            Exception: what `update` raised, as it is; the run stays as it was.
            ExecutionError: as for `execute`; the run can be resumed again.

        Cancellation: passes through; the run can be resumed again.
        """
        check_text("run_id", run_id)
        check_callable("update", update, optional=True)
        if step is not None:
            check_count("step", step, minimum=0, allowed="0 or more, or None (the latest)")
        plan = self._planned()
        if self._store is None:
            if step is not None:
                self._paused.refuse_step(run_id)
            with self._paused.resuming(run_id) as position:
                walk = self._walk(self._updated(position, update), run_id, None, durable=False)
                try:
                    return await self._run(walk)
                finally:
                    self._paused.spend(run_id, walk.attempts)
        check_run_id(run_id)
        async with open_store(self._store) as store:
            checkpoint = await find(store, run_id, step, self.name, plan)
            if step is None and checkpoint.status == "completed":
                return await self._result_of(checkpoint)
            new_id = run_id if step is None else uuid.uuid4().hex
            return await self._go_on(store, checkpoint, new_id, step, update)

    async def _go_on(
        self,
        store: CheckpointStore,
        checkpoint: Checkpoint,
        run_id: str,
        step: int | None,
        update: Callable[[S], S] | None,
    ) -> GraphResult[S]:
        """Claim `run_id`, and walk on from `checkpoint`.

        Cancellation: passes through; the run can be resumed again.
        """
        position = self._updated(await self._position_of(checkpoint), update)
        walk = self._walk(position, run_id, None)
        saver = cast("Saver[S]", walk.saver)
        await saver.take_over(store, checkpoint, run_id)
        if step is None:
            # Whoever had the run may have saved a step before it was ours.
            latest = await find(store, run_id, None, self.name, self._planned())
            if latest.status == "completed":
                return await self._result_of(latest)
            if latest != checkpoint:
                return await self._go_on(store, latest, run_id, None, update)
        if update is not None:
            await saver.update(position.state)
        walk.voice.tell_resumed(checkpoint.step, position.node, checkpoint.status)
        return await walk.execute()

    async def _position_of(self, checkpoint: Checkpoint) -> Position[S]:
        """Return where the run of `checkpoint` goes on.

        Cancellation: passes through; nothing is changed.
        """
        state = await decode(self._codec, checkpoint.state)
        left = not checkpoint.next_node
        return Position(checkpoint.next_node or checkpoint.node, state, checkpoint.iterations, left)

    def _updated(self, position: Position[S], update: Callable[[S], S] | None) -> Position[S]:
        if update is None:
            return position
        state = call_plain(update, isolate(position.state))
        self._check_state("what update returned", state)
        return msgspec.structs.replace(position, state=state)

    async def _result_of(self, checkpoint: Checkpoint) -> GraphResult[S]:
        """Return what a completed run came to.

        Cancellation: passes through; nothing is changed.
        """
        state = await decode(self._codec, checkpoint.state)
        return GraphResult(state, checkpoint.run_id, "completed", checkpoint.node, [], checkpoint.iterations)

    def _begin(self, state: S, run_id: str | None, around: Surroundings | None = None) -> Walk[S]:
        self._check_state("state", state)
        if run_id is not None:
            check_text("run_id", run_id, "a non-empty string or None")
            if self._store is not None:
                check_run_id(run_id)
            self._paused.check_new(run_id)
        return self._walk(Position(self._planned().entry, state), run_id, around, durable=around is None)

    def _walk(
        self, position: Position[S], run_id: str | None, around: Surroundings | None, *, durable: bool = True
    ) -> Walk[S]:
        if around is None:
            observer = self._observer or get_observer(self._config.observer)
            around = Surroundings(run_id or uuid.uuid4().hex, observer)
        walk = Walk(self._planned(), position, self._config, self._state_type, around)
        if durable and self._store is not None:
            walk.saver = Saver(self.name, self._codec, self._config.checkpoint, walk.voice.tell_saved)
        return walk

    async def _run(self, walk: Walk[S]) -> GraphResult[S]:
        """Run a walk that begins, or goes on in memory; keep a paused run, forget a completed one.

        Cancellation: passes through.
        """
        if walk.saver is None or self._store is None:
            result = await walk.execute()
            if result.status == "paused":
                self._paused.keep(result.run_id, walk.position)
            else:
                self._paused.forget(result.run_id)
            return result
        async with open_store(self._store) as store:
            await walk.saver.begin(store, walk.run_id, walk.position.node, walk.position.state)
            return await walk.execute()

    async def _execute_within(self, state: S, outer: Surroundings) -> GraphResult[S]:
        """Run as a node of another graph: under its run id, and for its observer where there is none of our own.

        Cancellation: passes through.
        """
        named = self._config.observer != DEFAULT_OBSERVER
        observer = self._observer or (get_observer(self._config.observer) if named else outer.observer)
        return await self._begin(state, None, Surroundings(outer.run_id, observer)).execute()

    def _check_state(self, field: str, state: object) -> None:
        check_instance(field, state, self._state_type)


def _check_state_type(state_type: object) -> None:
    if not (
        isinstance(state_type, type)
        and (issubclass(state_type, State | msgspec.Struct) or dataclasses.is_dataclass(state_type))
    ):
        raise ConfigError.refusing("state_type", state_type, "State, a msgspec.Struct or a dataclass")
