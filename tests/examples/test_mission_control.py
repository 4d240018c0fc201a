"""The scene of four agents on two hubs, run as its reader runs it."""

import os
import signal
import subprocess
import sys

import pytest


def run_example(examples, *options):
    command = [sys.executable, "-W", "error", str(examples / "mission_control.py"), *options]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_the_satellite_arrives(examples):
    done = run_example(examples)
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert lines[:3] == [
        "weather says: clear",
        "navigator plans: 2.426 km/s, 5.28 h later 1.467 km/s",
        "director tells 2 agents to go",
    ]
    assert lines[3:] == [f"telemetry {n}: {lines[n + 2].split(': ')[1]}" for n in range(1, 5)]
    assert lines[-1] == "telemetry 4: 35,786 km"


@pytest.mark.parametrize("altitude", ["200", "300"])
def test_a_plan_that_fails_on_one_hub_fails_on_the_other(examples, altitude):
    done = run_example(examples, "--altitude", altitude)
    assert done.returncode == 1
    assert "agent 'navigator' failed" in done.stdout
    assert f"{altitude} km is not above the parking orbit of 300 km" in done.stdout


@pytest.mark.skipif(os.name == "nt", reason="SIGINT cannot be sent to one process on Windows")
@pytest.mark.parametrize("before", [[], ["sh", "-c", "trap '' INT; exec \"$@\"", "sh"]], ids=["", "ignored before"])
def test_ctrl_c_ends_it_without_a_traceback(examples, before):
    command = [*before, sys.executable, "-u", str(examples / "mission_control.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as child:
        assert child.stdout.readline() == "weather says: clear\n"
        child.send_signal(signal.SIGINT)
        output, errors = child.communicate(timeout=30)
    assert (child.returncode, errors) == (130, "mission control: interrupted\n"), output
