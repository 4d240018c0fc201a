"""The agent that asks before it spends, each command a process of its own on one SQLite file."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
from approval_agent import answer, ask

import trioflow
from trioflow import CheckpointMismatchError, CheckpointNotFoundError

SCRIPT = Path(__file__).parent / "approval_agent.py"
LIBRARY = Path(trioflow.__file__).parents[1]


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path}/runs.db"


async def run(*arguments: str):
    command = [sys.executable, str(SCRIPT), *arguments]
    with trio.fail_after(30):
        process = partial(trio.run_process, command, capture_stdout=True, capture_stderr=True, check=False)
        done = await process(env={"PYTHONPATH": str(LIBRARY), "PATH": ""})
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
    await ask(store, "order-2", "three oak chairs", "450")
    with pytest.raises(CheckpointMismatchError):
        await ask(store, "order-2", "three oak chairs", "450")
    assert (await answer(store, "order-2", "no")).exit_point == "drop"
    # the run has ended: another answer changes nothing
    assert (await answer(store, "order-2", "yes")).state.log == ("quoted", "told no", "dropped")
    with pytest.raises(CheckpointNotFoundError):
        await answer(store, "order-3", "yes")


async def test_what_is_cheap_or_too_dear_is_not_asked_about(store):
    cheap = await ask(store, "order-4", "a pen", "450")
    assert (cheap.exit_point, cheap.path) == ("buy", ["quote", "buy"])
    dear = await ask(store, "order-5", "three oak chairs", "50")
    assert (dear.exit_point, dear.path) == ("drop", ["quote", "drop"])
