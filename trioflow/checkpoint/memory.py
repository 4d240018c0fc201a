"""A store in memory: for tests, and for pauses that need not outlive the process."""

import time
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import ClassVar, final

import msgspec
import trio

from trioflow._text import quote
from trioflow.checkpoint._changes import Changes
from trioflow.checkpoint._entries import Entries, already_there
from trioflow.checkpoint._users import OneRunAtATime
from trioflow.checkpoint.codec import sealed
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, RunInfo, RunStatus
from trioflow.checkpoint.service_protocol import (
    EndStatus,
    Lease,
    LeaseGrant,
    LeaseRequest,
    Release,
    ServiceRun,
)
from trioflow.config.checks import check_count
from trioflow.errors import CheckpointConflictError, CheckpointNotFoundError

__all__ = ("MemoryStore", "check_page", "conflict", "foreign_child", "info_of", "not_found")


class _Run(msgspec.Struct):
    """A stored run."""

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
    """A `CheckpointStore`, and a `ServiceStore`, in memory; it does not survive the process."""

    bounds_waiting: ClassVar[bool] = True
    """It never waits indefinitely, so the caller need not limit its waiting time."""

    def __init__(self) -> None:
        self._epoch = 0
        self._runs: dict[str, _Run] = {}
        self._entries = Entries()
        self._changes = Changes()
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
        else:
            now = time.time()
            run = self._runs[run_id] = _Run(0, now, now, None, None, {}, {}, set())
            if parent is not None:
                run.parent = parent[0]
                self._runs[parent[0]].children.add(run_id)
        return self._claim(run)

    def _claim(self, run: _Run) -> int:
        # Work inside the run was done for its previous holder.
        for inside in self._inside(run):
            inside.epoch = self._next_epoch()
        run.epoch = self._next_epoch()
        return run.epoch

    async def save(self, checkpoint: Checkpoint, epoch: int) -> None:
        """See `CheckpointStore.save`.

        Cancellation: nothing was stored.
        """
        await self._checkpoint()
        self.save_nowait(checkpoint, epoch)

    def save_nowait(self, checkpoint: Checkpoint, epoch: int) -> None:
        """Do what `save` does; never blocks. A checkpoint without a digest is given one when it is loaded."""
        run = self._claimed(checkpoint.run_id, epoch)
        run.steps[checkpoint.step] = checkpoint
        run.last = checkpoint.step
        run.updated_at = time.time()

    async def load(self, run_id: str, step: int | None = None) -> Checkpoint:
        """See `CheckpointStore.load`.

        Cancellation: nothing is changed.
        """
        await self._checkpoint()
        run = self._runs.get(run_id)
        wanted = step if step is not None or run is None else run.last
        if run is None or wanted not in run.steps:
            raise not_found(run_id, step)
        return _with_digest(run.steps[wanted])

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
                yield self._with_entry(_run_info(run_id, run))
            passed = passed or run_id == after

    async def delete(self, run_id: str, epoch: int | None = None) -> None:
        """See `CheckpointStore.delete`.

        Cancellation: nothing was deleted.
        """
        await self._checkpoint()
        run = self._runs.get(run_id)
        if run is None or epoch not in {None, run.epoch}:
            return
        if run.parent is not None:
            self._runs[run.parent].children.discard(run_id)
        self._forget(run_id)

    def _forget(self, run_id: str) -> None:
        self._entries.forget(run_id)
        self._changes.note()
        for child in self._runs.pop(run_id).children:
            self._forget(child)

    async def save_items(self, run_id: str, epoch: int, batch: Sequence[tuple[str, bytes]]) -> None:
        """See `CheckpointStore.save_items`.

        Cancellation: nothing was stored.
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

    async def submit(self, checkpoint: Checkpoint, delay: float) -> None:
        """See `ServiceStore.submit`.

        Cancellation: nothing was submitted.
        """
        await self._checkpoint()
        run_id = checkpoint.run_id
        if run_id in self._runs:
            raise already_there(run_id)
        epoch = self._next_epoch()
        self._runs[run_id] = _Run(epoch, checkpoint.created_at, checkpoint.created_at, None, None, {}, {}, set())
        self.save_nowait(checkpoint, epoch)
        self._entries.add(run_id, checkpoint.graph, delay)
        self._changes.note()

    async def lease(self, request: LeaseRequest) -> LeaseGrant:
        """See `ServiceStore.lease`.

        Cancellation: nothing was taken.
        """
        await self._checkpoint()
        held: dict[str, bool] = {}
        for run_id, epoch in request.held:
            run = self._runs.get(run_id)
            ours = run is not None and run.epoch == epoch
            is_cancelled = self._entries.prolong(run_id, request.lease) if ours else None
            if is_cancelled is not None:
                held[run_id] = is_cancelled
        taken = [
            Lease(
                run_id=entry.run_id,
                graph=entry.graph,
                epoch=self._claim(self._runs[entry.run_id]),
                is_cancelled=entry.is_cancelled,
                last=self._last(entry.run_id),
            )
            for entry in self._entries.take(request)
        ]
        return LeaseGrant(held=held, taken=taken, next_due=self._entries.next_due(request))

    async def release(self, run_id: str, epoch: int, release: Release) -> None:
        """See `ServiceStore.release`.

        Cancellation: nothing is changed.
        """
        await self._checkpoint()
        self._claimed(run_id, epoch)
        self._entries.release(run_id, release)
        self._changes.note()

    async def finish(
        self, run_id: str, epoch: int, status: EndStatus, outcome: bytes, reason: str | None = None
    ) -> None:
        """See `ServiceStore.finish`.

        Cancellation: nothing was stored.
        """
        await self._checkpoint()
        self._claimed(run_id, epoch)
        self._entries.finish(run_id, status, outcome, reason)
        self._changes.note()

    async def put_signal(self, run_id: str, name: str, payload: bytes) -> None:
        """See `ServiceStore.put_signal`.

        Cancellation: nothing was stored.
        """
        await self._checkpoint()
        if run_id not in self._runs:
            raise not_found(run_id, None)
        self._entries.put_signal(run_id, name, payload)
        self._changes.note()

    async def take_signal(self, run_id: str, epoch: int, name: str, wait: str) -> bytes | None:
        """See `ServiceStore.take_signal`.

        Cancellation: nothing was taken.
        """
        await self._checkpoint()
        self._claimed(run_id, epoch)
        return self._entries.take_signal(run_id, name, wait)

    async def request_cancel(self, run_id: str) -> None:
        """See `ServiceStore.request_cancel`.

        Cancellation: nothing is changed.
        """
        await self._checkpoint()
        self._entries.request_cancel(run_id)
        self._changes.note()

    async def look(self, run_id: str) -> ServiceRun:
        """See `ServiceStore.look`.

        Cancellation: nothing is changed.
        """
        await self._checkpoint()
        run = self._entries.look(run_id)
        return msgspec.structs.replace(run, last=self._last(run_id)) if run.status == "completed" else run

    async def ended(self, run_ids: Sequence[str]) -> list[str]:
        """See `ServiceStore.ended`.

        Cancellation: nothing is changed.
        """
        await self._checkpoint()
        return self._entries.ended(run_ids)

    async def wait_for_change(self, since: int | None, poll: float) -> int:
        """See `ServiceStore.wait_for_change`; does not poll.

        Cancellation: nothing is changed.
        """
        del poll
        await self._checkpoint()
        if since == self._changes.count:
            await self._changes.wait()
        return self._changes.count

    async def aclose(self) -> None:
        """Do nothing: there is nothing to close.

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

    def _with_entry(self, info: RunInfo) -> RunInfo:
        entry = self._entries.find(info.run_id)
        if entry is None:
            return info
        return msgspec.structs.replace(info, status=entry.status, reason=entry.reason)

    def _last(self, run_id: str) -> Checkpoint | None:
        run = self._runs[run_id]
        return None if run.last is None else _with_digest(run.steps[run.last])

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
    """Require a valid page limit."""
    if limit is not None:
        check_count("limit", limit, minimum=1, allowed="1 or more, or None (all)")


def _check_parent(run_id: str, run: _Run, parent: tuple[str, int] | None) -> None:
    if run.parent != (None if parent is None else parent[0]):
        raise foreign_child(run_id, run.parent)


def info_of(checkpoint: Checkpoint) -> CheckpointInfo:
    """Return `checkpoint` without its state."""
    return CheckpointInfo(**{name: getattr(checkpoint, name) for name in CheckpointInfo.__struct_fields__})


def conflict(run_id: str, epoch: int, latest: int | None) -> CheckpointConflictError:
    """Return the error for a save with an `epoch` that is not the `latest`, which is None if the run is gone."""
    if latest is None:
        message = f"run {quote(run_id)} was deleted, or never claimed: nothing more is saved under it"
    else:
        message = (
            f"run {quote(run_id)} was claimed by somebody else (epoch {latest}, ours is {epoch}): "
            "the new holder continues it, and this run stops here"
        )
    return CheckpointConflictError(message, run_id=run_id)


def foreign_child(run_id: str, parent: str | None) -> CheckpointConflictError:
    """Return the error for a claim of a run that belongs to another `parent`, or to none if that is None."""
    if parent is None:
        message = f"run {quote(run_id)} has no parent, and cannot be claimed as a child run"
    else:
        message = f"run {quote(run_id)} belongs to run {quote(parent)}: resume that, which continues it too"
    return CheckpointConflictError(message, run_id=run_id)


def not_found(run_id: str, step: int | None) -> CheckpointNotFoundError:
    """Return the error for a missing checkpoint."""
    what = f"no run {quote(run_id)}" if step is None else f"no step {step} of run {quote(run_id)}"
    return CheckpointNotFoundError(f"there is {what} in this store", run_id=run_id)


def _with_digest(checkpoint: Checkpoint) -> Checkpoint:
    return checkpoint if checkpoint.digest else sealed(checkpoint)


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
