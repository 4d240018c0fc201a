"""Where the runs of one graph are begun and found again: in a store, or, paused ones alone, in memory.

Both do the same for the graph: `begin` gives what keeps a new run's steps, `resume` finds where a run goes on.
Both look before they change anything: who asks for what cannot be has neither claimed nor written.
"""

import uuid
from collections.abc import Awaitable, Callable, Collection
from typing import Any, Generic, Protocol, TypeVar, final

import msgspec

from trioflow._durable.children import ChildStore, rebase
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
    """What a caller of `resume` asks for."""

    run_id: str
    """The run."""
    nodes: Collection[str]
    """The nodes that the graph has now."""
    exits: Collection[str]
    """Those that a run ends after."""
    step: int | None = None
    """The step to fork from; None is the latest."""
    as_run_id: str | None = None
    """The id of the fork; None makes one, or, without a step, goes on with the run itself."""
    update: Callable[[S], S] | None = None
    """Makes the state to go on with of the one that was kept."""

    @property
    def forks(self) -> bool:
        """Whether a new run is to begin where the old one stood."""
        return self.step is not None or self.as_run_id is not None


class Claimed(msgspec.Struct, frozen=True):
    """How a service has claimed a run."""

    epoch: int
    """The epoch."""
    entry: str
    """The node that a run begins with which was submitted by who does not know the graph."""
    last: Checkpoint | None
    """Its last step, where it was read when it was claimed."""


class Resumed(msgspec.Struct, Generic[S], frozen=True):
    """A run that goes on, or has ended already."""

    run_id: str
    """Its id; a fork has one of its own."""
    position: Position[S]
    """Where it stands."""
    status: str
    """How it stood."""
    steps: Steps[S]
    """What keeps its steps from here."""
    from_store: bool = True
    """Whether it was read from a store."""


class Runs(Protocol[S]):
    """Where runs of one graph are begun and found again."""

    def check_new(self, run_id: str) -> None:
        """Refuse, before anything is called, an id under which no run can begin."""

    async def begin(self, run_id: str, position: Position[S], run: Callable[[Steps[S]], Awaitable[R]]) -> R:
        """Begin a run at `position`, and await `run` with what keeps its steps.

        Cancellation: passes through.
        """
        ...

    async def resume(self, asked: Resumption[S], run: Callable[[Resumed[S]], Awaitable[R]]) -> R:
        """Find where a run goes on, and await `run` with it.

        Cancellation: passes through; the run can be resumed again.
        """
        ...


@final
class KeptRuns(Generic[S]):
    """The runs of one graph in a store.

    Args:
        store: the store; one that is named is opened for each run.
        keeping: how they are kept.
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
            CheckpointMismatchError: there is a run of this id.

        Cancellation: passes through; the run may have been begun.
        """
        async with open_store(self._store) as store:
            return await run(await begin_steps(store, run_id, self._keeping, position))

    async def resume(self, asked: Resumption[S], run: Callable[[Resumed[S]], Awaitable[R]]) -> R:
        """See `Runs.resume`.

        Raises:
            CheckpointNotFoundError: there is no such run, or no such step.
            CheckpointMismatchError: it is another graph's run, or its node or state type is gone.

        Cancellation: passes through; the run can be resumed again.
        """
        check_run_id(asked.run_id)
        if asked.as_run_id is not None:
            check_run_id(asked.as_run_id)
        async with open_store(self._store) as store:
            return await run(await self._take_over(store, asked))

    async def enter(
        self, asked: Resumption[S], first: Position[S], run: Callable[[Resumed[S]], Awaitable[R]]
    ) -> R:
        """Begin the run inside a run that is asked for at `first`, or go on with it, and await `run` with it.

        Raises:
            CheckpointMismatchError: it is another graph's run, or its node or state type is gone.

        Cancellation: passes through; the run can be entered again.
        """
        store, run_id = self._store, asked.run_id
        if not isinstance(store, ChildStore):
            raise TypeError("a run is entered in a ChildStore")
        try:
            checkpoint = await self._load_resumable(store, asked)
        except CheckpointNotFoundError:
            steps = await begin_steps(store, run_id, self._keeping, first)
            return await run(Resumed(run_id, first, "running", steps, from_store=False))
        kept = await self._position(checkpoint)
        state, entered = await rebase(store, run_id, self._keeping.codec, kept.state, first.state)
        position = msgspec.structs.replace(kept, state=state)
        if checkpoint.status == "completed":
            return await run(Resumed(run_id, position, "completed", UnkeptSteps()))
        # Nobody else can save a step meanwhile: that takes the host's epoch, and that is ours.
        steps = await take_over_steps(store, run_id, self._keeping, checkpoint)
        await steps.write(position.iterations, None if entered is None else state, entered)
        return await run(Resumed(run_id, position, checkpoint.status, steps))

    async def serve(
        self,
        asked: Resumption[S],
        served: Claimed,
        answer: Callable[[str, Position[S]], Awaitable[S]],
        run: Callable[[Resumed[S]], Awaitable[R]],
    ) -> R:
        """Go on with a run that was claimed already, and await `run` with it.

        Args:
            asked: the run.
            served: how it was claimed.
            answer: gives the state that a paused run goes on with, by a name for the pause and where it stands.
            run: makes the run.

        Raises:
            CheckpointMismatchError: its node or state type is gone.
            CheckpointCorruptError: what is kept of it is damaged.

        Cancellation: passes through; the run can be taken over.
        """
        async with open_store(self._store) as store:
            if served.last is None:
                checkpoint = await load_verified(store, asked.run_id)
            else:
                checkpoint = await check_loaded(served.last, asked.run_id)
            if not checkpoint.step and not checkpoint.next_node:
                checkpoint = msgspec.structs.replace(checkpoint, next_node=served.entry)
            self._check_resumable(checkpoint, asked)
            position = await self._position(checkpoint)
            if checkpoint.status == "completed":
                return await run(Resumed(asked.run_id, position, "completed", UnkeptSteps()))
            steps = served_steps(store, asked.run_id, served.epoch, self._keeping, checkpoint)
            if checkpoint.status == "paused":
                state = await answer(f"resume/{position.step}/{position.iterations}", position)
                # From here on it is not paused any more, whoever goes on with it.
                await steps.write(position.iterations, state)
                position = msgspec.structs.replace(position, state=state)
            known = checkpoint.step > 0 or checkpoint.status != "running"
            return await run(Resumed(asked.run_id, position, checkpoint.status, steps, from_store=known))

    async def _take_over(self, store: CheckpointStore, asked: Resumption[S]) -> Resumed[S]:
        checkpoint = await self._load_resumable(store, asked)
        if asked.forks:
            return await self._fork(store, asked, checkpoint)
        if checkpoint.status == "completed":
            return await self._resumed(checkpoint)
        position = _updated(await self._position(checkpoint), asked.update)
        steps = await take_over_steps(store, asked.run_id, self._keeping, checkpoint)
        # Whoever had the run may have saved a step before it was ours.
        latest = await self._load_resumable(store, asked)
        if latest.status == "completed":
            return await self._resumed(latest)
        if latest != checkpoint:
            return await self._take_over(store, asked)
        await steps.write(position.iterations, None if asked.update is None else position.state)
        return Resumed(asked.run_id, position, checkpoint.status, steps)

    async def _fork(self, store: CheckpointStore, asked: Resumption[S], checkpoint: Checkpoint) -> Resumed[S]:
        """Begin a new run where `checkpoint` stands.

        Raises:
            ConfigError: it stands at the run's end.
            CheckpointMismatchError: there is a run of the new id.

        Cancellation: the new run may have been begun.
        """
        if not checkpoint.next_node and checkpoint.node in asked.exits:
            allowed = f"a step before the last of run {quote(asked.run_id)}: after it nothing is left to do"
            raise ConfigError.refusing("step", checkpoint.step, allowed)
        run_id = asked.as_run_id or uuid.uuid4().hex
        await refuse_existing(store, run_id)
        position = _updated(await self._position(checkpoint), asked.update)
        steps = await take_over_steps(store, run_id, self._keeping, checkpoint)
        await steps.write(position.iterations, None if asked.update is None else position.state)
        return Resumed(run_id, position, checkpoint.status, steps)

    async def _load_resumable(self, store: CheckpointStore, asked: Resumption[S]) -> Checkpoint:
        """Return the checkpoint to go on from, if this graph can.

        Cancellation: nothing is changed.
        """
        suggest = not isinstance(store, ChildStore)
        checkpoint = await load_verified(store, asked.run_id, asked.step, suggest=suggest)
        self._check_resumable(checkpoint, asked)
        return checkpoint

    def _check_resumable(self, checkpoint: Checkpoint, asked: Resumption[S]) -> None:
        """Refuse a run that this graph cannot go on with."""
        run_id, name = asked.run_id, self._keeping.name
        if checkpoint.graph != name or checkpoint.kind != self._keeping.kind:
            message = f"run {quote(run_id)} is one of {quote(checkpoint.graph)}, not of graph {quote(name)}"
            raise CheckpointMismatchError(f"{message}: resume it there", run_id=run_id)
        node = checkpoint.next_node or checkpoint.node
        if node not in asked.nodes:
            raise CheckpointMismatchError(
                f"run {quote(run_id)} stands at node {quote(node)}, which is not in graph {quote(name)} any more "
                f"{list_known(node, asked.nodes)}: add a node of that name, or resume from another step",
                run_id=run_id,
            )

    async def _resumed(self, checkpoint: Checkpoint) -> Resumed[S]:
        """Return a run that has ended.

        Cancellation: passes through; nothing is changed.
        """
        return Resumed(checkpoint.run_id, await self._position(checkpoint), checkpoint.status, UnkeptSteps())

    async def _position(self, checkpoint: Checkpoint) -> Position[S]:
        """Return where the run of `checkpoint` goes on.

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
    """The runs of a graph that no store keeps: those that are paused wait here, in memory.

    Args:
        graph: the graph's name.
        copy: copies what could be changed in a state.
    """

    __slots__ = ("_copy", "_graph", "_positions", "_resuming")

    def __init__(self, graph: str, copy: Callable[[S], S]) -> None:
        self._graph = graph
        self._copy = copy
        self._positions: dict[str, Position[S]] = {}
        self._resuming: set[str] = set()

    def __repr__(self) -> str:
        return f"<PausedRuns of {self._graph}: {len(self._positions)}>"

    def check_new(self, run_id: str) -> None:
        """Refuse to begin a run under the id of a paused one."""
        if run_id in self._positions:
            message = f"run {quote(run_id)} of graph {quote(self._graph)} is paused at node "
            advice = "; resume it, or begin under another run_id"
            raise CheckpointMismatchError(
                message + quote(self._positions[run_id].node) + advice, run_id=run_id
            )

    async def begin(self, run_id: str, position: Position[S], run: Callable[[Steps[S]], Awaitable[R]]) -> R:
        """See `Runs.begin`.

        Cancellation: passes through.
        """
        del position
        return await run(self._steps(run_id))

    async def resume(self, asked: Resumption[S], run: Callable[[Resumed[S]], Awaitable[R]]) -> R:
        """See `Runs.resume`; one caller at a time.

        Raises:
            CheckpointNotFoundError: no run of this id is paused here, or a step is asked for: none is kept.
            CheckpointConflictError: the run is being resumed already.

        Cancellation: passes through; the run can be resumed again.
        """
        run_id = asked.run_id
        self._check_resumable(asked)
        self._resuming.add(run_id)
        try:
            position = _updated(self._positions[run_id], asked.update)
            return await run(Resumed(run_id, position, "paused", self._steps(run_id), from_store=False))
        finally:
            self._resuming.discard(run_id)

    def _check_resumable(self, asked: Resumption[S]) -> None:
        run_id = asked.run_id
        if asked.forks:
            message = f"no steps are kept of runs of graph {quote(self._graph)}: checkpointing is not enabled; "
            advice = "set checkpoint.interval in its config, or give it a store"
            raise CheckpointNotFoundError(message + advice, run_id=run_id)
        if run_id not in self._positions:
            message = f"there is no paused run {quote(run_id)} of graph {quote(self._graph)} in this process "
            advice = (
                "; checkpointing is not enabled, so nothing else is kept: set checkpoint.interval in the graph's "
                "config, or give it a store"
            )
            raise CheckpointNotFoundError(message + list_known(run_id, self._positions) + advice, run_id=run_id)
        if run_id in self._resuming:
            raise CheckpointConflictError(f"run {quote(run_id)} is being resumed already", run_id=run_id)

    def _steps(self, run_id: str) -> Steps[S]:
        def on_end(error: BaseException | None, position: Position[Any]) -> None:
            if isinstance(error, Paused):
                self._positions[run_id] = msgspec.structs.replace(position, state=self._copy(position.state))
            elif error is None:
                self._positions.pop(run_id, None)
            elif run_id in self._positions:
                # It stays paused where it was; the attempts that it has made count at the next resume.
                waiting = self._positions[run_id]
                self._positions[run_id] = msgspec.structs.replace(waiting, iterations=position.iterations)

        return UnkeptSteps(on_end)
