"""How many items, on how many machines, does one store keep up with?

    python benchmarks/simulate_scale.py [--items 1e8] [--machines 1000] [--stores 1] [--batch 1000] [...]

Nothing is called and nothing is written: the machines, the batches that they write and the leases that they renew
are tasks on a `MockClock`, and each takes what its unit cost says. The cost of a call over an executor is that
of `bench_executors.py`; those of a commit, a row and a lease are for the store that `bench_durable.py` was
run on. What is found is a queue, so it says where waiting begins, and not only where the sums stop adding up.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import trio
from trio.testing import MockClock


@dataclass(frozen=True)
class Plan:
    """What is to be simulated; times in seconds."""

    items: int
    machines: int
    stores: int
    writers: int
    workers: int
    call: float
    overhead: float
    batch: int
    lease: float
    commit: float
    row: float
    renewal: float

    @property
    def machine_rate(self) -> float:
        """Items a second that a machine completes: its workers, or its loop where that is less."""
        return min(self.workers / self.call, 1 / self.overhead)

    @property
    def ideal(self) -> float:
        return self.items / self.machines / self.machine_rate

    @property
    def load(self) -> float:
        """Of what the stores can do, the share that is asked of them; over 1 they fall behind."""
        rate = self.machines * self.machine_rate
        writing = rate * (self.row + self.commit / self.batch)
        leasing = self.machines * self.renewal / (self.lease / 3)
        return (writing + leasing) / (self.stores * self.writers)


@dataclass
class Found:
    """What happened."""

    seconds: float = 0.0
    busy: float = 0.0
    waits: list[float] = field(default_factory=list)
    renewals: int = 0
    late_leases: int = 0


async def simulate(plan: Plan) -> Found:
    found = Found()
    stores = [trio.CapacityLimiter(plan.writers) for _ in range(plan.stores)]
    share = plan.items // plan.machines

    async def use(store: trio.CapacityLimiter, seconds: float) -> float:
        asked = trio.current_time()
        async with store:
            waited = trio.current_time() - asked
            await trio.sleep(seconds)
            found.busy += seconds
        return waited

    async def renew(store: trio.CapacityLimiter, number: int) -> None:
        await trio.sleep(plan.lease / 3 * number / plan.machines)
        while True:
            began = trio.current_time()
            await use(store, plan.renewal)
            found.renewals += 1
            found.late_leases += trio.current_time() - began > plan.lease * 2 / 3
            await trio.sleep(plan.lease / 3)

    async def work(store: trio.CapacityLimiter, number: int) -> None:
        """Compute the machine's own partition; one batch is written while the next is computed."""
        async with trio.open_nursery() as own:
            own.start_soon(renew, store, number)
            # Machines do not start in step, and their batches do not arrive in step.
            await trio.sleep(plan.batch / plan.machine_rate * number / plan.machines)
            written = trio.Event()
            written.set()
            for begin in range(0, share, plan.batch):
                size = min(plan.batch, share - begin)
                await trio.sleep(size / plan.machine_rate)
                await written.wait()
                written = trio.Event()
                own.start_soon(write, store, size, written)
            await written.wait()
            own.cancel_scope.cancel()

    async def write(store: trio.CapacityLimiter, size: int, written: trio.Event) -> None:
        found.waits.append(await use(store, plan.commit + size * plan.row))
        written.set()

    async with trio.open_nursery() as nursery:
        for number in range(plan.machines):
            nursery.start_soon(work, stores[number % plan.stores], number)
    found.seconds = trio.current_time()
    return found


def percentile(values: Sequence[float], share: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))] if ordered else 0.0


def show(plan: Plan, found: Found) -> None:
    used = found.busy / (found.seconds * plan.stores * plan.writers)
    print(f"{plan.items:,} items on {plan.machines:,} machines, {plan.stores} stores of {plan.writers} writers each")  # noqa: E501
    print(f"  asked of the stores               {plan.load:8.0%} of what they can do")
    print(f"  it takes                          {found.seconds:8,.0f} s, {found.seconds / plan.ideal:.2f} times the ideal")  # noqa: E501
    print(f"  rows a second                     {plan.items / found.seconds:8,.0f}")
    print(f"  the stores are busy               {used:8.0%}")
    waits = percentile(found.waits, 0.5), percentile(found.waits, 0.99)
    print(f"  a batch waits, p50 and p99        {waits[0]:8.3f} s {waits[1]:8.3f} s")
    print(f"  leases renewed, too late          {found.renewals:8,} {found.late_leases:8,}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options: dict[str, tuple[type, float, str]] = {
        "items": (float, 1e8, "items in all"),
        "machines": (int, 1_000, "machines, each with a partition of its own"),
        "stores": (int, 1, "servers that the partitions are spread over"),
        "writers": (int, 8, "batches that a server writes at once, by its cores"),
        "workers": (int, 64, "calls that a machine has in hand"),
        "call": (float, 1.0, "seconds of a call"),
        "overhead": (float, 25e-6, "seconds of the loop for a call: bench_executors.py, 100 at a time"),
        "batch": (int, 1_000, "rows of a commit"),
        "lease": (float, 30.0, "seconds of a lease, renewed after a third"),
        "commit": (float, 2e-3, "seconds of a commit"),
        "row": (float, 20e-6, "seconds of a row in it"),
        "renewal": (float, 1e-3, "seconds of a renewal"),
    }
    for name, (kind, default, text) in options.items():
        parser.add_argument(f"--{name}", type=kind, default=default, help=f"{text} (%(default)s)")
    given = vars(parser.parse_args())
    plan = Plan(**{**given, "items": int(given["items"])})
    show(plan, trio.run(simulate, plan, clock=MockClock(autojump_threshold=0)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
