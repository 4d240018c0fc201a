"""Checkpoints: every field comes back, and every step."""

from typing import Any

import msgspec

from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.errors import CheckpointNotFoundError
from trioflow.testing.cases._support import ODD_NAMES, check, checkpoint, refused

__all__ = (
    "SEVERAL",
    "SIZES",
    "STATUSES",
    "a_checkpoint_comes_back_equal",
    "a_claimed_run_without_a_step_is_not_found",
    "a_pause_of_nothing_is_no_pause",
    "a_step_saved_again_is_replaced",
    "an_earlier_step_saved_later_is_the_latest",
    "an_unknown_run_is_not_found",
    "an_unknown_step_is_not_found",
    "claiming_again_keeps_the_steps",
    "each_step_can_be_loaded",
    "item_key_is_kept",
    "large_numbers_are_kept",
    "odd_names_are_told_apart",
    "run_id_is_kept",
    "runs_do_not_mix",
    "state_of_size",
    "status_comes_back",
    "step_zero_is_a_step",
    "the_digest_is_left_as_it_is",
    "the_latest_is_loaded_by_default",
)

STATUSES = {status: status for status in ("running", "completed", "paused", "failed", "cancelled")}
SIZES = {"empty": 0, "one_byte": 1, "page": 4_096, "large": 3_000_000}
SEVERAL: dict[str, dict[str, Any]] = {
    "status_comes_back": STATUSES,
    "state_of_size": SIZES,
    "run_id_is_kept": ODD_NAMES,
    "item_key_is_kept": ODD_NAMES,
}
"""Cases that there is one of for each value."""


async def a_checkpoint_comes_back_equal(store: CheckpointStore) -> None:
    """Every field of a checkpoint survives."""
    epoch = await store.claim("run")
    saved = checkpoint(pause=b"payload", status="paused")
    await store.save(saved, epoch)
    check(await store.load("run") == saved, "a checkpoint came back changed")


async def the_latest_is_loaded_by_default(store: CheckpointStore) -> None:
    """Without a step, the one that was saved last is loaded."""
    epoch = await store.claim("run")
    for step in (1, 2, 3):
        await store.save(checkpoint(step=step), epoch)
    check((await store.load("run")).step == 3, "not the latest step was loaded")


async def each_step_can_be_loaded(store: CheckpointStore) -> None:
    """Earlier steps are kept."""
    epoch = await store.claim("run")
    for step in (1, 2, 3):
        await store.save(checkpoint(step=step), epoch)
    for step in (1, 2, 3):
        check(await store.load("run", step) == checkpoint(step=step), f"step {step} came back changed")


async def a_step_saved_again_is_replaced(store: CheckpointStore) -> None:
    """One step has one checkpoint, the newest."""
    epoch = await store.claim("run")
    await store.save(checkpoint(), epoch)
    newer = checkpoint(status="failed", state=b"newer")
    await store.save(newer, epoch)
    check(await store.load("run") == newer, "the older checkpoint is still there")
    check(len(await store.history("run")) == 1, "one step has two checkpoints")


async def an_unknown_run_is_not_found(store: CheckpointStore) -> None:
    """Loading what was never saved is an error of its own."""
    await refused(store.load("run"), CheckpointNotFoundError)


async def an_unknown_step_is_not_found(store: CheckpointStore) -> None:
    """So is loading a step that is not there."""
    epoch = await store.claim("run")
    await store.save(checkpoint(), epoch)
    for step in (0, 2, -1, 10**9):
        await refused(store.load("run", step), CheckpointNotFoundError)


async def a_claimed_run_without_a_step_is_not_found(store: CheckpointStore) -> None:
    """A claim alone keeps nothing."""
    await store.claim("run")
    await refused(store.load("run"), CheckpointNotFoundError)


async def claiming_again_keeps_the_steps(store: CheckpointStore) -> None:
    """A new epoch changes nothing of what is kept."""
    epoch = await store.claim("run")
    await store.save(checkpoint(), epoch)
    await store.claim("run")
    check(await store.load("run") == checkpoint(), "a claim changed a checkpoint")


async def step_zero_is_a_step(store: CheckpointStore) -> None:
    """The step before the first can be kept."""
    epoch = await store.claim("run")
    await store.save(checkpoint(step=0, node=""), epoch)
    check((await store.load("run", 0)).step == 0, "step 0 is not there")
    check((await store.load("run")).step == 0, "step 0 is not the latest")


async def an_earlier_step_saved_later_is_the_latest(store: CheckpointStore) -> None:
    """What was saved last is the latest, whatever its number."""
    epoch = await store.claim("run")
    await store.save(checkpoint(step=5), epoch)
    await store.save(checkpoint(step=2), epoch)
    check((await store.load("run")).step == 2, "the last save is not the latest")


async def runs_do_not_mix(store: CheckpointStore) -> None:
    """Two runs have each their own steps and items."""
    for run_id in ("a", "b"):
        epoch = await store.claim(run_id)
        await store.save(checkpoint(run_id, state=run_id.encode()), epoch)
        await store.save_items(run_id, epoch, [("k", run_id.encode())])
    for run_id in ("a", "b"):
        check((await store.load(run_id)).state == run_id.encode(), "states are mixed up")
        check(dict(await store.load_items(run_id)) == {"k": run_id.encode()}, "items are mixed up")


async def status_comes_back(status: str, store: CheckpointStore) -> None:
    """A run can stand so."""
    epoch = await store.claim("run")
    await store.save(checkpoint(status=status), epoch)
    check((await store.load("run")).status == status, "the status came back changed")
    check((await store.list_runs())[0].status == status, "the run is listed with another status")


async def state_of_size(size: int, store: CheckpointStore) -> None:
    """A state of this size survives, whatever bytes it has."""
    epoch = await store.claim("run")
    state = bytes(range(256)) * (size // 256) + bytes(range(size % 256))
    await store.save(checkpoint(state=state), epoch)
    check((await store.load("run")).state == state, "the state came back changed")


async def run_id_is_kept(name: str, store: CheckpointStore) -> None:
    """A run may have this id, and nodes and graphs this name."""
    epoch = await store.claim(name)
    saved = checkpoint(name, graph=name, node=name, next_node=name)
    await store.save(saved, epoch)
    check(await store.load(name) == saved, "a checkpoint came back changed")
    check([run.run_id for run in await store.list_runs()] == [name], "the run is listed under another id")
    await store.delete(name)
    check(not await store.list_runs(), "the run was not deleted")


async def item_key_is_kept(name: str, store: CheckpointStore) -> None:
    """An item may have this key."""
    epoch = await store.claim("run")
    await store.save_items("run", epoch, [(name, b"1"), ("other", b"2")])
    check(dict(await store.load_items("run")) == {name: b"1", "other": b"2"}, "an item came back changed")


async def odd_names_are_told_apart(store: CheckpointStore) -> None:
    """Ids that look alike are different runs."""
    for run_id in ("run", "RUN", "run ", " run", "r_n", "r%n", "run\0"):
        epoch = await store.claim(run_id)
        await store.save(checkpoint(run_id, state=run_id.encode()), epoch)
    check(len(await store.list_runs()) == 7, "two ids were taken for one")
    check((await store.load("run")).state == b"run", "ids were mixed up")


async def large_numbers_are_kept(store: CheckpointStore) -> None:
    """Steps and iterations may be large."""
    epoch = await store.claim("run")
    saved = checkpoint(step=2**53, iterations=2**60)
    await store.save(saved, epoch)
    check(await store.load("run") == saved, "a number came back changed")


async def a_pause_of_nothing_is_no_pause(store: CheckpointStore) -> None:
    """None and empty bytes are different."""
    epoch = await store.claim("run")
    await store.save(checkpoint(pause=b""), epoch)
    check((await store.load("run")).pause == b"", "an empty payload became none")
    await store.save(checkpoint(pause=None), epoch)
    check((await store.load("run")).pause is None, "no payload became one")


async def the_digest_is_left_as_it_is(store: CheckpointStore) -> None:
    """The digest is the library's: a store neither makes nor checks it."""
    epoch = await store.claim("run")
    saved = msgspec.structs.replace(checkpoint(), digest="not a digest")
    await store.save(saved, epoch)
    check((await store.load("run")).digest == "not a digest", "the digest was changed")
