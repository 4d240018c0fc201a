"""The conformance suite finds out stores that are wrong in one way each, such as people write them."""

import unicodedata
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from trioflow import CheckpointConflictError, CheckpointError, CheckpointNotFoundError, MemoryStore
from trioflow.testing import CheckpointStoreConformance

FAULTY = []
STORAGE = {}
"""What stores of one name share, as they would a file."""


def faulty(case):
    """Expect that this case of the suite finds the store out."""

    def decorate(cls):
        FAULTY.append((cls, f"test_{case}"))
        return cls

    return decorate


class Store:
    """A store that does what a store must, on storage that outlives it."""

    def __init__(self, name):
        self.inner = STORAGE.setdefault(name, MemoryStore())
        self.runs = self.inner._runs
        self.name = name

    async def claim(self, run_id, *, parent=None):
        return await self.inner.claim(run_id, parent=parent)

    async def save(self, checkpoint, epoch):
        await self.inner.save(checkpoint, epoch)

    async def load(self, run_id, step=None):
        return await self.inner.load(run_id, step)

    async def history(self, run_id):
        return await self.inner.history(run_id)

    async def list_runs(self, *, after=None, limit=None):
        return await self.inner.list_runs(after=after, limit=limit)

    async def delete(self, run_id, epoch=None):
        await self.inner.delete(run_id, epoch)

    async def save_items(self, run_id, epoch, batch):
        await self.inner.save_items(run_id, epoch, batch)

    async def load_items(self, run_id):
        return await self.inner.load_items(run_id)

    async def aclose(self):
        await self.inner.aclose()


def suite_for(store, name):
    class Suite(CheckpointStoreConformance):
        @asynccontextmanager
        async def open_store(self):
            opened = store(name)
            yield opened
            await opened.aclose()

    return Suite()


@faulty("save_with_an_older_epoch_is_refused")
class TakesAnyEpoch(Store):
    async def save(self, checkpoint, epoch):
        await self.inner.save(checkpoint, self.runs[checkpoint.run_id].epoch)


@faulty("items_with_an_older_epoch_are_refused")
class FencesNoItems(Store):
    async def save_items(self, run_id, epoch, batch):
        await self.inner.save_items(run_id, self.runs[run_id].epoch, batch)


@faulty("an_empty_batch_with_an_older_epoch_is_refused")
class SkipsEmptyBatches(Store):
    async def save_items(self, run_id, epoch, batch):
        await trio.lowlevel.checkpoint()
        if batch:
            await self.inner.save_items(run_id, epoch, batch)


@faulty("epochs_are_those_of_the_storage")
class CountsEpochsInTheProcess(Store):
    def __init__(self, name):
        super().__init__(name)
        self.counter = 0

    async def claim(self, run_id, *, parent=None):
        await self.inner.claim(run_id, parent=parent)
        self.counter += 1
        self.runs[run_id].epoch = self.counter
        return self.counter


@faulty("epochs_grow")
class CountsEpochsOfEachRun(Store):
    async def claim(self, run_id, *, parent=None):
        before = self.runs[run_id].epoch if run_id in self.runs else 0
        await self.inner.claim(run_id, parent=parent)
        self.runs[run_id].epoch = before + 1
        return before + 1


@faulty("epochs_are_not_reused_after_delete")
class ReusesEpochs(Store):
    async def delete(self, run_id, epoch=None):
        await self.inner.delete(run_id, epoch)
        self.inner._epoch = max((run.epoch for run in self.runs.values()), default=0)


@faulty("what_was_saved_outlives_closing")
class LosesAllAtClosing(Store):
    async def aclose(self):
        await self.inner.aclose()
        self.runs.clear()


@faulty("what_was_saved_outlives_closing")
class ForgetsTheCounterAtClosing(Store):
    async def aclose(self):
        await self.inner.aclose()
        self.inner._epoch = 0


@faulty("a_second_handle_sees_what_was_saved")
class KeepsACopyOfItsOwn(Store):
    def __init__(self, name):
        super().__init__(name)
        self.seen = {}

    async def load(self, run_id, step=None):
        self.seen[run_id, step] = self.seen.get((run_id, step)) or await self.inner.load(run_id, step)
        return self.seen[run_id, step]

    async def save(self, checkpoint, epoch):
        await self.inner.save(checkpoint, epoch)
        self.seen[checkpoint.run_id, None] = self.seen[checkpoint.run_id, checkpoint.step] = checkpoint

    async def delete(self, run_id, epoch=None):
        await self.inner.delete(run_id, epoch)
        self.seen.clear()


@faulty("a_save_that_is_overtaken_changes_nothing")
class LooksAtTheEpochTooEarly(Store):
    async def save(self, checkpoint, epoch):
        run = self.runs.get(checkpoint.run_id)
        if run is None or run.epoch != epoch:
            raise CheckpointConflictError("not yours")
        for _ in range(6):
            await trio.lowlevel.checkpoint()
        run.steps[checkpoint.step], run.last = checkpoint, checkpoint.step


@faulty("a_save_that_is_overtaken_changes_nothing")
class LooksAtTheEpochOfItemsTooEarly(Store):
    async def save_items(self, run_id, epoch, batch):
        run = self.runs.get(run_id)
        if run is None or run.epoch != epoch:
            raise CheckpointConflictError("not yours")
        for _ in range(6):
            await trio.lowlevel.checkpoint()
        run.items.update(batch)


@faulty("a_cancelled_delete_is_whole_or_not_done")
class TearsADelete(Store):
    async def delete(self, run_id, epoch=None):
        await trio.lowlevel.checkpoint()
        if run_id in self.runs:
            self.runs[run_id].items.clear()
        await self.inner.delete(run_id, epoch)


@faulty("a_cancelled_batch_is_whole_or_not_there")
class TearsABatch(Store):
    async def save_items(self, run_id, epoch, batch):
        await self.inner.save_items(run_id, epoch, batch[:25])
        await trio.sleep(0.001)
        await self.inner.save_items(run_id, epoch, batch[25:])


@faulty("a_batch_that_fails_leaves_nothing")
class KeepsHalfABatch(Store):
    async def save_items(self, run_id, epoch, batch):
        await self.inner.save_items(run_id, epoch, [])
        for key, value in batch:
            key.encode()
            self.runs[run_id].items[key] = value


@faulty("states_of_any_size_come_back")
class CutsLargeStates(Store):
    async def save(self, checkpoint, epoch):
        cut = msgspec.structs.replace(checkpoint, state=checkpoint.state[: 8 << 20])
        await self.inner.save(cut, epoch)


@faulty("a_large_batch_is_kept")
class LoadsSoManyItems(Store):
    async def load_items(self, run_id):
        return dict(list((await self.inner.load_items(run_id)).items())[:10_000])


@faulty("there_is_no_limit_to_a_list")
class ListsSoManyRuns(Store):
    async def list_runs(self, *, after=None, limit=None):
        return await self.inner.list_runs(after=after, limit=limit or 250)


@faulty("history_is_in_the_order_of_steps")
class TellsHistoryAsItWasSaved(Store):
    async def history(self, run_id):
        steps = {info.step: info for info in await self.inner.history(run_id)}
        return [steps[step] for step in (self.runs[run_id].steps if steps else ())]


@faulty("runs_are_listed_by_pages")
class ListsAsRunsWereChanged(Store):
    async def save(self, checkpoint, epoch):
        await self.inner.save(checkpoint, epoch)
        self.runs[checkpoint.run_id] = self.runs.pop(checkpoint.run_id)


@faulty("runs_are_listed_by_pages")
class BeginsAPageWithTheLast(Store):
    async def list_runs(self, *, after=None, limit=None):
        runs = list(await self.inner.list_runs())
        start = next((index for index, run in enumerate(runs) if run.run_id == after), 0)
        return runs[start:][:limit]


@faulty("runs_are_listed_by_pages")
class BeginsAnewAfterNobody(Store):
    async def list_runs(self, *, after=None, limit=None):
        known = after if after in self.runs else None
        return await self.inner.list_runs(after=known, limit=limit)


@faulty("keys_that_look_alike_are_told_apart")
class FoldsKeys(Store):
    async def save_items(self, run_id, epoch, batch):
        await self.inner.save_items(run_id, epoch, [(unicodedata.normalize("NFC", key), value) for key, value in batch])


@faulty("an_earlier_step_saved_later_is_the_latest")
class LoadsTheHighestStep(Store):
    async def load(self, run_id, step=None):
        steps = self.runs[run_id].steps if run_id in self.runs else {}
        return await self.inner.load(run_id, max(steps, default=None) if step is None else step)


@faulty("a_checkpoint_comes_back_equal")
class DropsTheOrigin(Store):
    async def save(self, checkpoint, epoch):
        await self.inner.save(msgspec.structs.replace(checkpoint, forked_from=None), epoch)


@faulty("a_run_is_listed_with_its_kind_and_its_origin")
class ListsNoParents(Store):
    async def list_runs(self, *, after=None, limit=None):
        runs = await self.inner.list_runs(after=after, limit=limit)
        return [msgspec.structs.replace(run, parent=None) for run in runs]


@faulty("an_older_epoch_of_the_parent_claims_nothing")
class TakesAnyEpochOfTheParent(Store):
    async def claim(self, run_id, *, parent=None):
        holder = None if parent is None or parent[0] not in self.runs else (parent[0], self.runs[parent[0]].epoch)
        return await self.inner.claim(run_id, parent=holder)


@faulty("a_claim_of_the_parent_takes_what_is_inside")
class LeavesChildrenToTheFormerHolder(Store):
    async def claim(self, run_id, *, parent=None):
        epochs = {child: run.epoch for child, run in self.runs.items() if run.parent is not None}
        epoch = await self.inner.claim(run_id, parent=parent)
        for child in epochs.keys() & self.runs.keys() - {run_id}:
            self.runs[child].epoch = epochs[child]
        return epoch


@faulty("a_run_keeps_its_parent")
class GivesAChildToAnybody(Store):
    async def claim(self, run_id, *, parent=None):
        if run_id not in self.runs or parent is not None:
            return await self.inner.claim(run_id, parent=parent)
        await trio.lowlevel.checkpoint()
        self.runs[run_id].epoch = self.inner._next_epoch()
        return self.runs[run_id].epoch


@faulty("delete_with_an_older_epoch_does_nothing")
class DeletesForAnybody(Store):
    async def delete(self, run_id, epoch=None):
        await self.inner.delete(run_id)


@faulty("delete_with_an_older_epoch_does_nothing")
class RefusesInPlaceOfDoingNothing(Store):
    async def delete(self, run_id, epoch=None):
        await trio.lowlevel.checkpoint()
        if epoch is not None and (run_id not in self.runs or self.runs[run_id].epoch != epoch):
            raise CheckpointConflictError("not yours")
        await self.inner.delete(run_id, epoch)


@faulty("delete_takes_what_is_inside")
class LeavesChildrenBehind(Store):
    async def delete(self, run_id, epoch=None):
        if run_id in self.runs:
            self.runs[run_id].children.clear()
        await self.inner.delete(run_id, epoch)


@faulty("delete_forgets_everything")
class LeavesItemsBehind(Store):
    async def delete(self, run_id, epoch=None):
        await self.inner.delete(run_id, epoch)
        self.left = run_id

    async def load_items(self, run_id):
        return {"a": b"1"} if run_id == getattr(self, "left", None) else await self.inner.load_items(run_id)


@faulty("a_deleted_run_can_begin_anew")
class BringsDeletedStepsBack(Store):
    async def delete(self, run_id, epoch=None):
        run = self.runs.get(run_id)
        await self.inner.delete(run_id, epoch)
        self.gone = {run_id: dict(run.steps)} if run else {}

    async def history(self, run_id):
        for step, saved in getattr(self, "gone", {}).get(run_id, {}).items():
            if run_id in self.runs:
                self.runs[run_id].steps.setdefault(step, saved)
        return await self.inner.history(run_id)


@faulty("a_pause_of_nothing_is_no_pause")
class TakesEmptyForNone(Store):
    async def save(self, checkpoint, epoch):
        await self.inner.save(msgspec.structs.replace(checkpoint, pause=checkpoint.pause or None), epoch)


@faulty("what_was_loaded_is_the_callers")
class GivesItsOwnItemsOut(Store):
    async def load_items(self, run_id):
        await trio.lowlevel.checkpoint()
        return self.runs[run_id].items if run_id in self.runs else {}


@faulty("every_method_is_a_checkpoint")
class IsNoCheckpoint(Store):
    async def load(self, run_id, step=None):
        run = self.runs.get(run_id)
        if run is None or run.last is None:
            raise CheckpointNotFoundError("no run")
        return run.steps[run.last if step is None else step]


@pytest.mark.parametrize(("store", "case"), FAULTY, ids=[store.__name__ for store, _ in FAULTY])
def test_a_faulty_store_is_found_out(store, case, tmp_path):
    with pytest.raises((AssertionError, CheckpointError)):
        getattr(suite_for(store, tmp_path), case)()


@pytest.mark.parametrize("case", sorted({case for _, case in FAULTY}))
def test_a_store_without_faults_is_not(case, tmp_path):
    getattr(suite_for(Store, tmp_path), case)()


def test_a_store_that_is_said_to_be_durable_must_be():
    class Suite(CheckpointStoreConformance):
        durable = True

        @asynccontextmanager
        async def open_store(self):
            yield MemoryStore()

    with pytest.raises(AssertionError, match="a second store sees nothing of what the first one saved"):
        Suite().test_epochs_are_those_of_the_storage()


def test_there_are_enough_of_them():
    assert len(FAULTY) >= 22
