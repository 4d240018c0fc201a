"""What is kept of a chain: its state after each step, and a mark that stands for the items so far.

A chain that is called again pulls its items again, from the first. Those of the steps that were made are passed
over, and their mark must be the one that was kept: so other items are noticed before anything is called.
"""

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, Generic, TypeVar, final

from trioflow._durable.steps import Saver
from trioflow._text import quote
from trioflow.checkpoint.codec import Codec, fingerprint
from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.checkpoint.session import decode, load_verified
from trioflow.config import CheckpointConfig
from trioflow.errors import CheckpointMismatchError, CheckpointNotFoundError

__all__ = ("ChainLog",)

S = TypeVar("S")

_KIND = "a chain"
_AHEAD = "the next step"


@final
class ChainLog(Generic[S]):
    """Keeps one chain.

    Args:
        initial: a state, for its type.
        config: how often, and whether a completed chain is kept.
        tell: told of each save.
    """

    def __init__(
        self, initial: S, config: CheckpointConfig, tell: Callable[[int, str, str, int], object]
    ) -> None:
        self.completed = False
        self.resumed = False
        self._codec: Codec[S] = _codec_for(initial)
        self.saver: Saver[S] = Saver(_KIND, self._codec, config, tell)
        self._run_id = ""
        self._mark = b""
        self._kept_mark = ""
        self._to_skip = 0

    def __repr__(self) -> str:
        return f"<ChainLog of {self._run_id}, {self._to_skip} steps to pass over>"

    async def open(self, store: CheckpointStore, run_id: str, initial: S) -> tuple[int, S]:
        """Claim the run, and return how many steps of it were made, and the state after them.

        Raises:
            CheckpointMismatchError: the run is no chain, or its state is of another type.

        Cancellation: the run may have been claimed.
        """
        self._run_id = run_id
        try:
            checkpoint = await load_verified(store, run_id)
        except CheckpointNotFoundError:
            await self.saver.begin(store, run_id, _AHEAD, initial)
            return 0, initial
        if checkpoint.graph != _KIND:
            message = f"run {quote(run_id)} is one of {quote(checkpoint.graph)} and no chain: take another run_id"
            raise CheckpointMismatchError(message, run_id=run_id)
        self.resumed = True
        if checkpoint.status != "completed":
            await self.saver.take_over(store, checkpoint, run_id)
            # Whoever had the run may have saved a step before it was ours.
            checkpoint = await load_verified(store, run_id)
            self.saver.stand_at(checkpoint)
        self.completed = checkpoint.status == "completed"
        self._to_skip = checkpoint.step
        self._kept_mark = checkpoint.node
        return checkpoint.step, await decode(self._codec, checkpoint.state)

    def skips(self, item: object) -> bool:
        """Whether the step for `item` was made before.

        Raises:
            CheckpointMismatchError: the items so far are not those that it was made for.
            CheckpointEncodeError: the item cannot be told from others.
        """
        self._mark = hashlib.blake2b(self._mark + fingerprint(item), digest_size=16).digest()
        if not self._to_skip:
            return False
        self._to_skip -= 1
        if not self._to_skip and self._mark.hex() != self._kept_mark:
            raise self._mismatch()
        return True

    def check_end(self) -> None:
        """Look whether there was an item for each step that was made.

        Raises:
            CheckpointMismatchError: there was not.
        """
        if self._to_skip:
            raise self._mismatch()

    def _mismatch(self) -> CheckpointMismatchError:
        message = f"the items of chain {quote(self._run_id)} are not those that it was begun with"
        return CheckpointMismatchError(
            f"{message}: give the same ones, or take another run_id", run_id=self._run_id
        )

    async def completed_step(self, steps: int, state: S) -> None:
        """Take note of a complete step.

        Raises:
            CheckpointEncodeError: the state cannot be kept.
            CheckpointConflictError: somebody else has claimed the run.

        Cancellation: the step is saved whole, or at the end.
        """
        await self.saver.completed(self._mark.hex(), _AHEAD, steps, state)


def _codec_for(initial: Any) -> Codec[Any]:
    """Return what brings back states of the type of `initial`."""
    kind = type(initial)
    if isinstance(initial, Mapping) and kind is not dict:
        return Codec(kind, wrap=kind)
    typed = hasattr(kind, "__struct_fields__") or hasattr(kind, "__dataclass_fields__")
    return Codec(kind if typed else Any)
