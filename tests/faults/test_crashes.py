"""SIGKILL at random instants: the run goes on, ends as it would have, and pays for nothing twice.

`TRIOFLOW_KILLS` is how many kills there are for each workload, `TRIOFLOW_SEED` what their instants are drawn from.
"""

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import trio

from trioflow.checkpoint.sqlite import SqliteStore

KILLS = int(os.environ.get("TRIOFLOW_KILLS", "20"))
SEED = int(os.environ.get("TRIOFLOW_SEED", "1"))
SCRIPT = Path(__file__).with_name("workloads.py")

_spec = importlib.util.spec_from_file_location("workloads", SCRIPT)
workloads = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(workloads)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.name == "nt", reason="SIGKILL is POSIX's"),
]


def start(what, store, log):
    command = [sys.executable, str(SCRIPT), what, str(store), str(log)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def lines_of(log):
    return [int(line) for line in log.read_text().split()] if log.exists() else []


async def saved(store_path, what):
    """Return what is kept: how many steps, or the indexes of the items."""
    async with SqliteStore(store_path) as store:
        if what == "fan_out":
            return {int(key) for key in await store.load_items("run")}
        history = await store.history("run")
        return set(range(history[-1].step)) if history else set()


def crash_until_done(what, folder, random_, kills):
    """Run the workload in processes that are killed, until one is done; return how many were killed."""
    store, log = folder / "runs.db", folder / "log"
    killed = 0
    while True:
        called_before = len(lines_of(log))
        kept_before = trio.run(saved, store, what) if killed else set()
        process = start(what, store, log)
        assert process.stdout.readline() == "ready\n", process.stderr.read()
        if killed < kills:
            time.sleep(random_.uniform(0, 0.25))
            process.send_signal(signal.SIGKILL)
        output, errors = process.communicate(timeout=120)
        calls = lines_of(log)[called_before:]
        # What had been saved when the process began is not called again.
        assert not kept_before & set(calls), "a completed call was made twice"
        if process.returncode == -signal.SIGKILL and not output:
            killed += 1
            continue
        assert process.returncode in {0, -signal.SIGKILL}, errors
        return killed, int(output.split()[1]), lines_of(log)


@pytest.mark.parametrize("what", ["graph", "fan_out"])
def test_a_killed_run_goes_on_and_pays_for_nothing_twice(what, tmp_path):
    random_ = random.Random(SEED)
    expected = {"graph": workloads.expected_graph, "fan_out": workloads.expected_fan_out}[what]()
    total = {"graph": workloads.NODES, "fan_out": workloads.ITEMS}[what]
    killed = runs = 0
    while killed < KILLS:
        folder = tmp_path / str(runs)
        folder.mkdir()
        more, result, calls = crash_until_done(what, folder, random_, min(KILLS - killed, 8))
        assert result == expected
        assert set(calls) == set(range(total))
        # A kill costs the calls that were in flight, or had finished since the last write.
        lost = len(calls) - total
        assert lost <= more * (1 if what == "graph" else total)
        killed += more
        runs += 1
    print(f"{what}: {killed} kills over {runs} runs, seed {SEED}: all went on to the same result")
    assert killed >= KILLS


def test_of_processes_that_resume_one_run_at_once_the_run_ends_right(tmp_path):
    for count in (2, 4):
        folder = tmp_path / str(count)
        folder.mkdir()
        store, log = folder / "runs.db", folder / "log"
        first = start("graph", store, log)
        assert first.stdout.readline() == "ready\n"
        while len(lines_of(log)) < 20:
            time.sleep(0.005)
        first.kill()
        first.communicate()
        processes = [start("graph", store, log) for _ in range(count)]
        ends = [process.communicate(timeout=120) for process in processes]
        results = [int(output.split()[2]) for output, _ in ends if "done" in output]
        conflicts = [errors for output, errors in ends if "done" not in output]
        assert results
        assert set(results) == {workloads.expected_graph()}
        assert all("CheckpointConflictError" in errors for errors in conflicts), conflicts
