"""Tests of the other recipes that wait for nobody: by Trio's MockClock, an hour takes no time.

Run it: `python examples/cookbook/test_recipes.py`, or, with pytest and pytest-trio,
`pytest -o pythonpath=examples/cookbook examples/cookbook/test_recipes.py`
"""

from types import SimpleNamespace
from typing import Any

import trio
from anthropic.types import ToolUseBlock
from anthropic_tools import call_tools
from crawler import crawl
from openai import RateLimitError
from openai_limits import within_limits
from team_budget import Said, work
from trio.testing import MockClock

from trioflow import Budget, ParallelConfig, RateLimiter, RecordingObserver, process_parallel
from trioflow.testing import Answer, ScriptedProcessor, assert_accounted

ANSWER = SimpleNamespace(usage=SimpleNamespace(total_tokens=20))
REFUSAL: Any = SimpleNamespace(status_code=429, headers={"retry-after": "3600"}, request=None)


async def test_one_refusal_makes_everybody_wait_for_the_hour(autojump_clock: MockClock) -> None:
    busy = RateLimitError("busy", response=REFUSAL, body=None)
    ask = ScriptedProcessor({"a": [busy, ANSWER], "b": Answer(ANSWER, delay=1), "c": ANSWER}, delay=1)
    patient = within_limits(ask, RateLimiter(1000), Budget({"tokens": 1000}))
    observer = RecordingObserver()
    result = await process_parallel("abc", patient, config=ParallelConfig(max_workers=2), observer=observer)
    assert_accounted(result, "abc")
    assert ask.items == ["a", "b", "c", "a"]
    assert [round(call.started) for call in ask.calls] == [0, 0, 3601, 3601]
    assert [event.data["delay"] for event in observer.events if event.type == "task.retry"] == [3600]


async def test_a_tool_that_hangs_or_fails_is_an_answer_too(autojump_clock: MockClock) -> None:
    tool = ScriptedProcessor({"cat": "fine", "dog": Answer("late", delay=3600), "fish": LookupError("no fish")})
    words = ["cat", "dog", "fish"]
    uses = [ToolUseBlock(id=word, name="tool", input={"word": word}, type="tool_use") for word in words]
    answers = await call_tools({"tool": lambda word: tool(word)}, uses)
    assert [answer.get("is_error") for answer in answers] == [False, True, True]
    assert [answer.get("content") for answer in answers][::2] == ["fine", "LookupError: no fish"]
    assert autojump_clock.current_time() == 10


async def test_a_crawl_fetches_each_page_once_and_spares_the_host(autojump_clock: MockClock) -> None:
    site = {
        "http://a/": '<a href="/x"><a href="/y">',
        "http://a/x": '<a href="/">',
        "http://a/y": '<a href="x#top"><a href="/z">',
    }
    fetch = ScriptedProcessor({**site, "http://a/z": LookupError("gone")}, delay=1)
    pages, errors = await crawl(fetch, "http://a/", per_host=1)
    assert fetch.items == ["http://a/", "http://a/x", "http://a/y", "http://a/z"]
    assert (pages, list(errors), fetch.most_at_once) == (site, ["http://a/z"], 1)


async def test_a_team_spends_no_more_than_it_has_whoever_asks(autojump_clock: MockClock) -> None:
    ask = ScriptedProcessor(lambda text, attempt: Said(text, 25), delay=1)
    whole = Budget({"tokens": 130, "calls": 100})
    shares = {"greedy": Budget({"tokens": 1000}, parent=whole), "modest": Budget({"tokens": 30}, parent=whole)}
    lines = await work(ask, whole, shares, ["one", "two", "three", "four", "five", "six", "seven"])
    assert whole.spent == {"tokens": 125, "calls": 5}
    assert shares["modest"].spent == {"tokens": 25}
    assert lines[-1] == "the team has spent its tokens"
    assert ask.most_at_once == 2


def main() -> None:
    for name, test in list(globals().items()):
        if name.startswith("test_"):
            clock = MockClock(autojump_threshold=0)
            trio.run(test, clock, clock=clock)
            print(f"{name}: passed, at {clock.current_time():.0f} s")


if __name__ == "__main__":
    main()
