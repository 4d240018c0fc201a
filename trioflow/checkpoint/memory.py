"""Runs kept in this process: for tests, and for pauses that need not outlive it."""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import ClassVar, final

import msgspec
import trio

from trioflow._text import quote
from trioflow.checkpoint._users import OneRunAtATime
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, RunInfo, RunStatus
from trioflow.config.checks import check_count
from trioflow.errors import CheckpointConflictError, CheckpointNotFoundError

__all__ = ("MemoryStore", "check_page", "conflict", "foreign_child", "info_of", "not_found")


class _Run(msgspec.Struct):
    """What is kept of one run."""

    epoch: int
    created_at: float
    updated_at: float
    parent: str | None
    last: int | None
    steps: dict[int, Checkpoint]
    items: dict[str, bytes]
    children: set[str]


@final
class MemoryStore:
    """A `CheckpointStore` in memory; it does not survive the process."""

    bounds_waiting: ClassVar[bool] = True
    """It waits for nobody, or not for ever, so nobody has to end its waiting."""

    def __init__(self) -> None:
        self._epoch = 0
        self._runs: dict[str, _Run] = {}
        self._user = OneRunAtATime()

    def __repr__(self) -> str:
        return f"<MemoryStore: {len(self._runs)} runs>"

    async def claim(self, run_id: str, *, parent: tuple[str, int] | None = None) -> int:
        """See `CheckpointStore.claim`.

        Cancellation: nothing was claimed.
        """
        await self._checkpoint()
        run = self._runs.get(run_id)
        if parent is not None:
            self._claimed(*parent)
        if run is not None:
            _check_parent(run_id, run, parent)
            # Whoever worked inside the run did so for its former holder.
            for inside in self._inside(run):
                inside.epoch = self._next_epoch()
        else:
            now = time.time()
            run = self._runs[run_id] = _Run(0, now, now, None, None, {}, {}, set())
            if parent is not None:
                run.parent = parent[0]
                self._runs[parent[0]].children.add(run_id)
        run.epoch = self._next_epoch()
        return run.epoch

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """See `CheckpointStore.save`.

        Cancellation: nothing was kept.
        """
        await self._checkpoint()
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
        await self._checkpoint()
        run = self._runs.get(run_id)
        wanted = step if step is not None or run is None else run.last
        if run is None or wanted not in run.steps:
            raise not_found(run_id, step)
        return run.steps[wanted]

    async def history(self, run_id: str) -> Sequence[CheckpointInfo]:
        """See `CheckpointStore.history`.

        Cancellation: nothing is changed.
        """
        await self._checkpoint()
        run = self._runs.get(run_id)
        return [] if run is None else [info_of(run.steps[step]) for step in sorted(run.steps)]

    async def list_runs(self, *, after: str | None = None, limit: int | None = None) -> Sequence[RunInfo]:
        """See `CheckpointStore.list_runs`.

        Cancellation: nothing is changed.
        """
        check_page(limit)
        await self._checkpoint()
        if after is not None and after not in self._runs:
            raise not_found(after, None)
        return list(islice(self._listed(after), limit))

    def _listed(self, after: str | None) -> Iterator[RunInfo]:
        passed = after is None
        for run_id, run in self._runs.items():
            if passed and (run.steps or run.items):
                yield _run_info(run_id, run)
            passed = passed or run_id == after

    async def delete(self, run_id: str, epoch: int | None = None) -> None:
        """See `CheckpointStore.delete`.

        Cancellation: nothing was forgotten.
        """
        await self._checkpoint()
        run = self._runs.get(run_id)
        if run is None or epoch not in {None, run.epoch}:
            return
        if run.parent is not None:
            self._runs[run.parent].children.discard(run_id)
        self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        for child in self._runs.pop(run_id).children:
            self._forget(child)

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """See `CheckpointStore.save_items`.

        Cancellation: nothing was kept.
        """
        await self._checkpoint()
        run = self._claimed(run_id, epoch)
        run.items.update(batch)
        run.updated_at = time.time()

    async def load_items(self, run_id: str) -> dict[str, bytes]:
        """See `CheckpointStore.load_items`.

        Cancellation: nothing is changed.
        """
        await self._checkpoint()
        run = self._runs.get(run_id)
        return {} if run is None else dict(run.items)

    async def aclose(self) -> None:
        """Do nothing: there is nothing to let go of.

        Cancellation: a checkpoint.
        """
        await self._checkpoint()
        self._user.leave()

    async def _checkpoint(self) -> None:
        """Be a checkpoint, of the one `trio.run` that uses this store.

        Cancellation: passes through.
        """
        self._user.check(self)
        await trio.lowlevel.checkpoint()

    def _next_epoch(self) -> int:
        self._epoch += 1
        return self._epoch

    def _inside(self, run: _Run) -> Iterator[_Run]:
        for child in run.children:
            yield self._runs[child]
            yield from self._inside(self._runs[child])

    def _claimed(self, run_id: str, epoch: int) -> _Run:
        run = self._runs.get(run_id)
        if run is None or run.epoch != epoch:
            raise conflict(run_id, epoch, None if run is None else run.epoch)
        return run


def check_page(limit: int | None) -> None:
    """Refuse a limit of a page that is none."""
    if limit is not None:
        check_count("limit", limit, minimum=1, allowed="1 or more, or None (all)")


def _check_parent(run_id: str, run: _Run, parent: tuple[str, int] | None) -> None:
    if run.parent != (None if parent is None else parent[0]):
        raise foreign_child(run_id, run.parent)


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


def foreign_child(run_id: str, parent: str | None) -> CheckpointConflictError:
    """Return the error for a claim of a run that belongs to another `parent`; None where it has none."""
    if parent is None:
        message = f"run {quote(run_id)} stands by itself, and cannot be claimed as a run inside another"
    else:
        message = f"run {quote(run_id)} belongs to run {quote(parent)}: resume that, and it goes on, too"
    return CheckpointConflictError(message, run_id=run_id)


def not_found(run_id: str, step: int | None) -> CheckpointNotFoundError:
    """Return the error for a checkpoint that is not there."""
    what = f"no run {quote(run_id)}" if step is None else f"no step {step} of run {quote(run_id)}"
    return CheckpointNotFoundError(f"there is {what} in this store", run_id=run_id)


def _run_info(run_id: str, run: _Run) -> RunInfo:
    last = None if run.last is None else run.steps[run.last]
    status: RunStatus = "running" if last is None else last.status
    return RunInfo(
        run_id=run_id,
        graph="" if last is None else last.graph,
        kind="" if last is None else last.kind,
        status=status,
        step=0 if last is None else last.step,
        items=len(run.items),
        created_at=run.created_at,
        updated_at=run.updated_at,
        parent=run.parent,
        forked_from=None if last is None else last.forked_from,
    )
