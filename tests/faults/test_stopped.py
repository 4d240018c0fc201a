"""SIGSTOP, another process takes over, SIGCONT: who was stopped hears of it bare, and costs the owner nothing.

`TRIOFLOW_STOPS` is how many owners are stopped for each workload, `TRIOFLOW_SEED` what their instants are drawn from.
"""

import os
import random
import signal
import time

import apsw
import pytest

STOPS = int(os.environ.get("TRIOFLOW_STOPS", "1"))
SEED = int(os.environ.get("TRIOFLOW_SEED", "1"))

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(3_000),
    pytest.mark.skipif(os.name == "nt", reason="SIGSTOP is POSIX's"),
]


@pytest.fixture
def start():
    """Start processes, and leave none behind, stopped or not."""
    processes = []

    def start(run):
        processes.append(run.start())
        return processes[-1]

    yield start
    for process in processes:
        if process.poll() is None:
            process.kill()
        process.communicate()


def is_locked(path):
    """Whether somebody is in the middle of a transaction that writes: who is stopped there holds everybody up."""
    db = apsw.Connection(str(path))
    try:
        db.execute("BEGIN IMMEDIATE; ROLLBACK")
    except apsw.BusyError:
        return True
    finally:
        db.close()
    return False


def stop_between_writes(process, path):
    while process.poll() is None:
        os.kill(process.pid, signal.SIGSTOP)  # not `send_signal`: that may reap who ended in this moment
        os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        if process.poll() is not None or not is_locked(path):
            return
        process.send_signal(signal.SIGCONT)
        time.sleep(0.001)


def wait_for_calls(run, process, count):
    while run.count() < count and process.poll() is None:
        time.sleep(0.002)


def hear_of_conflict(process):
    """Continue who was stopped; it ends with a bare `CheckpointConflictError`."""
    process.send_signal(signal.SIGCONT)
    output, errors = process.communicate(timeout=120)
    assert not output, "two processes completed one run"
    assert process.returncode == 1
    assert errors.rstrip().splitlines()[-1].startswith("trioflow.errors.checkpoints.CheckpointConflictError: "), errors
    assert "ExceptionGroup" not in errors, errors


@pytest.mark.parametrize("options", [(), ("forget",)], ids=["kept", "forgotten"])
@pytest.mark.parametrize("what", ["graph", "fan_out", "nested"])
def test_of_a_stopped_owner_and_who_took_over_exactly_one_completes(what, options, start, workload, workloads, tmp_path):
    random_ = random.Random(f"{SEED} {what} {options}")
    count, stopped, drawn = workloads.COUNTS[what], 0, 0
    while stopped < STOPS:
        run = workload(what, tmp_path / str(drawn), *options)
        drawn += 1
        first = start(run)
        wait_for_calls(run, first, random_.randrange(1, count + 1))
        stop_between_writes(first, run.store)
        acknowledged, before = run.acknowledged(), len(run.calls())
        if first.poll() is not None or run.status() != "running" or before >= count:
            continue  # stopped too late: nothing was left to take over, or to be called
        second = start(run)
        if options:
            # What is forgotten at the end leaves nothing to compare: look while the second one is at work.
            stopped += continue_while_at_work(run, first, second, before + random_.randrange(1, count - before + 1))
            output, errors = second.communicate(timeout=120)
        else:
            output, errors = second.communicate(timeout=120)
            kept = run.dump()
            hear_of_conflict(first)
            assert run.dump() == kept, "who had lost the run changed what is kept of it"
            assert run.status() == "completed"
            stopped += 1
        assert output.split() == ["done", str(workloads.EXPECTED[what]())], errors
        assert not acknowledged & set(run.calls()[before:]), "a call was made again whose result was written"
    print(f"{what}: {stopped} owners stopped and continued, seed {SEED}: one completed, the other was told")


def continue_while_at_work(run, first, second, calls):
    """Stop the second one at work, continue the first, and see that nothing changes; return whether it was at work."""
    wait_for_calls(run, second, calls)
    stop_between_writes(second, run.store)
    if second.poll() is not None or run.status() != "running":
        second.send_signal(signal.SIGCONT)
        first.kill()
        return 0
    kept = run.dump()
    hear_of_conflict(first)
    assert run.dump() == kept, "who had lost the run changed what is kept of it"
    second.send_signal(signal.SIGCONT)
    return 1
