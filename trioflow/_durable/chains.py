"""What is kept of a chain: its state after each step, and a mark that stands for the items so far.

A chain that is called again pulls its items again, from the first. Those of the steps that were made are passed
over, and their mark must be the one that was kept: so other items are noticed before anything is called, and
before the run is claimed from whoever is making it. A chain that is not kept has an `UnkeptChain`, which does
nothing.
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
"""Items that are passed over without a checkpoint: half a millisecond's work."""


class ChainLog(Protocol[S_contra]):
    """What a chain reports its steps to."""

    resumed: bool
    """Whether steps were made before."""

    def start(self, on_save: Saved) -> None:
        """Call `on_save` for each save from now on, and for the one that the run began with."""

    def around(self, make_step: MakeStep[T]) -> MakeStep[T]:
        """Return `make_step` for items whose step was not made before."""
        ...

    def completed(self, steps: int, state: S_contra) -> Awaitable[None] | None:
        """Take note of a complete step, and return what is to be awaited; None where nothing is to be written.

        Awaiting it, a cancellation lets the step be saved whole, or at the end.
        """
        ...

    async def exhausted(self) -> None:
        """Take note that there are no more items.

        Cancellation: the run may have been claimed.
        """

    async def end(self, error: BaseException | None, steps: int) -> BaseException | None:
        """Take note of how the chain ended, and return what it ends with now.

        Cancellation: shielded, for some seconds at most.
        """


@final
class UnkeptChain:
    """The log of a chain that no store keeps."""

    resumed = False

    async def open(self, run: Callable[[ChainLog[Any], int, S], Awaitable[R]], initial: S) -> R:
        """Await `run` with this log, the steps that were made and the state after them.

        Cancellation: passes through.
        """
        return await run(self, 0, initial)

    def start(self, on_save: Saved) -> None:
        """Do nothing: nothing will be saved."""

    def around(self, make_step: MakeStep[T]) -> MakeStep[T]:
        """Return `make_step`: no step was made before."""
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


@final
class KeptChain(Generic[S]):
    """The log of a chain that a store keeps.

    Args:
        store: the store; one that is named is opened for the run.
        run_id: the run's id.
        config: how often, and whether a completed chain is kept.
        stand_at: called with the steps that somebody else has made since the chain was looked at.

    Attributes:
        resumed: whether steps were made before.
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
        return f"<KeptChain {self._run_id}, {self._to_skip} steps to pass over>"

    async def open(self, run: Callable[[ChainLog[S], int, S], Awaitable[R]], initial: S) -> R:
        """Await `run` with this log, the steps that were made and the state after them.

        Raises:
            CheckpointMismatchError: the run is no chain, or its state is of another type.

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
                message = f"run {quote(self._run_id)} is one of {of} and no chain: take another run_id"
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
        """See `ChainLog.around`; the run is claimed when the first item comes that was not there before.

        Raises:
            CheckpointMismatchError: the items so far are not those that the chain was begun with.
            CheckpointEncodeError: the item cannot be distinguished from others.
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
            CheckpointEncodeError: the state cannot be kept.
        """
        if self._steps is None:
            return None
        return self._steps.completed(self._mark.hex(), _AHEAD, steps, state)

    async def exhausted(self) -> None:
        """See `ChainLog.exhausted`.

        Raises:
            CheckpointMismatchError: there were not as many items as steps were made.

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

    async def _skip(self) -> None:
        """Pass over an item whose step was made."""
        self._to_skip -= 1
        if not self._to_skip and self._mark.hex() != self._checkpoint.node:
            raise self._mismatch()
        if not self._to_skip % _SKIPPED_IN_A_ROW:
            await trio.lowlevel.checkpoint()

    async def _claimed(self) -> bool:
        """Claim the run, unless it is ours; return whether the next step is the one to make.

        Cancellation: the run may have been claimed.
        """
        if self._steps is not None:
            return True
        if self._completed:
            raise self._mismatch()
        seen = self._checkpoint
        steps = await take_over_steps(self._store, self._run_id, self._keeping, seen)
        # Whoever had the run may have saved a step before it was ours.
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
        message = f"the items of chain {quote(self._run_id)} are not those that it was begun with"
        return CheckpointMismatchError(
            f"{message}: give the same ones, or take another run_id", run_id=self._run_id
        )


_PLAIN = frozenset({dict, list, str, bytes, int, float, bool, type(None)})
_OPTION = "begin with a state of a type that has it (a struct, dataclass or pydantic model)"


def _codec_for(initial: Any) -> Codec[Any]:
    """Return what brings back states of the type of `initial`."""
    kind = type(initial)
    if isinstance(initial, Mapping) and kind is not dict:
        return Codec(kind, wrap=kind, option=_OPTION)
    try:
        return Codec(Any if kind in _PLAIN else kind, option=_OPTION)
    except ConfigError:
        # What has no form is refused when it is saved, with its place.
        return Codec(Any, option=_OPTION)
