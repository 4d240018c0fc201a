"""Histories, lists of runs, and deleting."""

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.errors import CheckpointConflictError, CheckpointNotFoundError
from trioflow.testing._cases._support import StoreCases, case, check, checkpoint, refused


class RunCases(StoreCases):
    """Histories, lists of runs, and deleting."""

    @case
    async def test_history_is_oldest_first(self, store: CheckpointStore) -> None:
        """A history is in ascending order."""
        epoch = await store.claim("run")
        for step in range(12):
            await store.save(checkpoint(step=step), epoch)
        check([info.step for info in await store.history("run")] == list(range(12)), "the order is wrong")

    @case
    async def test_history_is_in_the_order_of_steps(self, store: CheckpointStore) -> None:
        """A history is ordered by step number, whatever was saved last."""
        epoch = await store.claim("run")
        for step in (5, 2, 9, 2, 1):
            await store.save(checkpoint(step=step), epoch)
        check([info.step for info in await store.history("run")] == [1, 2, 5, 9], "the order is wrong")

    @case
    async def test_history_tells_what_was_saved(self, store: CheckpointStore) -> None:
        """Each entry has the fields of its checkpoint, but no state."""
        epoch = await store.claim("run")
        saved = checkpoint()
        await store.save(saved, epoch)
        info = (await store.history("run"))[0]
        for name in info.__struct_fields__:
            check(getattr(info, name) == getattr(saved, name), f"{name} differs")
        check(not hasattr(info, "state"), "a history has states")

    @case
    async def test_history_of_nothing_is_empty(self, store: CheckpointStore) -> None:
        """An unknown run has no history."""
        check(not await store.history("run"), "there is a history of nothing")
        await store.claim("run")
        check(not await store.history("run"), "a claim is listed as a step")

    @case
    async def test_an_empty_store_lists_nothing(self, store: CheckpointStore) -> None:
        """There are no runs in an empty store."""
        check(not await store.list_runs(), "an empty store has runs")

    @case
    async def test_runs_are_listed_in_order(self, store: CheckpointStore) -> None:
        """Runs are listed in the order in which they were first claimed."""
        for run_id in ("c", "a", "b", "c"):
            epoch = await store.claim(run_id)
            await store.save(checkpoint(run_id), epoch)
        check([run.run_id for run in await store.list_runs()] == ["c", "a", "b"], "the order is wrong")

    @case
    async def test_a_run_is_listed_with_its_numbers(self, store: CheckpointStore) -> None:
        """A listed run shows its last step, and its number of items."""
        epoch = await store.claim("run")
        await store.save(checkpoint(step=7, graph="g", status="failed"), epoch)
        await store.save_items("run", epoch, [("a", b"1"), ("b", b"2")])
        await store.save_items("run", epoch, [("b", b"3"), ("c", b"4")])
        run = (await store.list_runs())[0]
        check((run.graph, run.status, run.step, run.items) == ("g", "failed", 7, 3), f"wrong numbers: {run}")

    @case
    async def test_a_run_is_listed_with_its_kind_and_its_origin(self, store: CheckpointStore) -> None:
        """A listed run shows its kind, what it was forked from, and its parent."""
        epoch = await store.claim("run")
        await store.save(checkpoint(kind="chain", forked_from="old"), epoch)
        inside = await store.claim("inside", parent=("run", epoch))
        await store.save(checkpoint("inside", kind="parallel"), inside)
        found = [(run.run_id, run.kind, run.forked_from, run.parent) for run in await store.list_runs()]
        wanted = [("run", "chain", "old", None), ("inside", "parallel", None, "run")]
        check(found == wanted, f"wrong: {found}")

    @case
    async def test_runs_are_listed_by_pages(self, store: CheckpointStore) -> None:
        """A page has at most `limit` runs after the run `after`, in order, whatever changes meanwhile."""
        names = ["c", "a", "d", "b", "e"]
        epochs = {run_id: await store.claim(run_id) for run_id in names}
        for run_id in sorted(names):
            await store.save(checkpoint(run_id), epochs[run_id])
        await store.claim("a claim alone")
        pages: list[list[str]] = []
        for _ in range(4):
            last = pages[-1][-1] if pages else None
            page = await store.list_runs(after=last, limit=2)
            pages.append([run.run_id for run in page])
            await store.save(checkpoint("c", step=len(pages)), epochs["c"])
        check(pages == [["c", "a"], ["d", "b"], ["e"], []], f"wrong pages: {pages}")
        rest = [run.run_id for run in await store.list_runs(after="d")]
        check(rest == ["b", "e"], f"wrong rest: {rest}")
        check(len(await store.list_runs(limit=9)) == 5, "a page that is not full is wrong")
        await refused(store.list_runs(after="nobody"), CheckpointNotFoundError)

    @case
    async def test_there_is_no_limit_to_a_list(self, store: CheckpointStore) -> None:
        """Without a limit all runs are listed."""
        for number in range(300):
            run_id = f"run {number}"
            await store.save_items(run_id, await store.claim(run_id), [("a", b"1")])
        check(len(await store.list_runs()) == 300, "runs are missing")

    @case
    async def test_a_run_with_items_alone_is_listed(self, store: CheckpointStore) -> None:
        """A fan-out, which has no steps, is listed too."""
        epoch = await store.claim("run")
        await store.save_items("run", epoch, [("a", b"1")])
        run = (await store.list_runs())[0]
        check((run.graph, run.step, run.items) == ("", 0, 1), f"wrong numbers: {run}")

    @case
    async def test_a_claim_alone_is_not_listed(self, store: CheckpointStore) -> None:
        """A run that was only claimed is not listed."""
        await store.claim("run")
        check(not await store.list_runs(), "a claim is listed")

    @case
    async def test_times_of_a_run_go_forward(self, store: CheckpointStore) -> None:
        """The creation time of a run does not change, and its update time does not go back."""
        epoch = await store.claim("run")
        await store.save(checkpoint(), epoch)
        first = (await store.list_runs())[0]
        await store.save(checkpoint(step=2), epoch)
        second = (await store.list_runs())[0]
        check(first.created_at == second.created_at, "the time of its first claim changed")
        check(first.updated_at <= second.updated_at, "times go back")

    @case
    async def test_delete_forgets_everything(self, store: CheckpointStore) -> None:
        """Nothing of a deleted run is left."""
        epoch = await store.claim("run")
        await store.save(checkpoint(), epoch)
        await store.save_items("run", epoch, [("a", b"1")])
        await store.delete("run")
        await refused(store.load("run"), CheckpointNotFoundError)
        check(not await store.history("run"), "its history is left")
        check(not await store.load_items("run"), "its items are left")

    @case
    async def test_delete_leaves_others_alone(self, store: CheckpointStore) -> None:
        """Only the named run is deleted."""
        for run_id in ("a", "b"):
            await store.save(checkpoint(run_id), await store.claim(run_id))
        await store.delete("a")
        check([run.run_id for run in await store.list_runs()] == ["b"], "the wrong run went")

    @case
    async def test_deleting_nothing_does_nothing(self, store: CheckpointStore) -> None:
        """Deleting twice, or an unknown run, is allowed."""
        await store.delete("run")
        await store.delete("run")

    @case
    async def test_a_deleted_run_can_begin_anew(self, store: CheckpointStore) -> None:
        """The id of a deleted run may be reused, with nothing left of the old run."""
        epoch = await store.claim("run")
        await store.save(checkpoint(step=9), epoch)
        await store.save_items("run", epoch, [("old", b"1")])
        await store.delete("run")
        epoch = await store.claim("run")
        await store.save(checkpoint(step=1), epoch)
        check([info.step for info in await store.history("run")] == [1], "steps of before are back")
        check(not await store.load_items("run"), "items of before are back")

    @case
    async def test_delete_with_an_older_epoch_does_nothing(self, store: CheckpointStore) -> None:
        """A delete with an older epoch does nothing, and raises nothing."""
        old = await store.claim("run")
        new = await store.claim("run")
        await store.save(checkpoint(), new)
        await store.save_items("run", new, [("a", b"1")])
        for epoch in (old, new + 1, 0):
            await store.delete("run", epoch)
        await store.delete("nobody", new)
        check(await store.load("run") == checkpoint(), "a step was deleted")
        check(dict(await store.load_items("run")) == {"a": b"1"}, "items were deleted")
        await store.save(checkpoint(step=2), new)

    @case
    async def test_delete_with_the_latest_epoch_forgets(self, store: CheckpointStore) -> None:
        """A delete with the latest epoch deletes the run and invalidates the epoch."""
        epoch = await store.claim("run")
        await store.save(checkpoint(), epoch)
        await store.delete("run", epoch)
        check(not await store.list_runs(), "the run was not deleted")
        await refused(store.save(checkpoint(), epoch), CheckpointConflictError)

    @case
    async def test_delete_takes_what_is_inside(self, store: CheckpointStore) -> None:
        """Child runs are deleted with their parent, at any depth, and no other runs are."""
        parent = await store.claim("parent")
        other = await store.claim("other")
        child = await store.claim("child", parent=("parent", parent))
        grandchild = await store.claim("grandchild", parent=("child", child))
        cousin = await store.claim("cousin", parent=("other", other))
        epochs = {"parent": parent, "child": child, "grandchild": grandchild, "other": other, "cousin": cousin}
        for run_id, epoch in epochs.items():
            await store.save(checkpoint(run_id), epoch)
            await store.save_items(run_id, epoch, [("a", b"1")])
        await store.delete("parent")
        check([run.run_id for run in await store.list_runs()] == ["other", "cousin"], "the wrong runs went")
        for run_id in ("child", "grandchild"):
            await refused(store.load(run_id), CheckpointNotFoundError)
            check(not await store.load_items(run_id), "items of a run inside are left")
            await refused(store.save(checkpoint(run_id), epochs[run_id]), CheckpointConflictError)
        await store.delete("cousin", cousin)
        check([run.run_id for run in await store.list_runs()] == ["other"], "a run inside cannot be deleted alone")
        await store.save(checkpoint("other", step=2), other)
