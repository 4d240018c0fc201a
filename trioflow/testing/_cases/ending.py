"""Cancellation, many tasks at once, and closing."""

import math
from collections.abc import Awaitable, Callable
from functools import partial

import trio

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.testing._cases._support import StoreCases, case, check, checkpoint


class EndingCases(StoreCases):
    """Cancellation, many tasks at once, and closing."""

    @case
    async def test_every_method_is_a_checkpoint(self, store: CheckpointStore) -> None:
        """Every method is a checkpoint: in a cancelled scope none returns."""
        epoch = await store.claim("run")
        await store.save(checkpoint(), epoch)
        calls: list[Callable[[], Awaitable[object]]] = [
            partial(store.claim, "other"),
            partial(store.save, checkpoint(step=2), epoch),
            partial(store.load, "run"),
            partial(store.history, "run"),
            store.list_runs,
            partial(store.save_items, "run", epoch, [("a", b"1")]),
            partial(store.load_items, "run"),
            partial(store.delete, "run"),
        ]
        for call in calls:
            with trio.CancelScope() as scope:
                scope.cancel()
                await call()
            check(scope.cancelled_caught, f"{call} is not a checkpoint")

    @case
    async def test_a_cancelled_save_is_whole_or_not_there(self, store: CheckpointStore) -> None:
        """Whenever a save is cancelled, what is kept is one checkpoint or the other."""
        epoch = await store.claim("run")
        await store.save(checkpoint(), epoch)
        for number in range(10):
            saved = checkpoint(state=b"x" * (number * 1_000))
            before = await store.load("run")
            with trio.move_on_after(number * 0.0005):
                await store.save(saved, epoch)
            check(await store.load("run") in (before, saved), "neither is kept")

    @case
    async def test_a_cancelled_batch_is_whole_or_not_there(self, store: CheckpointStore) -> None:
        """Whenever a batch is cancelled, all of it is stored or nothing."""
        epoch = await store.claim("run")
        for number in range(10):
            with trio.move_on_after(number * 0.0005):
                await store.save_items("run", epoch, [(f"{number} {part}", b"x") for part in range(50)])
        kept = await store.load_items("run")
        counts = {sum(key.startswith(f"{number} ") for key in kept) for number in range(10)}
        check(counts <= {0, 50}, f"a part of a batch is kept: {counts}")

    @case
    async def test_a_cancelled_delete_is_whole_or_not_done(self, store: CheckpointStore) -> None:
        """Whenever a delete is cancelled, all of the run is left or nothing."""
        # By turns of the scheduler, whose order is random; and by time, for stores that work in threads.
        for number in range(50):
            epoch = await store.claim("run")
            await store.save(checkpoint(), epoch)
            await store.save_items("run", epoch, [(str(part), b"x") for part in range(50)])
            inside = await store.claim("inside", parent=("run", epoch))
            await store.save(checkpoint("inside"), inside)
            with trio.CancelScope() as scope:
                scope.deadline = trio.current_time() + number * 0.0005 if number < 10 else math.inf
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_cancel_after, scope, None if number < 10 else number % 5)
                    await store.delete("run")
                    nursery.cancel_scope.cancel()
            steps, items = await store.history("run"), await store.load_items("run")
            counts = len(steps), len(items), len(await store.list_runs())
            check(counts in {(0, 0, 0), (1, 50, 2)}, f"a part of a run is left: {counts}")
            await store.delete("run")

    @case
    async def test_tasks_may_use_it_at_once(self, store: CheckpointStore) -> None:
        """Many tasks may use one store concurrently."""

        async def use(run_id: str) -> None:
            epoch = await store.claim(run_id)
            for step in range(1, 6):
                await store.save(checkpoint(run_id, step), epoch)
                await store.save_items(run_id, epoch, [(str(step), b"x")])
            check((await store.load(run_id)).step == 5, "a step was lost")
            check(len(await store.load_items(run_id)) == 5, "an item was lost")

        async with trio.open_nursery() as nursery:
            for number in range(6):
                nursery.start_soon(use, f"run {number}")

    @case
    async def test_closing_twice_does_nothing(self, store: CheckpointStore) -> None:
        """Closing a store twice is allowed."""
        await store.claim("run")
        await store.aclose()
        await store.aclose()


async def _cancel_after(scope: trio.CancelScope, turns: int | None) -> None:
    """Cancel `scope` after some turns of the scheduler.

    Cancellation: passes through.
    """
    for _ in range(turns or 0):
        await trio.lowlevel.checkpoint()
    if turns is not None:
        scope.cancel()
