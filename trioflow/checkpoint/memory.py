"""Runs kept in this process: for tests, and for pauses that need not outlive it."""

import time
from collections.abc import Iterable, Sequence
from typing import final

import msgspec
import trio

from trioflow._text import list_known, quote
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, RunInfo, RunStatus
from trioflow.errors import CheckpointConflictError, CheckpointNotFoundError

__all__ = ("MemoryStore", "conflict", "info_of", "not_found")


class _Run(msgspec.Struct):
    """What is kept of one run."""

    epoch: int
    created_at: float
    updated_at: float
    last: int | None
    steps: dict[int, Checkpoint]
    items: dict[str, bytes]


@final
class MemoryStore:
    """A `CheckpointStore` in memory; it does not survive the process."""

    def __init__(self) -> None:
        self._epoch = 0
        self._runs: dict[str, _Run] = {}

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._runs)} runs>"

    async def claim(self, run_id: str) -> int:
        """See `CheckpointStore.claim`.

        Cancellation: nothing was claimed.
        """
        await trio.lowlevel.checkpoint()
        self._epoch += 1
        now = time.time()
        run = self._runs.setdefault(run_id, _Run(0, now, now, None, {}, {}))
        run.epoch = self._epoch
        return self._epoch

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """See `CheckpointStore.save`.

        Cancellation: nothing was kept.
        """
        await trio.lowlevel.checkpoint()
        self.save_nowait(checkpoint, epoch)

    def save_nowait(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Do what `save` does; never blocks."""
        run = self._claimed(checkpoint.run_id, epoch)
        run.steps[checkpoint.step] = checkpoint
        run.last = checkpoint.step
        run.updated_at = checkpoint.created_at

    async def load(self, run_id: str, step: int | None = None) -> Checkpoint:
        """See `CheckpointStore.load`.

        Cancellation: nothing is changed.
        """
        await trio.lowlevel.checkpoint()
        run = self._runs.get(run_id)
        wanted = step if step is not None or run is None else run.last
        if run is None or wanted not in run.steps:
            raise not_found(run_id, step, self._runs if run is None else run.steps)
        return run.steps[wanted]

    async def history(self, run_id: str) -> Sequence[CheckpointInfo]:
        """See `CheckpointStore.history`.

        Cancellation: nothing is changed.
        """
        await trio.lowlevel.checkpoint()
        run = self._runs.get(run_id)
        return [] if run is None else [info_of(run.steps[step]) for step in sorted(run.steps)]

    async def list_runs(self) -> Sequence[RunInfo]:
        """See `CheckpointStore.list_runs`.

        Cancellation: nothing is changed.
        """
        await trio.lowlevel.checkpoint()
        return [_run_info(run_id, run) for run_id, run in self._runs.items() if run.steps or run.items]

    async def delete(self, run_id: str) -> None:
        """See `CheckpointStore.delete`.

        Cancellation: nothing was forgotten.
        """
        await trio.lowlevel.checkpoint()
        self._runs.pop(run_id, None)

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """See `CheckpointStore.save_items`.

        Cancellation: nothing was kept.
        """
        await trio.lowlevel.checkpoint()
        run = self._claimed(run_id, epoch)
        run.items.update(batch)
        run.updated_at = time.time()

    async def load_items(self, run_id: str) -> dict[str, bytes]:
        """See `CheckpointStore.load_items`.

        Cancellation: nothing is changed.
        """
        await trio.lowlevel.checkpoint()
        run = self._runs.get(run_id)
        return {} if run is None else dict(run.items)

    async def aclose(self) -> None:
        """Do nothing: there is nothing to let go of.

        Cancellation: a checkpoint.
        """
        await trio.lowlevel.checkpoint()

    def _claimed(self, run_id: str, epoch: int) -> _Run:
        run = self._runs.get(run_id)
        if run is None or run.epoch != epoch:
            raise conflict(run_id, epoch, None if run is None else run.epoch)
        return run


def info_of(checkpoint: Checkpoint) -> CheckpointInfo:
    """Return `checkpoint` without its state."""
    return CheckpointInfo(**{name: getattr(checkpoint, name) for name in CheckpointInfo.__struct_fields__})


def conflict(run_id: str, epoch: int, latest: int | None) -> CheckpointConflictError:
    """Return the error for a save with an `epoch` that is not the latest; None where the run is gone."""
    if latest is None:
        message = f"run {quote(run_id)} was deleted, or never claimed: nothing more is saved under it"
    else:
        message = (
            f"run {quote(run_id)} was claimed by somebody else (epoch {latest}, ours is {epoch}): "
            "whoever claimed it goes on, and this run stops here"
        )
    return CheckpointConflictError(message, run_id=run_id)


def not_found(run_id: str, step: int | None, known: Iterable[object]) -> CheckpointNotFoundError:
    """Return the error for a checkpoint that is not there; `known` are the runs or steps that are."""
    what = f"no run {quote(run_id)}" if step is None else f"no step {step} of run {quote(run_id)}"
    return CheckpointNotFoundError(f"there is {what} in this store {list_known(run_id, known)}", run_id=run_id)


def _run_info(run_id: str, run: _Run) -> RunInfo:
    last = None if run.last is None else run.steps[run.last]
    status: RunStatus = "running" if last is None else last.status
    return RunInfo(
        run_id=run_id,
        graph="" if last is None else last.graph,
        status=status,
        step=0 if last is None else last.step,
        items=len(run.items),
        created_at=run.created_at,
        updated_at=run.updated_at,
    )
