"""Queue, leases, signals and timers: what a store does for a service."""

from contextlib import AbstractAsyncContextManager
from typing import Any

import trio

from trioflow.checkpoint.protocol import RunInfo
from trioflow.checkpoint.service_protocol import Lease, LeaseRequest, Release, ServiceStore
from trioflow.errors import CheckpointConflictError, CheckpointMismatchError, CheckpointNotFoundError
from trioflow.testing._cases._support import ODD_NAMES, StoreCases, case, check, checkpoint, refused

_SHORT = 0.02
"""Seconds of a lease that is to end."""
_PATIENCE = 5.0
"""Seconds that what has to come is waited for."""


class ServiceCases(StoreCases):
    """Queue, leases, signals and timers: what a store does for a service."""

    def open_store(self) -> AbstractAsyncContextManager[ServiceStore]:
        """Return a context manager that opens an empty store of the kind to be tested."""
        raise NotImplementedError("override open_store: return a context manager that opens an empty store")

    @case
    async def test_a_submitted_run_is_kept_and_listed(self, store: Any) -> None:
        """A submitted run is stored with its state, and queued."""
        first = checkpoint(step=0, node="", next_node="")
        await store.submit(first, 0.0)
        check(await store.load("run") == first, "the state is not what was submitted")
        check([run.status for run in await store.list_runs()] == ["queued"], "it is not listed as queued")
        check((await store.look("run")).status == "queued", "its status is not queued")

    @case
    async def test_a_run_is_submitted_once(self, store: Any) -> None:
        """Submitting under an existing id is refused, whoever created the run."""
        await store.submit(checkpoint(step=0), 0.0)
        await store.claim("claimed")
        await refused(store.submit(checkpoint(step=0, state=b"other"), 0.0), CheckpointMismatchError)
        await refused(store.submit(checkpoint("claimed", step=0), 0.0), CheckpointMismatchError)
        check((await store.load("run")).state == b"state 0", "a refused submission changed something")

    @case
    async def test_runs_are_given_in_their_order(self, store: Any) -> None:
        """Runs are leased first come, first served, up to the room, and each once."""
        for name in ("c", "a", "b", "d"):
            await store.submit(checkpoint(name, step=0), 0.0)
        check([lease.run_id for lease in await _take(store, room=3)] == ["c", "a", "b"], "not in their order")
        check([lease.run_id for lease in await _take(store)] == ["d"], "a run was given twice")
        check(not await _take(store), "a run was given twice")

    @case
    async def test_runs_are_given_to_who_can_make_them(self, store: Any) -> None:
        """Runs of other graphs, and refused ones, are not leased."""
        await store.submit(checkpoint("other", step=0, graph="other"), 0.0)
        await store.submit(checkpoint("refused", step=0), 0.0)
        await store.submit(checkpoint("run", step=0), 0.0)
        check([lease.run_id for lease in await _take(store, refused=["refused"])] == ["run"], "a wrong run")
        check([lease.run_id for lease in await _take(store, graphs=["other"])] == ["other"], "a run was not given")
        check(not await _take(store, graphs=[]), "a run was leased to a process without graphs")

    @case
    async def test_a_run_is_given_when_its_delay_is_over(self, store: Any) -> None:
        """A run is not leased before it is due, and `next_due` says when."""
        await store.submit(checkpoint(step=0), 0.2)
        grant = await store.lease(_request())
        check(not grant.taken, "a run was given before its time")
        check(grant.next_due is not None and 0 < grant.next_due <= 0.2, f"next due in {grant.next_due}")
        await trio.sleep(0.25)
        check(len(await _take(store)) == 1, "a run was not given at its time")

    @case
    async def test_who_takes_a_run_may_save(self, store: Any) -> None:
        """The lease's epoch is the run's latest, and higher than all before."""
        before = await store.claim("before")
        await store.submit(checkpoint(step=0), 0.0)
        (lease,) = await _take(store)
        check(lease.epoch > before, "the epoch is not higher")
        await store.save(checkpoint(step=1), lease.epoch)
        check([run.status for run in await store.list_runs()] == ["running"], "it is not listed as running")

    @case
    async def test_a_lease_that_ends_gives_the_run_to_another(self, store: Any) -> None:
        """The former holder can no longer save, release, finish or take signals, and has no lease to renew."""
        await store.submit(checkpoint(step=0), 0.0)
        (old,) = await _take(store, lease=_SHORT)
        child = await store.claim("run..0/a", parent=("run", old.epoch))
        await trio.sleep(2 * _SHORT)
        (new,) = await _take(store)
        check(new.epoch > old.epoch, "the epoch is not higher")
        await refused(store.save(checkpoint(), old.epoch), CheckpointConflictError)
        await refused(store.save(checkpoint("run..0/a"), child), CheckpointConflictError)
        await refused(store.release("run", old.epoch, Release(status="queued", delay=0)), CheckpointConflictError)
        await refused(store.finish("run", old.epoch, "failed", b"x"), CheckpointConflictError)
        await refused(store.take_signal("run", old.epoch, "a", "1"), CheckpointConflictError)
        grant = await store.lease(_request(held=[("run", old.epoch)], room=0))
        check(not grant.held, "the former holder still holds the run")
        await store.save(checkpoint(), new.epoch)

    @case
    async def test_a_lease_is_prolonged(self, store: Any) -> None:
        """A lease renewed in time is kept; so is an expired one, if no other process has taken the run."""
        await store.submit(checkpoint(step=0), 0.0)
        (lease,) = await _take(store, lease=_SHORT)
        for seconds in (0.0, 2 * _SHORT):
            await trio.sleep(seconds)
            grant = await store.lease(_request(held=[("run", lease.epoch)], lease=30.0))
            check(dict(grant.held) == {"run": False}, "a run that nobody took was lost")
            check(not grant.taken, "a held run was leased to its holder again")
            check(not await _take(store), "a held run was leased to another process")
            await store.lease(_request(held=[("run", lease.epoch)], lease=_SHORT))
        await store.save(checkpoint(), lease.epoch)

    @case
    async def test_who_prolongs_late_keeps_its_place_in_the_limit(self, store: Any) -> None:
        """A lease that has ended and is prolonged counts: no other run is given for it."""
        for name in ("a", "b"):
            await store.submit(checkpoint(name, step=0), 0.0)
        limits = {"graph": 1}
        (lease,) = await _take(store, lease=_SHORT, limits=limits)
        await trio.sleep(2 * _SHORT)
        grant = await store.lease(_request(held=[(lease.run_id, lease.epoch)], limits=limits))
        check(dict(grant.held) == {lease.run_id: False}, "a run that nobody took was lost")
        check(not grant.taken, "a run was given over the limit")

    @case
    async def test_limits_hold(self, store: Any) -> None:
        """A graph's limit holds over all processes, and does not delay other graphs."""
        for number in range(4):
            await store.submit(checkpoint(f"limited {number}", step=0, graph="limited"), 0.0)
        await store.submit(checkpoint("free", step=0), 0.0)
        graphs, limits = ["limited", "graph"], {"limited": 2}
        taken = await _take(store, graphs=graphs, limits=limits)
        check([lease.run_id for lease in taken] == ["limited 0", "limited 1", "free"], f"given were {taken}")
        check(not await _take(store, graphs=graphs, limits=limits), "more were given than the limit allows")
        await store.finish("limited 0", taken[0].epoch, "completed", b"")
        await store.release("limited 1", taken[1].epoch, Release(status="parked", delay=60.0))
        again = await _take(store, graphs=graphs, limits=limits)
        check([lease.run_id for lease in again] == ["limited 2", "limited 3"], "a place was not given on")

    @case
    async def test_a_run_left_behind_comes_before_others_under_its_limit(self, store: Any) -> None:
        """A run with an expired lease counts towards the limit, and is leased first."""
        for name in ("first", "second"):
            await store.submit(checkpoint(name, step=0), 0.0)
        taken = await _take(store, limits={"graph": 1}, lease=_SHORT)
        check([lease.run_id for lease in taken] == ["first"], "the order is wrong")
        await trio.sleep(2 * _SHORT)
        held = await _take(store, limits={"graph": 1}, refused=["first"])
        check(not held, "another run was leased in place of one whose lease has expired")
        check([lease.run_id for lease in await _take(store, limits={"graph": 1})] == ["first"], "not taken over")

    @case
    async def test_a_run_that_is_let_go_of_comes_back_when_due(self, store: Any) -> None:
        """A released run is listed with its status and reason; a delay of None is never, 0 at once."""
        await store.submit(checkpoint(step=0), 0.0)
        (lease,) = await _take(store)
        await store.release("run", lease.epoch, Release(status="parked", delay=None, reason="a wait"))
        (info,) = await store.list_runs()
        check((info.status, info.reason) == ("parked", "a wait"), f"it is listed as {info}")
        grant = await store.lease(_request())
        check(not grant.taken and grant.next_due is None, "a run that waits for a signal was given")
        await store.put_signal("run", "other", b"1")
        check(not await _take(store), "another signal woke it")
        await store.request_cancel("run")
        check((await store.look("run")).status == "cancelled", "it was not cancelled")

    @case
    async def test_a_signal_wakes_who_waits_for_it(self, store: Any) -> None:
        """A signal wakes the run whether it arrives before or after the release."""
        await store.submit(checkpoint(step=0), 0.0)
        (lease,) = await _take(store)
        for early in (False, True):
            if early:
                await store.put_signal("run", "go", b"early")
            await store.release("run", lease.epoch, Release(status="parked", delay=None, waits_for="go"))
            if not early:
                await store.put_signal("run", "go", b"late")
            (lease,) = await _take(store)
            payload = await store.take_signal("run", lease.epoch, "go", f"wait {early}")
            check(payload == (b"early" if early else b"late"), f"the signal was {payload}")

    @case
    async def test_a_signal_is_taken_once(self, store: Any) -> None:
        """The oldest signal of a name is taken first; a repeated wait gets the same one, in a new epoch too."""
        await store.submit(checkpoint(step=0), 0.0)
        for number in range(3):
            await store.put_signal("run", "go", b"%d" % number)
        await store.put_signal("run", "other", b"x")
        (lease,) = await _take(store, lease=_SHORT)
        first = [await store.take_signal("run", lease.epoch, "go", wait) for wait in ("a", "b", "a")]
        check(first == [b"0", b"1", b"0"], f"taken were {first}")
        await trio.sleep(2 * _SHORT)
        (lease,) = await _take(store)
        later = [await store.take_signal("run", lease.epoch, "go", wait) for wait in ("b", "c", "d", "a")]
        check(later == [b"1", b"2", None, b"0"], f"taken later were {later}")

    @case
    async def test_signals_reach_runs_that_were_not_submitted(self, store: Any) -> None:
        """Any stored run may receive signals; an unknown one may not."""
        epoch = await store.claim("run")
        await store.put_signal("run", "go", b"1")
        check(await store.take_signal("run", epoch, "go", "a") == b"1", "the signal was lost")
        for call in (store.put_signal("gone", "go", b""), store.request_cancel("gone"), store.look("gone")):
            await refused(call, CheckpointNotFoundError)
        await refused(store.take_signal("gone", 1, "go", "a"), CheckpointConflictError)
        await refused(store.look("run"), CheckpointNotFoundError)
        await refused(store.request_cancel("run"), CheckpointNotFoundError)

    @case
    async def test_a_finished_run_stays_with_its_outcome(self, store: Any) -> None:
        """A finished run is not leased, signalled or cancelled again."""
        await store.submit(checkpoint(step=0), 0.0)
        (lease,) = await _take(store)
        await store.finish("run", lease.epoch, "failed", b"outcome", "it failed")
        found = await store.look("run")
        check((found.status, found.outcome, found.reason) == ("failed", b"outcome", "it failed"), f"it is {found}")
        await store.request_cancel("run")
        check((await store.look("run")).status == "failed", "a run that had ended was cancelled")
        await refused(store.put_signal("run", "go", b""), CheckpointMismatchError)
        grant = await store.lease(_request(held=[("run", lease.epoch)]))
        check(not grant.taken and not grant.held and grant.next_due is None, f"it was given: {grant}")

    @case
    async def test_who_has_a_cancelled_run_is_told(self, store: Any) -> None:
        """A cancellation of a held run reaches its holder, and its release cancels it."""
        await store.submit(checkpoint(step=0), 0.0)
        (lease,) = await _take(store, lease=_SHORT)
        await store.request_cancel("run")
        grant = await store.lease(_request(held=[("run", lease.epoch)], lease=_SHORT))
        check(dict(grant.held) == {"run": True}, "the holder did not learn of the cancellation")
        await trio.sleep(2 * _SHORT)
        (later,) = await _take(store)
        check(later.is_cancelled, "the next holder did not learn of the cancellation")
        await store.release("run", later.epoch, Release(status="parked", delay=0.0))
        check((await store.look("run")).status == "cancelled", "it was not cancelled")

    @case
    async def test_a_deleted_run_is_gone(self, store: Any) -> None:
        """Deleting a run deletes its signals and its place in the queue, and frees the id."""
        await store.submit(checkpoint(step=0), 0.0)
        await store.put_signal("run", "go", b"old")
        await store.delete("run")
        await refused(store.look("run"), CheckpointNotFoundError)
        check(not await _take(store), "a deleted run was given")
        await store.submit(checkpoint(step=0), 0.0)
        (lease,) = await _take(store)
        check(await store.take_signal("run", lease.epoch, "go", "a") is None, "an old signal is back")

    @case
    async def test_who_waits_for_a_change_is_woken(self, store: Any) -> None:
        """Submitting, signalling, releasing, finishing, deleting are changes; none between two waits is missed."""
        seen = await store.wait_for_change(None, 0.02)
        await store.submit(checkpoint(step=0), 0.0)
        seen = await store.wait_for_change(seen, 0.02)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(store.put_signal, "run", "go", b"")
            seen = await store.wait_for_change(seen, 0.02)
        await store.delete("run")
        with trio.move_on_after(_PATIENCE) as scope:
            seen = await store.wait_for_change(seen, 0.02)
        check(not scope.cancelled_caught, "who waits is not told of a run that was deleted")
        with trio.move_on_after(0.1) as scope:
            while True:
                seen = await store.wait_for_change(seen, 0.02)
        check(scope.cancelled_caught, "changes never end")

    @case
    async def test_leases_at_once_give_each_run_once(self, store: Any) -> None:
        """Each run is leased once, however many processes ask."""
        names = {f"run {number}" for number in range(12)}
        for name in sorted(names):
            await store.submit(checkpoint(name, step=0), 0.0)
        taken: list[str] = []

        async def take() -> None:
            taken.extend([lease.run_id for lease in await _take(store, room=2)])

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(take)
        check(len(taken) == len(set(taken)) == 12, f"taken were {sorted(taken)}")

    @case
    async def test_those_that_have_ended_are_named(self, store: Any) -> None:
        """`ended` returns all runs that have ended, and those that were never submitted."""
        for name in ("waits", "runs", "completed", "cancelled"):
            await store.submit(checkpoint(name, step=0), 1e6 if name in {"waits", "cancelled"} else 0.0)
        await store.request_cancel("cancelled")
        leases = {lease.run_id: lease.epoch for lease in await _take(store)}
        await store.finish("completed", leases["completed"], "completed", b"1")
        asked = ["runs", "unknown", "cancelled", "waits", "completed"]
        found = await store.ended(asked)
        check(sorted(found) == ["cancelled", "completed", "unknown"], f"ended are {found}")
        check(not await store.ended([]), "of none, some have ended")

    @case
    async def test_odd_names_are_names(self, store: Any) -> None:
        """Unusual names of signals and waits, and unusual reasons, are stored exactly."""
        await store.submit(checkpoint(step=0), 0.0)
        (lease,) = await _take(store)
        for name in ODD_NAMES:
            await store.put_signal("run", name, name.encode())
        for name in ODD_NAMES:
            found = await store.take_signal("run", lease.epoch, name, name)
            check(found == name.encode(), f"the signal {name!r} was {found!r}")
        await store.release("run", lease.epoch, Release(status="blocked", delay=0.0, reason=ODD_NAMES[0]))
        infos: list[RunInfo] = await store.list_runs()
        check(infos[0].reason == ODD_NAMES[0], f"the reason is {infos[0].reason!r}")

    @case
    async def test_a_second_store_serves_the_same_runs(self, store: Any) -> None:
        """Two stores on the same storage share leases, signals and outcomes."""
        async with self.open_store() as second:
            await store.submit(checkpoint(step=0), 0.0)
            if not await second.list_runs():
                check(not self.durable, "one store does not see what the other saved")
                return
            seen = await store.wait_for_change(None, 0.02)
            (lease,) = await _take(second)
            check(not await _take(store), "one run was given to both")
            seen = await store.wait_for_change(seen, 0.02)
            await store.put_signal("run", "go", b"1")
            check(await second.take_signal("run", lease.epoch, "go", "a") == b"1", "the signal was lost")
            await second.finish("run", lease.epoch, "completed", b"outcome")
            await store.wait_for_change(seen, 0.02)
            check((await store.look("run")).outcome == b"outcome", "the outcome was lost")


def _request(**changes: Any) -> LeaseRequest:
    fields: dict[str, Any] = {"graphs": ["graph"], "room": 10, "limits": {}, "lease": 30.0}
    return LeaseRequest(**{**fields, **changes})


async def _take(store: ServiceStore, **changes: Any) -> list[Lease]:
    """Return the runs that `store` gives.

    Cancellation: passes through.
    """
    return list((await store.lease(_request(**changes))).taken)
