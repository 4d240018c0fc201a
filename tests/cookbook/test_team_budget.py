"""The recipe of the team on one budget: nobody spends more than a share, and all no more than the whole."""

import pytest
import trio

pytest.importorskip("httpx2", reason="the recipe needs the httpx2 package: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

import team_budget
from team_budget import Said, work

from trioflow import Budget
from trioflow.testing import ScriptedProcessor


async def test_the_program_shows_who_had_to_pass_and_what_was_spent(capsys):
    with trio.fail_after(20):
        await team_budget.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "SCOUT, WHAT IS NEW? | CRITIC, WHAT IS NEW? | WRITER, WHAT IS NEW?"
    assert lines[2:5] == [
        "CRITIC, SAY IT",
        "  scout passes: budget of 2 calls exceeded: 2 spent and 0 reserved, 1 asked for",
        "  writer passes: budget of 60 tokens exceeded: 40 spent and 0 reserved, 30 asked for",
    ]
    assert lines[8:] == [
        "the team has spent its tokens",
        "team: <Budget tokens 160 spent and 0 reserved of 170, calls 8 spent and 0 reserved of 20>",
        "scout: <Budget tokens 40 spent and 0 reserved of 100, calls 2 spent and 0 reserved of 2>",
        "critic: <Budget tokens 80 spent and 0 reserved of 100>",
        "writer: <Budget tokens 40 spent and 0 reserved of 60>",
    ]


async def test_a_model_that_fails_is_paid_for_as_estimated_and_the_team_goes_on(autojump_clock):
    ask = ScriptedProcessor(lambda text, _: ConnectionError("down") if text == "a, one" else Said(text, 10))
    whole = Budget({"tokens": 1000, "calls": 10})
    shares = {name: Budget({"tokens": 100}, parent=whole) for name in "ab"}
    lines = await work(ask, whole, shares, ["one", "two"])
    assert lines == ["b, one", "  a passes: down", "a, two | b, two"]
    assert whole.spent == {"tokens": 30 + 3 * 10, "calls": 4}
