"""Starting and resuming the runs of one graph: in a store, or, for paused runs only, in memory.

Both have the same interface: `begin` gives the `Steps` of a new run, `resume` finds the position of an existing
one. Both validate before they change anything: a call that is refused has neither claimed nor written.
"""

import uuid
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, Protocol, TypeVar, final

import msgspec

from trioflow._durable.children import ChildStore, FinishedBranches, rebase
from trioflow._durable.steps import (
    Keeping,
    Position,
    Steps,
    UnkeptSteps,
    begin_steps,
    refuse_existing,
    served_steps,
    take_over_steps,
)
from trioflow._runtime.signals import Paused
from trioflow._text import list_known, quote
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore
from trioflow.checkpoint.session import check_loaded, check_run_id, decode, load_verified, open_store
from trioflow.errors import (
    CheckpointConflictError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
    ConfigError,
)

S = TypeVar("S")
R = TypeVar("R")


class Resumption(msgspec.Struct, Generic[S], frozen=True):
    """The arguments of a `resume`."""

    run_id: str
    """The run's id."""
    nodes: Collection[str]
    """The nodes that the graph has now."""
    exits: Collection[str]
    """Its exit points."""
    step: int | None = None
    """The step to fork from; None is the latest."""
    as_run_id: str | None = None
    """The id of the fork; None generates one, or, without a step, resumes the run itself."""
    update: Callable[[S], S] | None = None
    """Turns the stored state into the one to continue with."""

    @property
    def forks(self) -> bool:
        """Whether to start a new run from a step of the old one."""
        return self.step is not None or self.as_run_id is not None


class Claimed(msgspec.Struct, frozen=True):
    """A service's claim of a run."""

    epoch: int
    """The epoch of the claim."""
    entry: str
    """The graph's entry point, for a run that was submitted by a client without the graph."""
    last: Checkpoint | None
    """Its last step, if it was read together with the claim."""


class Resumed(msgspec.Struct, Generic[S], frozen=True):
    """A run to continue, or a completed one."""

    run_id: str
    """Its id; a fork has a new one."""
    position: Position[S]
    """Its position."""
    status: str
    """Its status so far."""
    steps: Steps[S]
    """Saves its further steps."""
    from_store: bool = True
    """Whether it was loaded from a store."""


class Runs(Protocol[S]):
    """Starts and resumes the runs of one graph."""

    def check_new(self, run_id: str) -> None:
        """Raise, before anything is called, if no run can start under this id."""

    async def begin(self, run_id: str, position: Position[S], run: Callable[[Steps[S]], Awaitable[R]]) -> R:
        """Start a run at `position`, and await `run` with its `Steps`.

        Cancellation: passes through.
        """
        ...

    async def resume(self, resumption: Resumption[S], run: Callable[[Resumed[S]], Awaitable[R]]) -> R:
        """Load a run, and await `run` with it.

        Cancellation: passes through; the run can be resumed again.
        """
        ...


@final
class KeptRuns(Generic[S]):
    """The runs of one graph in a store.

    Args:
        store: the store; a named one is opened for each run.
        keeping: how the runs are stored.
    """

    def __init__(self, store: CheckpointStore | str, keeping: Keeping[S]) -> None:
        self._store = store
        self._keeping = keeping

    def __repr__(self) -> str:
        return f"<KeptRuns of {self._keeping.name}>"

    def check_new(self, run_id: str) -> None:
        """See `Runs.check_new`."""
        check_run_id(run_id)

    async def begin(self, run_id: str, position: Position[S], run: Callable[[Steps[S]], Awaitable[R]]) -> R:
        """See `Runs.begin`.

        Raises:
            CheckpointMismatchError: a run of this id exists.

        Cancellation: passes through; the run may have been stored.
        """
        async with open_store(self._store) as store:
            return await run(await begin_steps(store, run_id, self._keeping, position))

    async def resume(self, resumption: Resumption[S], run: Callable[[Resumed[S]], Awaitable[R]]) -> R:
        """See `Runs.resume`.

        Raises:
            CheckpointNotFoundError: there is no such run, or no such step.
            CheckpointMismatchError: the run is another graph's, or its node or state type no longer exists.

        Cancellation: passes through; the run can be resumed again.
        """
        check_run_id(resumption.run_id)
        if resumption.as_run_id is not None:
            check_run_id(resumption.as_run_id)
        async with open_store(self._store) as store:
            return await run(await self._take_over(store, resumption))

    async def enter(
        self, resumption: Resumption[S], first: Position[S], run: Callable[[Resumed[S]], Awaitable[R]]
    ) -> R:
        """Start a child run at `first`, or resume it, and await `run` with it.

        Raises:
            CheckpointMismatchError: the run is another graph's, or its node or state type no longer exists.

        Cancellation: passes through; the run can be entered again.
        """
        store, run_id = self._store, resumption.run_id
        if not isinstance(store, ChildStore):
            raise TypeError("a run is entered in a ChildStore")
        try:
            checkpoint = await self._load_resumable(store, resumption)
        except CheckpointNotFoundError:
            steps = await begin_steps(store, run_id, self._keeping, first)
            return await run(Resumed(run_id, first, "running", steps, from_store=False))
        kept = await self._position(checkpoint)
        state, entered = await rebase(store, run_id, self._keeping.codec, kept.state, first.state)
        position = msgspec.structs.replace(kept, state=state)
        if checkpoint.status == "completed":
            return await run(Resumed(run_id, position, "completed", UnkeptSteps()))
        # No other process can save a step meanwhile: that takes the host's epoch, which is ours.
        steps = await take_over_steps(store, run_id, self._keeping, checkpoint)
        await steps.write(position.iterations, None if entered is None else state, entered)
        return await run(Resumed(run_id, position, checkpoint.status, steps))

    async def serve(
        self,
        resumption: Resumption[S],
        served: Claimed,
        answer: Callable[[str, Position[S]], Awaitable[S]],
        run: Callable[[Resumed[S]], Awaitable[R]],
    ) -> R:
        """Resume a run that a service has claimed, and await `run` with it.

        Args:
            resumption: the run.
            served: the claim.
            answer: returns the state with which a paused run continues, given a name of the pause and the
                position.
            run: executes the run.

        Raises:
            CheckpointMismatchError: its node or state type no longer exists.
            CheckpointCorruptError: the stored run is damaged.

        Cancellation: passes through; another process can take the run over.
        """
        async with open_store(self._store) as store:
            if served.last is None:
                checkpoint = await load_verified(store, resumption.run_id)
            else:
                checkpoint = await check_loaded(served.last, resumption.run_id)
            if not checkpoint.step and not checkpoint.next_node:
                checkpoint = msgspec.structs.replace(checkpoint, next_node=served.entry)
            self._check_resumable(checkpoint, resumption)
            position = await self._position(checkpoint)
            if checkpoint.status == "completed":
                return await run(Resumed(resumption.run_id, position, "completed", UnkeptSteps()))
            steps = served_steps(store, resumption.run_id, served.epoch, self._keeping, checkpoint)
            if checkpoint.status == "paused":
                state = await answer(f"resume/{position.step}/{position.iterations}", position)
                # From here on it is no longer paused, for any process that continues it.
                await steps.write(position.iterations, state)
                position = msgspec.structs.replace(position, state=state)
            known = checkpoint.step > 0 or checkpoint.status != "running"
            return await run(Resumed(resumption.run_id, position, checkpoint.status, steps, from_store=known))

    async def _take_over(self, store: CheckpointStore, resumption: Resumption[S]) -> Resumed[S]:
        checkpoint = await self._load_resumable(store, resumption)
        if resumption.forks:
            return await self._fork(store, resumption, checkpoint)
        if checkpoint.status == "completed":
            return await self._resumed(checkpoint)
        position = _updated(await self._position(checkpoint), resumption.update)
        steps = await take_over_steps(store, resumption.run_id, self._keeping, checkpoint)
        # The previous holder may have saved a step before the claim.
        latest = await self._load_resumable(store, resumption)
        if latest.status == "completed":
            return await self._resumed(latest)
        if latest != checkpoint:
            return await self._take_over(store, resumption)
        await steps.write(position.iterations, None if resumption.update is None else position.state)
        return Resumed(resumption.run_id, position, checkpoint.status, steps)

    async def _fork(self, store: CheckpointStore, resumption: Resumption[S], checkpoint: Checkpoint) -> Resumed[S]:
        """Start a new run from `checkpoint`.

        Raises:
            ConfigError: the checkpoint is the end of the run.
            CheckpointMismatchError: a run of the new id exists.

        Cancellation: the new run may have been stored.
        """
        if not checkpoint.next_node and checkpoint.node in resumption.exits:
            allowed = f"a step before the last of run {quote(resumption.run_id)}: after it nothing is left to do"
            raise ConfigError.refusing("step", checkpoint.step, allowed)
        run_id = resumption.as_run_id or uuid.uuid4().hex
        await refuse_existing(store, run_id)
        position = _updated(await self._position(checkpoint), resumption.update)
        steps = await take_over_steps(store, run_id, self._keeping, checkpoint)
        await steps.write(position.iterations, None if resumption.update is None else position.state)
        return Resumed(run_id, position, checkpoint.status, steps)

    async def _load_resumable(self, store: CheckpointStore, resumption: Resumption[S]) -> Checkpoint:
        """Return the checkpoint to resume from, if this graph can.

        Cancellation: nothing is changed.
        """
        suggest = not isinstance(store, ChildStore)
        checkpoint = await load_verified(store, resumption.run_id, resumption.step, suggest=suggest)
        self._check_resumable(checkpoint, resumption)
        return checkpoint

    def _check_resumable(self, checkpoint: Checkpoint, resumption: Resumption[S]) -> None:
        """Raise if this graph cannot resume the run."""
        run_id, name = resumption.run_id, self._keeping.name
        if checkpoint.graph != name or checkpoint.kind != self._keeping.kind:
            message = f"run {quote(run_id)} is a run of {quote(checkpoint.graph)}, not of graph {quote(name)}"
            raise CheckpointMismatchError(f"{message}: resume it there", run_id=run_id)
        node = checkpoint.next_node or checkpoint.node
        if node not in resumption.nodes:
            raise CheckpointMismatchError(
                f"run {quote(run_id)} is at node {quote(node)}, which is no longer in graph {quote(name)} "
                f"{list_known(node, resumption.nodes)}: add a node of that name, or resume from another step",
                run_id=run_id,
            )

    async def _resumed(self, checkpoint: Checkpoint) -> Resumed[S]:
        """Return a completed run.

        Cancellation: passes through; nothing is changed.
        """
        return Resumed(checkpoint.run_id, await self._position(checkpoint), checkpoint.status, UnkeptSteps())

    async def _position(self, checkpoint: Checkpoint) -> Position[S]:
        """Return the position at which the run of `checkpoint` continues.

        Cancellation: passes through; nothing is changed.
        """
        state = await decode(self._keeping.codec, checkpoint.state)
        node = checkpoint.next_node or checkpoint.node
        left = not checkpoint.next_node
        return Position(node, state, checkpoint.iterations, left, checkpoint.step)


def _updated(position: Position[S], update: Callable[[S], S] | None) -> Position[S]:
    return position if update is None else msgspec.structs.replace(position, state=update(position.state))


@final
class PausedRuns(Generic[S]):
    """The runs of a graph without a store: paused ones wait here, in memory.

    Args:
        graph: the graph's name.
        copy: copies the mutable parts of a state.
    """

    __slots__ = ("_copy", "_finished", "_graph", "_positions", "_resuming")

    def __init__(self, graph: str, copy: Callable[[S], S]) -> None:
        self._graph = graph
        self._copy = copy
        self._positions: dict[str, Position[S]] = {}
        self._finished: dict[str, FinishedBranches] = {}
        self._resuming: set[str] = set()

    def __repr__(self) -> str:
        return f"<PausedRuns of {self._graph}: {len(self._positions)}>"

    def check_new(self, run_id: str) -> None:
        """Raise if a run of this id is paused."""
        if run_id in self._positions:
            message = f"run {quote(run_id)} of graph {quote(self._graph)} is paused at node "
            advice = "; resume it, or use another run_id"
            raise CheckpointMismatchError(
                message + quote(self._positions[run_id].node) + advice, run_id=run_id
            )

    async def begin(self, run_id: str, position: Position[S], run: Callable[[Steps[S]], Awaitable[R]]) -> R:
        """See `Runs.begin`.

        Cancellation: passes through.
        """
        del position
        return await run(self._steps(run_id))

    async def resume(self, resumption: Resumption[S], run: Callable[[Resumed[S]], Awaitable[R]]) -> R:
        """See `Runs.resume`; one caller at a time.

        Raises:
            CheckpointNotFoundError: no run of this id is paused here, or a step is given: no steps are stored.
            CheckpointConflictError: the run is already being resumed.

        Cancellation: passes through; the run can be resumed again.
        """
        run_id = resumption.run_id
        self._check_resumable(resumption)
        self._resuming.add(run_id)
        try:
            position = _updated(self._positions[run_id], resumption.update)
            return await run(Resumed(run_id, position, "paused", self._steps(run_id), from_store=False))
        finally:
            self._resuming.discard(run_id)

    def _check_resumable(self, resumption: Resumption[S]) -> None:
        run_id = resumption.run_id
        if resumption.forks:
            message = f"steps of graph {quote(self._graph)} are not stored: checkpointing is not enabled; "
            advice = "set checkpoint.interval in its config, or give it a store"
            raise CheckpointNotFoundError(message + advice, run_id=run_id)
        if run_id not in self._positions:
            message = f"there is no paused run {quote(run_id)} of graph {quote(self._graph)} in this process "
            advice = (
                "; checkpointing is not enabled, so no other runs are stored: set checkpoint.interval in the "
                "graph's config, or give it a store"
            )
            raise CheckpointNotFoundError(message + list_known(run_id, self._positions) + advice, run_id=run_id)
        if run_id in self._resuming:
            raise CheckpointConflictError(f"run {quote(run_id)} is already being resumed", run_id=run_id)

    def _steps(self, run_id: str) -> Steps[S]:
        finished = self._finished.get(run_id) or FinishedBranches()

        def on_end(error: BaseException | None, position: Position[Any]) -> None:
            if isinstance(error, Paused):
                self._positions[run_id] = msgspec.structs.replace(position, state=self._copy(position.state))
                self._finished[run_id] = finished
            elif error is None:
                self._positions.pop(run_id, None)
                self._finished.pop(run_id, None)
            elif run_id in self._positions:
                # It stays paused where it was; the attempts made meanwhile count at the next resume.
                waiting = self._positions[run_id]
                self._positions[run_id] = msgspec.structs.replace(waiting, iterations=position.iterations)

        return UnkeptSteps(on_end, finished)
