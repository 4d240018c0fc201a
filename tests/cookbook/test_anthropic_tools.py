"""The recipe of an agent on Anthropic's API: every call of a tool is answered, and refusals are waited out."""

import pytest
import trio

pytest.importorskip("anthropic", reason="the recipe needs the anthropic package: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

import anthropic_tools
from anthropic import AsyncAnthropic, BadRequestError
from anthropic_tools import answer
from servers import Models, open_server


async def test_calls_of_one_turn_run_side_by_side_and_are_answered_in_their_order():
    running, most = 0, 0

    async def slow(word: str) -> str:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await trio.sleep(0.05 if word == "first" else 0.01)
        running -= 1
        if word == "bad":
            raise LookupError("no such thing")
        return word.upper()

    models = Models({"first bad last": [529, 429, 500][:2]})
    with trio.fail_after(20):
        async with open_server(models.app) as url, AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
            message = await answer(client, {"slow": slow}, "first bad last")

    assert most == 3
    assert message.content[0].text == "FIRST; LookupError: no such thing; LAST"
    assert message.stop_reason == "end_turn"
    assert models.texts == ["first bad last"] * 3 + [message.content[0].text]


async def test_a_turn_in_which_every_tool_fails_is_answered_too():
    async with open_server(Models().app) as url, AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
        message = await answer(client, {"broken": trio.sleep}, "one two")
    first, second = message.content[0].text.split("; ")
    assert first == second
    assert first.startswith("TypeError: ")


async def test_what_is_wrong_is_not_asked_again_and_turns_are_bounded():
    async def tool(word: str) -> str:
        await trio.lowlevel.checkpoint()
        return word

    models = Models({"wrong": [400] * 3})
    with trio.fail_after(20):
        async with open_server(models.app) as url, AsyncAnthropic(base_url=url, api_key="k", max_retries=0) as client:
            with pytest.raises(BadRequestError):
                await answer(client, {"tool": tool}, "wrong")
            with pytest.raises(RuntimeError, match="no answer after 1 turns"):
                await answer(client, {"tool": tool}, "right", turns=1)
    assert models.texts == ["wrong", "right"]


async def test_the_program_shows_the_answer(capsys):
    with trio.fail_after(20):
        await anthropic_tools.main()
    said, requests = capsys.readouterr().out.splitlines()
    assert said == "Oslo has 717,710 inhabitants; KeyError: 'Atlantis'; Bergen has 291,940 inhabitants"
    assert requests.startswith("4 requests, three tools of 0.1 s in ")
