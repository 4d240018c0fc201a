"""The agent that asks before it spends, each command a process of its own on one SQLite file."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import trio

import trioflow

SCRIPT = Path(__file__).parent / "approval_agent.py"
LIBRARY = Path(trioflow.__file__).parents[1]


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path}/runs.db"


async def run(*arguments: str, fails: bool = False):
    command = [sys.executable, str(SCRIPT), *arguments]
    with trio.fail_after(30):
        process = partial(trio.run_process, command, capture_stdout=True, capture_stderr=True, check=False)
        done = await process(env={"PYTHONPATH": str(LIBRARY), "PATH": ""})
    if fails:
        assert done.returncode != 0
        return done.stderr.decode()
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


async def test_the_answer_is_given_in_another_process(store):
    asked = await run(store, "ask", "order-1", "three oak chairs", "450")
    assert asked == {
        "status": "paused",
        "pause": {"question": "buy three oak chairs for 160.00?"},
        "log": ["quoted"],
        "exit": None,
    }
    answered = await run(store, "answer", "order-1", "yes")
    assert answered == {"status": "completed", "pause": None, "log": ["quoted", "told yes", "bought"], "exit": "buy"}


async def test_an_order_is_asked_for_once_and_answered_once(store):
    await run(store, "ask", "order-2", "three oak chairs", "450")
    assert "CheckpointMismatchError" in await run(store, "ask", "order-2", "three oak chairs", "450", fails=True)
    assert (await run(store, "answer", "order-2", "no"))["exit"] == "drop"
    # the run has ended: another answer changes nothing
    assert (await run(store, "answer", "order-2", "yes"))["log"] == ["quoted", "told no", "dropped"]
    assert "CheckpointNotFoundError" in await run(store, "answer", "order-3", "yes", fails=True)


async def test_what_is_cheap_or_too_dear_is_not_asked_about():
    import approval_agent

    cheap = await approval_agent.make_agent("memory").execute(approval_agent.Order("a pen", 450))
    assert (cheap.exit_point, cheap.path) == ("buy", ["quote", "buy"])
    dear = await approval_agent.make_agent("memory").execute(approval_agent.Order("three oak chairs", 50))
    assert (dear.exit_point, dear.path) == ("drop", ["quote", "drop"])
