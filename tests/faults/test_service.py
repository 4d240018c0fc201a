"""Three processes serve one store, and are killed and stopped at random instants: each run completes, once.

`TRIOFLOW_SERVICE_KILLS` is how many are killed or stopped, `TRIOFLOW_SEED` what the instants are drawn from. What is
checked is what the steps themselves have written.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter, defaultdict
from itertools import pairwise
from pathlib import Path

import pytest
import trio

from trioflow import State, get_checkpoint_store, service_client

KILLS = int(os.environ.get("TRIOFLOW_SERVICE_KILLS", "10"))
SEED = int(os.environ.get("TRIOFLOW_SEED", "1"))
SCRIPT = Path(__file__).with_name("service_worker.py")
LEASE, POLL, LIMIT, PROCESSES = 1.5, 0.05, 3, 3
RUNS = 3 * KILLS
LAST = 9
"""Runs that are under way when the last process is killed."""
LONGEST_SLEEP = 0.3
"""Seconds that a step of the worker sleeps at most."""
SLACK = 2.0
"""Seconds that a busy machine may take until a process that could go on does."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3_000),
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's"),
]


class Faults:
    """The processes, and what was done to them."""

    def __init__(self, url, log, random_):
        self.url, self.log, self.random = url, log, random_
        self.processes = [self.start() for _ in range(PROCESSES)]
        self.done = Counter()
        self.stops = []

    def start(self):
        return subprocess.Popen([sys.executable, str(SCRIPT), self.url, str(self.log)], stderr=subprocess.PIPE)

    async def one(self):
        number = self.random.randrange(PROCESSES)
        process = self.processes[number]
        assert process.poll() is None, process.stderr.read()
        if self.random.random() < 0.7:
            self.kill(number)
        else:
            process.send_signal(signal.SIGSTOP)
            stopped = time.time()
            await trio.sleep(LEASE * 1.4)
            self.stops.append((process.pid, stopped, time.time()))
            process.send_signal(signal.SIGCONT)
            self.done["stopped"] += 1

    def kill(self, number):
        process = self.processes[number]
        process.kill()
        process.wait()
        process.stderr.close()
        self.done["killed"] += 1
        self.processes[number] = self.start()

    async def kill_one_that_is_at(self, run_ids):
        """Kill a process in the middle of a step of one of these runs, and return when that was."""
        while True:
            # At once, for a step is short: what is sought is the one that sleeps for a while, and does not park.
            lines = [json.loads(line) for line in self.log.read_text().splitlines()]
            latest = {line["run"]: line for line in lines if line.get("run") in run_ids}
            busy = [line["pid"] for line in latest.values() if line["what"] == "begin" and line["step"] == 1]
            found = [number for number, process in enumerate(self.processes) if process.pid in busy]
            # On a machine that is busy enough they may all have ended before it was seen.
            over = [line for line in latest.values() if line["what"] == "end" and line["step"] == 4]
            if found or len(over) == len(run_ids):
                self.kill(found[0] if found else 0)
                return time.time()
            await trio.sleep(0.005)

    def end(self):
        for process in self.processes:
            process.kill()
            process.wait()
            process.stderr.close()


async def submit(client, number, delay=0.0):
    run_id = f"r{number}"
    state = State(run=run_id, seed=number, steps=[], got=[])
    await client.submit("limited" if number % 2 else "free", state, run_id=run_id, delay=delay)


async def use(client, random_, seconds):
    """Submit the runs over that time, and send each the signals that it waits for, early or late."""

    async def one(number):
        run_id = f"r{number}"
        await trio.sleep(random_.uniform(0, seconds))
        await submit(client, number, delay=random_.uniform(0, 0.5))
        for part in range(2):
            await trio.sleep(random_.uniform(0, 2))
            await client.signal(run_id, "go", f"{run_id}/{part}")

    async with trio.open_nursery() as nursery:
        for number in range(RUNS):
            nursery.start_soon(one, number)


@pytest.fixture(params=["SQLite", "PostgreSQL"])
def url(request, tmp_path):
    if request.param == "PostgreSQL":
        return request.getfixturevalue("postgres_server").url()
    return f"sqlite:///{tmp_path / 'runs.db'}"


async def test_each_run_completes_once_whatever_dies_when(tmp_path, url):
    random_ = random.Random(SEED)
    log = tmp_path / "steps.log"
    async with get_checkpoint_store(url) as store:
        await store.list_runs()
        faults = Faults(url, log, random_)
        try:
            client = service_client(store)

            async def disturb():
                for _ in range(KILLS):
                    await trio.sleep(random_.uniform(0.1, 1.2))
                    await faults.one()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(use, client, random_, KILLS * 0.8)
                nursery.start_soon(disturb)
            with trio.fail_after(120):
                results = {number: await client.result(f"r{number}") for number in range(RUNS)}
                # Of these none waits for a signal, or for a place.
                for number in range(RUNS, RUNS + LAST):
                    await submit(client, number)
                    for part in range(2):
                        await client.signal(f"r{number}", "go", f"r{number}/{part}")
                last = await faults.kill_one_that_is_at({f"r{number}" for number in range(RUNS, RUNS + LAST, 3)})
                results |= {number: await client.result(f"r{number}") for number in range(RUNS, RUNS + LAST)}
            done = time.time() - last
        finally:
            faults.end()
        for number, result in results.items():
            run_id = f"r{number}"
            assert result.state["steps"] == [0, 1, 2, 3, 4]
            # Each signal once, the oldest first.
            assert result.state["got"] == [None, None, f"{run_id}/0", None, f"{run_id}/1"]
        infos = await store.list_runs()
        assert Counter(info.status for info in infos) == {"completed": RUNS + LAST}
        lines = [json.loads(line) for line in (await trio.Path(log).read_text()).splitlines()]
        serving = {line["pid"]: line["at"] for line in lines if line["what"] == "serves"}
        lines = [line for line in lines if line["what"] != "serves"]
        again = await called_again(store, lines, faults.stops)
    # The others may have been killed a moment before, and take a while to be there; all else is the store's to do.
    some_serve = min(serving.get(process.pid, float("inf")) for process in faults.processes)
    silence = longest_silence(lines, max(last, some_serve))
    # What stood still when the last process died goes on within a lease and a poll.
    assert silence < LEASE + POLL + LONGEST_SLEEP + SLACK
    most = most_at_once(lines, faults.stops)
    assert most <= LIMIT
    print(f"\n{url.partition(':')[0]}, seed {SEED}: {RUNS + LAST} runs, {dict(faults.done)}, {again} steps begun again by who had lost the run, ", end="")
    print(f"at most {most} limited runs at once, nothing silent for more than {silence:.1f} s, all done {done:.1f} s after the last kill")


def longest_silence(lines, since):
    """Return for how long, after `since`, a run that was to go on did nothing, by the clock of the store.

    The machine has one clock, and the processes and the store go by it. Runs of the limited graph wait for each other:
    together they are silent for no longer than one.
    """
    instants = defaultdict(list)
    for line in lines:
        instants["limited" if line["graph"] == "limited" else line["run"]].append(line["at"])
    longest = 0.0
    for each in instants.values():
        # What had ended before has nothing more to say.
        after = [since, *sorted(at for at in each if at > since)]
        longest = max([longest, *(later - earlier for earlier, later in pairwise(after))])
    return longest


async def called_again(store, lines, stops):
    """Fail if a step was called that was written; return how often one was by who did not know yet that it had lost."""
    saved = {}
    for run in await store.list_runs():
        for info in await store.history(run.run_id):
            saved[run.run_id, info.step] = info.created_at
    unaware = Counter()
    for line in lines:
        if line["what"] == "begin" and line["at"] > saved[line["run"], line["step"] + 1]:
            stop = [stop for stop in stops if stop[0] == line["pid"] and stop[2] <= line["at"] <= stop[2] + 1]
            assert stop, f"a step that was written was called again: {line}"
            unaware[line["run"], *stop[0]] += 1
    assert all(count == 1 for count in unaware.values()), unaware
    return unaware.total()


def most_at_once(lines, stops):
    """Return how many runs of the limited graph were in a step at one instant, of those that wrote its end."""
    begun, spans = {}, defaultdict(list)
    for line in lines:
        if line["graph"] == "limited":
            key = line["pid"], line["run"], line["step"]
            if line["what"] == "begin":
                begun[key] = line["at"]
            elif key in begun:
                began = begun.pop(key)
                # Who was stopped for longer than its lease has lost the run, and its place.
                if not any(pid == line["pid"] and began <= end and start <= line["at"] for pid, start, end in stops):
                    spans[line["run"]].append((began, line["at"]))
    instants = sorted(began for all_ in spans.values() for began, _ in all_)
    return max(sum(any(a <= at < b for a, b in all_) for all_ in spans.values()) for at in instants)
