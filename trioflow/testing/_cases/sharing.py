"""A second handle on the same storage, and reopening a closed store."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.errors import CheckpointConflictError, CheckpointNotFoundError
from trioflow.testing._cases._support import StoreCases, case, check, checkpoint, refused


class SharingCases(StoreCases):
    """Two handles on the same storage; skipped for a store whose handles share none."""

    @asynccontextmanager
    async def second_handle(self, store: CheckpointStore) -> AsyncIterator[CheckpointStore | None]:
        """Yield a second store on the storage of `store`, or None if they share none.

        Raises:
            AssertionError: the stores are `durable`, but share nothing.

        Cancellation: passes through.
        """
        await store.save(checkpoint("probe"), await store.claim("probe"))
        async with self.open_store() as second:
            shared = "probe" in [run.run_id for run in await second.list_runs()]
            check(shared or not self.durable, "a second store sees nothing of what the first one saved")
            await store.delete("probe")
            yield second if shared else None

    @case
    async def test_a_second_handle_sees_what_was_saved(self, store: CheckpointStore) -> None:
        """One handle sees what the other has saved or deleted."""
        async with self.second_handle(store) as second:
            if second is None:
                return
            epoch = await store.claim("run")
            await store.save(checkpoint(), epoch)
            await store.save_items("run", epoch, [("a", b"1")])
            check(await second.load("run") == checkpoint(), "the other handle sees another checkpoint")
            check(dict(await second.load_items("run")) == {"a": b"1"}, "the other handle sees other items")
            await second.delete("run")
            await refused(store.load("run"), CheckpointNotFoundError)
            await refused(store.save(checkpoint(), epoch), CheckpointConflictError)

    @case
    async def test_epochs_are_those_of_the_storage(self, store: CheckpointStore) -> None:
        """Epochs grow across handles, and a claim by one takes the run from the other."""
        async with self.second_handle(store) as second:
            if second is None:
                return
            epochs = []
            for number in range(3):
                for handle in (store, second):
                    epochs.append(await handle.claim("run"))
                    await handle.claim(f"other {number}")
            check(epochs == sorted(set(epochs)), f"epochs do not grow: {epochs}")
            await refused(store.save(checkpoint(), epochs[-2]), CheckpointConflictError)
            await second.save(checkpoint(), epochs[-1])

    @case
    async def test_claims_of_two_handles_have_one_winner(self, store: CheckpointStore) -> None:
        """Of concurrent claimants of a run through two handles, exactly one may save."""
        async with self.second_handle(store) as second:
            if second is None:
                return
            claims: list[tuple[int, CheckpointStore]] = []

            async def claim(handle: CheckpointStore) -> None:
                claims.append((await handle.claim("run"), handle))

            async with trio.open_nursery() as nursery:
                for handle in (store, second) * 4:
                    nursery.start_soon(claim, handle)
            claims.sort(key=lambda claimed: claimed[0])
            check(len({epoch for epoch, _ in claims}) == 8, "two claims have one epoch")
            for epoch, handle in claims[:-1]:
                await refused(handle.save(checkpoint(), epoch), CheckpointConflictError)
            await claims[-1][1].save(checkpoint(), claims[-1][0])

    @case
    async def test_a_parent_is_fenced_between_handles(self, store: CheckpointStore) -> None:
        """A claim of a parent through one handle takes its child runs from the other."""
        async with self.second_handle(store) as second:
            if second is None:
                return
            old = await store.claim("parent")
            child = await store.claim("child", parent=("parent", old))
            await store.save(checkpoint("child"), child)
            new = await second.claim("parent")
            await refused(store.save(checkpoint("child", step=2), child), CheckpointConflictError)
            await refused(store.claim("child", parent=("parent", old)), CheckpointConflictError)
            await store.delete("parent", old)
            await second.save(checkpoint("child", step=2), await second.claim("child", parent=("parent", new)))

    @case
    async def test_what_was_saved_outlives_closing(self, store: CheckpointStore) -> None:
        """A reopened store has everything that was saved, and issues no epoch again."""
        async with self.second_handle(store) as second:
            if second is None:
                return
        parent = await store.claim("parent")
        child = await store.claim("child", parent=("parent", parent))
        gone = await store.claim("gone")
        for run_id, epoch in (("parent", parent), ("child", child), ("gone", gone)):
            await store.save(checkpoint(run_id), epoch)
            await store.save_items(run_id, epoch, [("a", b"1")])
        await store.delete("gone")
        listed = list(await store.list_runs())
        await store.aclose()
        async with self.open_store() as again:
            check(list(await again.list_runs()) == listed, "the list is another one after closing")
            check(await again.load("child") == checkpoint("child"), "a checkpoint was lost at closing")
            check(dict(await again.load_items("child")) == {"a": b"1"}, "items were lost at closing")
            await again.save(checkpoint("child", step=2), child)
            check(await again.claim("gone") > gone, "an epoch was given out again after closing")
            await refused(again.claim("child"), CheckpointConflictError)
