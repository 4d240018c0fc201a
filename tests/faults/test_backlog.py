"""Results that come faster than the disk takes them: what a SIGKILL costs is bounded, and so is the memory.

`TRIOFLOW_BACKLOG` is for how many seconds 60 MB a second are made, `TRIOFLOW_SEED` what the kill's instant is drawn
from.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest

SECONDS = float(os.environ.get("TRIOFLOW_BACKLOG", "2"))
SEED = int(os.environ.get("TRIOFLOW_SEED", "1"))
MOST_MEMORY = 250
"""MiB: some 50 are Python with its libraries, 16 may wait unwritten, and SQLite and the pages of its log come to it."""


def peak_memory(process):
    """Return the most memory that the process has had, in MiB."""
    with Path(f"/proc/{process.pid}/status").open() as status:
        return next(int(line.split()[1]) / 1024 for line in status if line.startswith("VmHWM:"))


def made(log):
    """Return when each result was made, by its index."""
    lines = log.read_text().splitlines()
    return {int(index): float(at) for index, at in (line.split() for line in lines)}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_under_backlog_a_kill_costs_two_intervals_and_nobody_else_is_locked_out(workload, workloads, tmp_path):
    run = workload("backlog", tmp_path)
    process = run.start()
    other = workload("graph", tmp_path / "other")
    other.store = run.store
    neighbour = other.start()
    time.sleep(SECONDS + random.Random(SEED).uniform(0, 0.2))
    memory = peak_memory(process)
    killed_at = time.monotonic()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    output, errors = neighbour.communicate(timeout=120)
    assert output.split() == ["done", str(workloads.expected_graph())], errors
    finished, kept = made(run.log), {index for run_id, index in run.acknowledged() if run_id == "backlog"}
    lost = [killed_at - at for index, at in finished.items() if index not in kept]
    print(
        f"{len(finished)} results of {workloads.BACKLOG_BYTES:,} bytes in {SECONDS:g} s, {len(kept)} kept; lost "
        f"{len(lost)}, the oldest {max(lost, default=0):.3f} s old; at most {memory:.0f} MiB; seed {SEED}"
    )
    assert kept
    assert max(lost, default=0) < 2 * workloads.BACKLOG_INTERVAL
    assert memory < MOST_MEMORY
