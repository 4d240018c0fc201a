"""Checkpoints: every field comes back, and every step."""

import msgspec

from trioflow.checkpoint.protocol import CheckpointStore, RunStatus
from trioflow.errors import CheckpointNotFoundError
from trioflow.testing._cases._support import ODD_NAMES, StoreCases, case, check, checkpoint, refused

STATUSES: tuple[RunStatus, ...] = ("running", "completed", "paused", "failed", "cancelled")
SIZES = (0, 1, 4_096, 3_000_000, 9 << 20)


class StepCases(StoreCases):
    """Checkpoints: every field comes back, and every step."""

    @case
    async def test_a_checkpoint_comes_back_equal(self, store: CheckpointStore) -> None:
        """Every field of a checkpoint survives."""
        epoch = await store.claim("run")
        saved = checkpoint(pause=b"payload", status="paused", kind="chain", forked_from="another")
        await store.save(saved, epoch)
        check(await store.load("run") == saved, "a checkpoint came back changed")

    @case
    async def test_the_latest_is_loaded_by_default(self, store: CheckpointStore) -> None:
        """Without a step, the one that was saved last is loaded."""
        epoch = await store.claim("run")
        for step in (1, 2, 3):
            await store.save(checkpoint(step=step), epoch)
        check((await store.load("run")).step == 3, "not the latest step was loaded")

    @case
    async def test_each_step_can_be_loaded(self, store: CheckpointStore) -> None:
        """Earlier steps are kept."""
        epoch = await store.claim("run")
        for step in (1, 2, 3):
            await store.save(checkpoint(step=step), epoch)
        for step in (1, 2, 3):
            check(await store.load("run", step) == checkpoint(step=step), f"step {step} came back changed")

    @case
    async def test_a_step_saved_again_is_replaced(self, store: CheckpointStore) -> None:
        """One step has one checkpoint, the newest."""
        epoch = await store.claim("run")
        await store.save(checkpoint(), epoch)
        newer = checkpoint(status="failed", state=b"newer")
        await store.save(newer, epoch)
        check(await store.load("run") == newer, "the older checkpoint is still there")
        check(len(await store.history("run")) == 1, "one step has two checkpoints")

    @case
    async def test_an_unknown_run_is_not_found(self, store: CheckpointStore) -> None:
        """Loading an unknown run raises `CheckpointNotFoundError`."""
        await refused(store.load("run"), CheckpointNotFoundError)

    @case
    async def test_an_unknown_step_is_not_found(self, store: CheckpointStore) -> None:
        """So does loading an unknown step."""
        epoch = await store.claim("run")
        await store.save(checkpoint(), epoch)
        for step in (0, 2, -1, 10**9):
            await refused(store.load("run", step), CheckpointNotFoundError)

    @case
    async def test_a_claimed_run_without_a_step_is_not_found(self, store: CheckpointStore) -> None:
        """A claim alone saves no step."""
        await store.claim("run")
        await refused(store.load("run"), CheckpointNotFoundError)

    @case
    async def test_claiming_again_keeps_the_steps(self, store: CheckpointStore) -> None:
        """A new epoch does not change the steps."""
        epoch = await store.claim("run")
        await store.save(checkpoint(), epoch)
        await store.claim("run")
        check(await store.load("run") == checkpoint(), "a claim changed a checkpoint")

    @case
    async def test_step_zero_is_a_step(self, store: CheckpointStore) -> None:
        """Step 0 can be saved."""
        epoch = await store.claim("run")
        await store.save(checkpoint(step=0, node=""), epoch)
        check((await store.load("run", 0)).step == 0, "step 0 is not there")
        check((await store.load("run")).step == 0, "step 0 is not the latest")

    @case
    async def test_an_earlier_step_saved_later_is_the_latest(self, store: CheckpointStore) -> None:
        """What was saved last is the latest, whatever its number."""
        epoch = await store.claim("run")
        await store.save(checkpoint(step=5), epoch)
        await store.save(checkpoint(step=2), epoch)
        check((await store.load("run")).step == 2, "the last save is not the latest")

    @case
    async def test_runs_do_not_mix(self, store: CheckpointStore) -> None:
        """Each run has its own steps and items."""
        for run_id in ("a", "b"):
            epoch = await store.claim(run_id)
            await store.save(checkpoint(run_id, state=run_id.encode()), epoch)
            await store.save_items(run_id, epoch, [("k", run_id.encode())])
        for run_id in ("a", "b"):
            check((await store.load(run_id)).state == run_id.encode(), "states are mixed up")
            check(dict(await store.load_items(run_id)) == {"k": run_id.encode()}, "items are mixed up")

    @case
    async def test_every_status_comes_back(self, store: CheckpointStore) -> None:
        """Every status can be saved."""
        for status in STATUSES:
            await store.save(checkpoint(status, status=status), await store.claim(status))
        for run in await store.list_runs():
            check(run.status == run.run_id, f"{run.run_id} is listed as {run.status}")
            check((await store.load(run.run_id)).status == run.run_id, f"{run.run_id} came back changed")

    @case
    async def test_states_of_any_size_come_back(self, store: CheckpointStore) -> None:
        """A state survives, whatever its size and contents."""
        epoch = await store.claim("run")
        for size in SIZES:
            state = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
            await store.save(checkpoint(state=state), epoch)
            check((await store.load("run")).state == state, f"a state of {size} bytes came back changed")

    @case
    async def test_odd_run_ids_are_kept(self, store: CheckpointStore) -> None:
        """Runs may have any id, and nodes and graphs any name."""
        for name in ODD_NAMES:
            epoch = await store.claim(name)
            saved = checkpoint(name, graph=name, node=name, next_node=name)
            await store.save(saved, epoch)
            check(await store.load(name) == saved, f"the checkpoint of run {name!r} came back changed")
            listed = [run.run_id for run in await store.list_runs()]
            check(listed == [name], f"run {name!r} is listed as {listed}")
            await store.delete(name)
            check(not await store.list_runs(), f"run {name!r} was not deleted")

    @case
    async def test_odd_item_keys_are_kept(self, store: CheckpointStore) -> None:
        """An item may have any key."""
        epoch = await store.claim("run")
        batch = [(name, b"%d" % number) for number, name in enumerate(ODD_NAMES)]
        await store.save_items("run", epoch, batch)
        check(dict(await store.load_items("run")) == dict(batch), "an item came back changed")

    @case
    async def test_odd_names_are_told_apart(self, store: CheckpointStore) -> None:
        """Ids that look alike are different runs."""
        for run_id in ("run", "RUN", "run ", " run", "r_n", "r%n", "run\0", "\u00e9", "e\u0301"):
            epoch = await store.claim(run_id)
            await store.save(checkpoint(run_id, state=run_id.encode()), epoch)
        check(len(await store.list_runs()) == 9, "two ids were treated as one")
        check((await store.load("run")).state == b"run", "ids were mixed up")
        check((await store.load("\u00e9")).state == "\u00e9".encode(), "ids were mixed up")

    @case
    async def test_large_numbers_are_kept(self, store: CheckpointStore) -> None:
        """Steps and iterations may be large."""
        epoch = await store.claim("run")
        saved = checkpoint(step=2**53, iterations=2**60)
        await store.save(saved, epoch)
        check(await store.load("run") == saved, "a number came back changed")

    @case
    async def test_a_pause_of_nothing_is_no_pause(self, store: CheckpointStore) -> None:
        """None and empty bytes are different."""
        epoch = await store.claim("run")
        await store.save(checkpoint(pause=b""), epoch)
        check((await store.load("run")).pause == b"", "an empty payload became none")
        await store.save(checkpoint(pause=None), epoch)
        check((await store.load("run")).pause is None, "no payload became one")

    @case
    async def test_the_digest_is_left_as_it_is(self, store: CheckpointStore) -> None:
        """The digest is the library's: a store neither computes nor checks it."""
        epoch = await store.claim("run")
        saved = msgspec.structs.replace(checkpoint(), digest="not a digest")
        await store.save(saved, epoch)
        check((await store.load("run")).digest == "not a digest", "the digest was changed")
