"""SIGKILL at random instants: the run goes on, ends as it would have, and pays for nothing twice, at any depth.

`TRIOFLOW_KILLS` is how many kills there are for each workload, `TRIOFLOW_SEED` what their instants are drawn from.
"""

import os
import random
import signal
import time
from collections import Counter

import pytest

KILLS = int(os.environ.get("TRIOFLOW_KILLS", "3"))
SEED = int(os.environ.get("TRIOFLOW_SEED", "1"))
KILLS_OF_A_RUN = 8

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3_000),
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's"),
]


def run_once(workload):
    """Run it in a process that nobody kills, and return its result."""
    with workload.start() as process:
        output, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return int(output.split()[1])


def crash_until_done(workload, random_, kills, count):
    """Run it in processes that are killed after some calls, until one is done; return in what each died."""
    killed = []
    while True:
        before, acknowledged = len(workload.calls()), workload.acknowledged()
        with workload.start() as process:
            if len(killed) < kills:
                kill_after(workload, process, before + random_.randrange(count // 4), random_.uniform(0, 0.01))
            output, errors = process.communicate(timeout=300)
        calls = workload.calls()[before:]
        assert not acknowledged & set(calls), "a call was made again whose result was written"
        if output:
            return killed, int(output.split()[1])
        assert process.returncode == -signal.SIGKILL, errors
        killed.append(calls[-1][0] if calls else "nothing")


def kill_after(workload, process, calls, delay):
    """Kill the process once so many calls were made in all, and a moment has passed, unless it ends before."""
    try:
        while workload.count() < calls and process.poll() is None:
            time.sleep(0.001)
        time.sleep(delay)
    finally:
        process.kill()


@pytest.mark.parametrize("what", ["graph", "fan_out", "nested"])
def test_a_killed_run_goes_on_and_pays_for_nothing_twice(what, workload, workloads, tmp_path):
    random_ = random.Random(SEED)
    whole = workload(what, tmp_path / "whole")
    expected = run_once(whole)
    assert expected == workloads.EXPECTED[what]()
    assert len(set(whole.calls())) == len(set(whole.keys())) == len(whole.calls()) == workloads.COUNTS[what]
    assert len(whole.acknowledged() & set(whole.calls())) == len(whole.calls())
    died, runs, lost = Counter(), 0, 0
    while died.total() < KILLS:
        run = workload(what, tmp_path / str(runs))
        killed, result = crash_until_done(run, random_, min(KILLS - died.total(), KILLS_OF_A_RUN), len(whole.calls()))
        assert result == expected
        # The same calls, under the same keys as in a run that nobody killed.
        assert set(run.calls()) == set(whole.calls())
        assert set(run.keys()) == set(whole.keys())
        # Of a graph, a kill costs the node in hand.
        again = len(run.calls()) - len(whole.calls())
        assert what != "graph" or again <= len(killed)
        died.update(run_id.count("..") if run_id != "nothing" else "before" for run_id in killed)
        runs, lost = runs + 1, lost + again
    depths = ", ".join(f"{count} at depth {depth}" for depth, count in sorted(died.items(), key=repr))
    print(
        f"{what}: {died.total()} kills ({depths}) over {runs} runs, seed {SEED}: all went on to the same result; "
        f"{lost} of {runs * len(whole.calls())} calls were made again, none that was written"
    )
    assert died.total() >= KILLS


def test_of_processes_that_resume_one_run_at_once_the_run_ends_right(workload, workloads, tmp_path):
    for count in (2, 4):
        run = workload("graph", tmp_path / str(count))
        first = run.start()
        while run.count() < 20:
            time.sleep(0.005)
        first.kill()
        first.communicate()
        processes = [run.start() for _ in range(count)]
        ends = [process.communicate(timeout=120) for process in processes]
        results = [int(output.split()[1]) for output, _ in ends if "done" in output]
        conflicts = [errors for output, errors in ends if "done" not in output]
        assert results
        assert set(results) == {workloads.expected_graph()}
        assert all("CheckpointConflictError" in errors for errors in conflicts), conflicts
