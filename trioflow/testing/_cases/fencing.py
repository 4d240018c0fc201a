"""Epochs: only the last claimant of a run may save."""

import contextlib
import itertools

import trio

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.errors import CheckpointConflictError, CheckpointNotFoundError
from trioflow.testing._cases._support import StoreCases, case, check, checkpoint, refused


class FencingCases(StoreCases):
    """Epochs: only the last claimant of a run may save."""

    @case
    async def test_epochs_grow(self, store: CheckpointStore) -> None:
        """Each claim gives a higher epoch than all before, whatever the run."""
        epochs = [await store.claim(run_id) for run_id in ("a", "b", "a", "c", "a")]
        check(epochs == sorted(set(epochs)), f"epochs do not grow: {epochs}")

    @case
    async def test_epochs_are_not_reused_after_delete(self, store: CheckpointStore) -> None:
        """A run that is deleted and claimed again has a new epoch."""
        first = await store.claim("run")
        await store.delete("run")
        check(await store.claim("run") > first, "an epoch was given out twice")

    @case
    async def test_epochs_are_plain_ints(self, store: CheckpointStore) -> None:
        """An epoch is an int."""
        check(type(await store.claim("run")) is int, "an epoch is not an int")

    @case
    async def test_save_with_an_older_epoch_is_refused(self, store: CheckpointStore) -> None:
        """An earlier claimant may not save, and stored data stays."""
        old = await store.claim("run")
        await store.save(checkpoint(), old)
        new = await store.claim("run")
        await refused(store.save(checkpoint(step=2), old), CheckpointConflictError)
        check(await store.load("run") == checkpoint(), "a refused save changed something")
        await store.save(checkpoint(step=2), new)

    @case
    async def test_save_with_an_epoch_never_given_is_refused(self, store: CheckpointStore) -> None:
        """An epoch that was never issued may not save."""
        epoch = await store.claim("run")
        await refused(store.save(checkpoint(), epoch + 1), CheckpointConflictError)

    @case
    async def test_save_without_a_claim_is_refused(self, store: CheckpointStore) -> None:
        """A run that was never claimed cannot be saved."""
        await refused(store.save(checkpoint(), 1), CheckpointConflictError)

    @case
    async def test_save_with_the_epoch_of_another_run_is_refused(self, store: CheckpointStore) -> None:
        """An epoch is valid only for its run."""
        await store.claim("run")
        other = await store.claim("other")
        await refused(store.save(checkpoint(), other), CheckpointConflictError)

    @case
    async def test_save_after_delete_is_refused(self, store: CheckpointStore) -> None:
        """A deleted run stays deleted."""
        epoch = await store.claim("run")
        await store.delete("run")
        await refused(store.save(checkpoint(), epoch), CheckpointConflictError)
        check(not await store.list_runs(), "a deleted run is back")

    @case
    async def test_items_with_an_older_epoch_are_refused(self, store: CheckpointStore) -> None:
        """Fencing holds for items too."""
        old = await store.claim("run")
        await store.save_items("run", old, [("a", b"1")])
        await store.claim("run")
        await refused(store.save_items("run", old, [("a", b"2"), ("b", b"2")]), CheckpointConflictError)
        check(dict(await store.load_items("run")) == {"a": b"1"}, "a refused batch changed something")

    @case
    async def test_items_without_a_claim_are_refused(self, store: CheckpointStore) -> None:
        """Items of a run that was never claimed cannot be saved."""
        await refused(store.save_items("run", 1, [("a", b"1")]), CheckpointConflictError)

    @case
    async def test_items_after_delete_are_refused(self, store: CheckpointStore) -> None:
        """Items of a deleted run cannot be saved."""
        epoch = await store.claim("run")
        await store.delete("run")
        await refused(store.save_items("run", epoch, [("a", b"1")]), CheckpointConflictError)

    @case
    async def test_an_empty_batch_with_an_older_epoch_is_refused(self, store: CheckpointStore) -> None:
        """Fencing does not depend on what is saved."""
        old = await store.claim("run")
        await store.claim("run")
        await refused(store.save_items("run", old, []), CheckpointConflictError)

    @case
    async def test_claims_at_once_have_one_winner(self, store: CheckpointStore) -> None:
        """Of many concurrent claimants of a run, exactly one may save."""
        epochs: list[int] = []

        async def claim() -> None:
            epochs.append(await store.claim("run"))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(claim)
        check(len(set(epochs)) == 8, "two claims have one epoch")
        for epoch in sorted(epochs)[:-1]:
            await refused(store.save(checkpoint(), epoch), CheckpointConflictError)
        await store.save(checkpoint(), max(epochs))

    @case
    async def test_a_save_that_is_overtaken_changes_nothing(self, store: CheckpointStore) -> None:
        """Once a claim has returned, no earlier save takes effect, however long it was in flight."""
        for number in range(20):
            run_id = f"run {number}"
            old = await store.claim(run_id)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_save_until_refused, store, run_id, old)
                for _ in range(number):
                    await trio.lowlevel.checkpoint()
                await store.claim(run_id)
                before = await _kept(store, run_id)
            check(await _kept(store, run_id) == before, "something was saved after another claim")

    @case
    async def test_the_holder_of_a_run_claims_those_inside_it(self, store: CheckpointStore) -> None:
        """A child run is claimed with the id and the epoch of its parent, repeatedly."""
        parent = await store.claim("parent")
        first = await store.claim("child", parent=("parent", parent))
        await store.save(checkpoint("child"), first)
        second = await store.claim("child", parent=("parent", parent))
        check(parent < first < second, f"epochs do not grow: {(parent, first, second)}")
        check(await store.load("child") == checkpoint("child"), "a claim changed a checkpoint")
        await refused(store.save(checkpoint("child"), first), CheckpointConflictError)
        await store.save(checkpoint("child", step=2), second)
        await store.save(checkpoint("parent"), parent)

    @case
    async def test_an_older_epoch_of_the_parent_claims_nothing(self, store: CheckpointStore) -> None:
        """A former holder of the parent cannot claim its child runs, and does not affect them."""
        old = await store.claim("parent")
        new = await store.claim("parent")
        child = await store.claim("child", parent=("parent", new))
        for parent in (("parent", old), ("parent", new + 10), ("nobody", new), ("child", new)):
            for run_id in ("child", "another"):
                await refused(store.claim(run_id, parent=parent), CheckpointConflictError)
        await store.save(checkpoint("child"), child)
        await refused(store.save(checkpoint("another"), child), CheckpointConflictError)

    @case
    async def test_a_claim_of_the_parent_takes_what_is_inside(self, store: CheckpointStore) -> None:
        """After a new claim of the parent, earlier claims of child runs at any depth cannot save."""
        old = await store.claim("parent")
        child = await store.claim("child", parent=("parent", old))
        grandchild = await store.claim("grandchild", parent=("child", child))
        await store.save(checkpoint("grandchild"), grandchild)
        new = await store.claim("parent")
        await refused(store.save(checkpoint("child"), child), CheckpointConflictError)
        await refused(store.save(checkpoint("grandchild", step=2), grandchild), CheckpointConflictError)
        await refused(store.save_items("grandchild", grandchild, [("a", b"1")]), CheckpointConflictError)
        await refused(store.claim("grandchild", parent=("child", child)), CheckpointConflictError)
        child = await store.claim("child", parent=("parent", new))
        grandchild = await store.claim("grandchild", parent=("child", child))
        check(await store.load("grandchild") == checkpoint("grandchild"), "what is inside was lost")
        await store.save(checkpoint("grandchild", step=2), grandchild)

    @case
    async def test_a_run_keeps_its_parent(self, store: CheckpointStore) -> None:
        """A child run cannot be claimed without its parent, nor under another, nor an outermost run under one."""
        parents = {run_id: await store.claim(run_id) for run_id in ("parent", "other")}
        child = await store.claim("child", parent=("parent", parents["parent"]))
        await refused(store.claim("child"), CheckpointConflictError)
        await refused(store.claim("child", parent=("other", parents["other"])), CheckpointConflictError)
        await refused(store.claim("other", parent=("parent", parents["parent"])), CheckpointConflictError)
        await store.save(checkpoint("child"), child)
        await store.save(checkpoint("other"), parents["other"])


async def _save_until_refused(store: CheckpointStore, run_id: str, epoch: int) -> None:
    """Save a new step and item, repeatedly, until refused.

    Cancellation: passes through.
    """
    with contextlib.suppress(CheckpointConflictError):
        for number in itertools.count():
            await store.save(checkpoint(run_id, state=b"%d" % number), epoch)
            await store.save_items(run_id, epoch, [("k", b"%d" % number)])


async def _kept(store: CheckpointStore, run_id: str) -> tuple[bytes | None, bytes | None]:
    """Return the stored state and item of the run.

    Cancellation: passes through.
    """
    item = (await store.load_items(run_id)).get("k")
    try:
        return (await store.load(run_id)).state, item
    except CheckpointNotFoundError:
        return None, item
