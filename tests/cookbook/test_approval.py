"""The recipe of the agent that asks before it spends, each command a process of its own on one SQLite file."""

import msgspec
import pytest
from approval import answer, ask

from trioflow import CheckpointMismatchError, CheckpointNotFoundError

QUESTION = "{'question': 'buy three oak chairs for 160.00?'}"


async def test_the_answer_is_given_in_another_process(run_recipe, store):
    asked = await run_recipe("approval.py", "ask", store, "order-1", "three oak chairs", "450")
    assert asked == f"paused, quoted, {QUESTION}\n"
    answered = await run_recipe("approval.py", "answer", store, "order-1", "yes")
    assert answered == "completed, quoted, told yes, bought, the end: buy\n"


async def test_without_a_command_it_shows_both(run_recipe):
    asked, answered = (await run_recipe("approval.py")).splitlines()
    assert (asked, answered) == (f"paused, quoted, {QUESTION}", "completed, quoted, told yes, bought, the end: buy")


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


async def test_an_answer_that_is_none_is_refused(store):
    await ask(store, "order-6", "three oak chairs", "450")
    with pytest.raises(msgspec.ValidationError, match="maybe"):
        await answer(store, "order-6", "maybe")
    assert (await answer(store, "order-6", "yes")).exit_point == "buy"
