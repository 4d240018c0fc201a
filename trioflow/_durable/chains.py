"""Durable chains: the state after each step is stored, with a digest of the items so far.

A chain that is resumed pulls its items again, from the first. Those of completed steps are skipped, and their
digest must equal the stored one: so other items are detected before anything is called, and before the run is
claimed from a process that is executing it. A chain that is not durable has an `UnkeptChain`, which does nothing.
"""

import hashlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Generic, Protocol, TypeVar, final

import trio

from trioflow._durable.children import ChildStore, rebase
from trioflow._durable.steps import Keeping, KeptSteps, Position, Saved, begin_steps, take_over_steps
from trioflow._text import quote
from trioflow.checkpoint.codec import Codec, fingerprint
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore
from trioflow.checkpoint.session import decode, load_verified, open_store
from trioflow.config import CheckpointConfig
from trioflow.errors import CheckpointMismatchError, CheckpointNotFoundError, ConfigError

T = TypeVar("T")
S = TypeVar("S")
R = TypeVar("R")
S_contra = TypeVar("S_contra", contravariant=True)

MakeStep = Callable[[T], Awaitable[None]]

_NAME = "a chain"
_AHEAD = "the next step"
_SKIPPED_IN_A_ROW = 256
"""Items skipped between checkpoints, which takes half a millisecond."""


class ChainLog(Protocol[S_contra]):
    """Receives the steps of a chain."""

    resumed: bool
    """Whether the chain was started before."""

    def start(self, on_save: Saved) -> None:
        """Call `on_save` for each save from now on, and for the first one of the run."""

    def around(self, make_step: MakeStep[T]) -> MakeStep[T]:
        """Return `make_step` wrapped to skip completed steps."""
        ...

    def completed(self, steps: int, state: S_contra) -> Awaitable[None] | None:
        """Record a complete step, and return an awaitable that writes it; None if nothing is to be written.

        A cancellation while it is awaited saves the step whole, or not at all; then `end` saves it.
        """
        ...

    async def exhausted(self) -> None:
        """Record that there are no more items.

        Cancellation: the run may have been claimed.
        """

    async def end(self, error: BaseException | None, steps: int) -> BaseException | None:
        """Record the end of the chain, and return the error that it ends with.

        Cancellation: shielded, for some seconds at most.
        """

    async def forget(self) -> None:
        """Delete a completed chain whose result is about to be returned, unless it is to be preserved.

        Cancellation: shielded, for some seconds at most.
        """


@final
class UnkeptChain:
    """The log of a chain without a store."""

    resumed = False

    async def open(self, run: Callable[[ChainLog[Any], int, S], Awaitable[R]], initial: S) -> R:
        """Await `run` with this log, the number of completed steps and the state after them.

        Cancellation: passes through.
        """
        return await run(self, 0, initial)

    def start(self, on_save: Saved) -> None:
        """Do nothing: nothing will be saved."""

    def around(self, make_step: MakeStep[T]) -> MakeStep[T]:
        """Return `make_step`: there are no completed steps."""
        return make_step

    def completed(self, steps: int, state: object) -> Awaitable[None] | None:
        """Return None: nothing is to be written."""

    async def exhausted(self) -> None:
        """Do nothing.

        Cancellation: not a checkpoint.
        """

    async def end(self, error: BaseException | None, steps: int) -> BaseException | None:
        """Return `error`.

        Cancellation: not a checkpoint.
        """
        del steps
        return error

    async def forget(self) -> None:
        """Do nothing.

        Cancellation: not a checkpoint.
        """


@final
class KeptChain(Generic[S]):
    """The log of a durable chain.

    Args:
        store: the store; a named one is opened for the run.
        run_id: the run's id.
        config: how often to write, and whether to preserve a completed chain.
        stand_at: called with the steps and the state, if another process has made steps since the chain was
            loaded.

    Attributes:
        resumed: whether the chain was started before.
    """

    def __init__(
        self,
        store: CheckpointStore | str,
        run_id: str,
        config: CheckpointConfig,
        stand_at: Callable[[int, S], object],
    ) -> None:
        self.resumed = False
        self._named_store = store
        self._run_id = run_id
        self._config = config
        self._stand_at = stand_at
        self._store: CheckpointStore
        self._keeping: Keeping[S]
        self._steps: KeptSteps[S] | None = None
        self._checkpoint: Checkpoint
        self._completed = False
        self._entered: bytes | None = None
        self._rebased: S | None = None
        self._on_save: Saved
        self._mark = b""
        self._to_skip = 0

    def __repr__(self) -> str:
        return f"<KeptChain {self._run_id}, {self._to_skip} steps to skip>"

    async def open(self, run: Callable[[ChainLog[S], int, S], Awaitable[R]], initial: S) -> R:
        """Await `run` with this log, the number of completed steps and the state after them.

        Raises:
            CheckpointMismatchError: the run is not a chain, or its state is of another type.

        Cancellation: passes through.
        """
        config = self._config
        self._keeping = Keeping("chain", _NAME, _codec_for(initial), config.interval or 1, config.preserve)
        async with open_store(self._named_store) as self._store:
            try:
                checkpoint = await load_verified(self._store, self._run_id)
            except CheckpointNotFoundError:
                position = Position(_AHEAD, initial)
                self._steps = await begin_steps(self._store, self._run_id, self._keeping, position)
                return await run(self, 0, initial)
            if checkpoint.kind != "chain":
                of = quote(checkpoint.graph)
                message = f"run {quote(self._run_id)} is a run of {of}, not a chain: use another run_id"
                raise CheckpointMismatchError(message, run_id=self._run_id)
            self.resumed = True
            state = await self._look_at(checkpoint, checkpoint.step)
            if isinstance(self._store, ChildStore):
                codec = self._keeping.codec
                state, self._entered = await rebase(self._store, self._run_id, codec, state, initial)
                self._rebased = None if self._entered is None else state
            return await run(self, checkpoint.step, state)

    def start(self, on_save: Saved) -> None:
        """See `ChainLog.start`."""
        self._on_save = on_save
        if self._steps is not None:
            self._steps.start(on_save)

    def around(self, make_step: MakeStep[T]) -> MakeStep[T]:
        """See `ChainLog.around`; the run is claimed at the first item after the completed steps.

        Raises:
            CheckpointMismatchError: the items so far are not those that the chain was started with.
            CheckpointEncodeError: the item cannot be fingerprinted.
        """

        async def make_missing_step(item: T) -> None:
            self._mark = hashlib.blake2b(self._mark + fingerprint(item), digest_size=16).digest()
            if self._to_skip or not await self._claimed():
                await self._skip()
            else:
                await make_step(item)

        return make_missing_step

    def completed(self, steps: int, state: S) -> Awaitable[None] | None:
        """See `ChainLog.completed`.

        Raises:
            CheckpointEncodeError: the state cannot be stored.
        """
        if self._steps is None:
            return None
        return self._steps.completed(self._mark.hex(), _AHEAD, steps, state)

    async def exhausted(self) -> None:
        """See `ChainLog.exhausted`.

        Raises:
            CheckpointMismatchError: there were fewer items than completed steps.

        Cancellation: the run may have been claimed.
        """
        if self._to_skip or not (self._completed or await self._claimed()):
            raise self._mismatch()

    async def end(self, error: BaseException | None, steps: int) -> BaseException | None:
        """See `ChainLog.end`.

        Cancellation: shielded, for some seconds at most.
        """
        if self._steps is None:
            return error
        return await self._steps.end(error, Position(_AHEAD, None, steps))

    async def forget(self) -> None:
        """See `ChainLog.forget`.

        Cancellation: shielded, for some seconds at most.
        """
        if self._steps is not None:
            await self._steps.forget()

    async def _skip(self) -> None:
        """Skip an item whose step is complete."""
        self._to_skip -= 1
        if not self._to_skip and self._mark.hex() != self._checkpoint.node:
            raise self._mismatch()
        if not self._to_skip % _SKIPPED_IN_A_ROW:
            await trio.lowlevel.checkpoint()

    async def _claimed(self) -> bool:
        """Claim the run, unless it is ours; return whether the step of the current item is to be made.

        Cancellation: the run may have been claimed.
        """
        if self._steps is not None:
            return True
        if self._completed:
            raise self._mismatch()
        seen = self._checkpoint
        steps = await take_over_steps(self._store, self._run_id, self._keeping, seen)
        # The previous holder may have saved a step before the claim.
        latest = await load_verified(self._store, self._run_id)
        if latest.step != seen.step:
            state = await self._look_at(latest, latest.step - seen.step)
            self._stand_at(latest.step, state)
            steps.stand_at(latest)
        if latest.status == "completed":
            self._completed = True
        else:
            self._steps = steps
            steps.start(self._on_save)
            await steps.write(latest.iterations, self._rebased, self._entered)
        return not self._to_skip

    async def _look_at(self, checkpoint: Checkpoint, to_skip: int) -> S:
        self._checkpoint = checkpoint
        self._completed = checkpoint.status == "completed"
        self._to_skip = to_skip
        return await decode(self._keeping.codec, checkpoint.state)

    def _mismatch(self) -> CheckpointMismatchError:
        message = f"the items of chain {quote(self._run_id)} are not those that it was started with"
        return CheckpointMismatchError(
            f"{message}: give the same ones, or use another run_id", run_id=self._run_id
        )


_PLAIN = frozenset({dict, list, str, bytes, int, float, bool, type(None)})
_OPTION = "start with a state of a type that has it (a struct, dataclass or pydantic model)"


def _codec_for(initial: Any) -> Codec[Any]:
    """Return a codec of states of the type of `initial`."""
    kind = type(initial)
    if isinstance(initial, Mapping) and kind is not dict:
        return Codec(kind, wrap=kind, option=_OPTION)
    try:
        return Codec(Any if kind in _PLAIN else kind, option=_OPTION)
    except ConfigError:
        # A state that cannot be encoded is refused when it is saved, with its place.
        return Codec(Any, option=_OPTION)
