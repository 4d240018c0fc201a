"""The recipe of OpenAI's limits: patient, within a rate and a budget of tokens, and kept where that is wanted."""

import re
from contextlib import asynccontextmanager

import pytest
import trio

from trioflow import Budget, BudgetExceededError, CheckpointConfig, ParallelConfig, RateLimiter, process_parallel

openai = pytest.importorskip("openai", reason="the recipe needs the openai package: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

import openai_limits  # noqa: E402 - may be missing
from openai import AsyncOpenAI, RateLimitError  # noqa: E402
from openai.types.chat import ChatCompletion  # noqa: E402
from openai_limits import server_says, within_limits, worth_another_attempt  # noqa: E402
from servers import Models, open_server  # noqa: E402


class Summaries:
    """What the runs of a program share: the client, the tokens a minute, and the tokens in all."""

    def __init__(self, client: AsyncOpenAI, *, tokens: float = 100_000) -> None:
        self.client = client
        self.limiter = RateLimiter(60_000, per=60, burst=20_000)
        self.budget = Budget({"tokens": tokens})
        self.ask = within_limits(self.complete, self.limiter, self.budget)

    async def complete(self, text):
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        return await self.client.chat.completions.create(model="small", messages=messages)

    async def run(self, texts, store):
        kept = CheckpointConfig(store=store)
        config = ParallelConfig(max_workers=4, fail_fast=False, checkpoint=kept, observer="noop")
        return await process_parallel(texts, self.ask, config=config, run_id="nightly", result_type=ChatCompletion)


@asynccontextmanager
async def open_client(url: str):
    # max_retries=0: the client's own attempts would be neither counted nor paid for
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="test", max_retries=0) as client:
        yield client


async def test_what_was_refused_for_a_while_is_asked_again_and_what_is_wrong_is_not(store):
    models = Models({"busy": [429, 429], "broken": [503], "unknown": [404, 404, 404], "hopeless": [500] * 9})
    with trio.fail_after(20):
        async with open_server(models.app) as url, open_client(url) as client:
            texts = ["fine", "busy", "broken", "unknown", "hopeless"]
            result = await Summaries(client).run(texts, store)

    assert [completion.choices[0].message.content for completion in result.results] == ["FINE", "BUSY", "BROKEN"]
    assert {failed.item: (type(failed.error), failed.attempts) for failed in result.errors} == {
        "unknown": (openai.NotFoundError, 1),
        "hopeless": (openai.InternalServerError, 3),
    }
    assert sorted(models.texts) == sorted(["fine"] + ["busy"] * 3 + ["broken"] * 2 + ["unknown"] + ["hopeless"] * 3)


async def test_completions_are_recalled_equal_and_paid_for_once(store):
    models = Models({"down": [500] * 3})
    texts = ["a", "b", "down", "c"]
    with trio.fail_after(20):
        async with open_server(models.app) as url, open_client(url) as client:
            first = await Summaries(client).run(texts, store)
            assert (len(first.results), len(first.errors), len(models.texts)) == (3, 1, 6)
            second = await Summaries(client).run(texts, store)

    assert models.texts[6:] == ["down"]
    assert len(second.results) == 4
    recalled = [second.results[index] for index in first.indices]
    assert recalled == first.results
    assert all(type(completion) is ChatCompletion for completion in second.results)
    # what the client adds to a completion is no part of its data
    assert [completion.model_dump() for completion in recalled] == [completion.model_dump() for completion in first.results]


async def test_the_budget_bounds_what_is_spent_and_the_rest_is_asked_later(store):
    models = Models()
    texts = [f"text {number}" for number in range(10)]
    with trio.fail_after(20):
        async with open_server(models.app) as url, open_client(url) as client:
            poor = Summaries(client, tokens=110)
            first = await poor.run(texts, store)
            # 20 of 30 tokens are used, so there is money for a fifth call where the fourth left 30
            assert poor.budget.spent["tokens"] == 20 * len(first.results) <= 110
            assert poor.budget.reserved["tokens"] == 0
            assert all(isinstance(failed.error, BudgetExceededError) for failed in first.errors)
            assert len(models.texts) == len(first.results) < 10
            rich = Summaries(client)
            second = await rich.run(texts, store)

    assert second.status == "complete"
    assert rich.budget.spent["tokens"] == 20 * len(first.errors)
    assert sorted(models.texts) == sorted(texts)


async def test_one_refusal_makes_everybody_wait():
    models = Models({"busy": [429]}, retry_after=0.4)
    refused = trio.Event()

    class Telling(Summaries):
        async def complete(self, text):
            try:
                return await super().complete(text)
            except RateLimitError as error:
                assert server_says(error) == 0.4
                refused.set()
                raise

    with trio.fail_after(20):
        async with open_server(models.app) as url, open_client(url) as client, trio.open_nursery() as nursery:
            summaries = Telling(client)
            nursery.start_soon(summaries.ask, "busy")
            await refused.wait()
            await summaries.ask("calm")

    came = models.times[models.texts.index("calm")]
    assert came - models.times[0] >= 0.4
    assert sorted(models.texts) == ["busy", "busy", "calm"]


def test_an_empty_purse_is_not_worth_another_attempt():
    response = type("Response", (), {"status_code": 429, "headers": {}, "request": None})()
    broke = RateLimitError("no money", response=response, body={"code": "insufficient_quota"})
    busy = RateLimitError("slow down", response=response, body={"code": "rate_limit_exceeded"})
    assert (worth_another_attempt(broke), worth_another_attempt(busy)) == (False, True)
    assert server_says(busy) is None


async def test_the_program_shows_what_was_answered_and_what_was_not(capsys):
    with trio.fail_after(20):
        await openai_limits.main()
    requests, answers, *failures = capsys.readouterr().out.splitlines()
    made, spent = map(int, re.fullmatch(r"(\d+) requests, <Budget tokens (\d+) spent and 0 reserved of 250>", requests).groups())
    # Who comes too late for the money depends on who comes first. All eight would cost 260 tokens in 11 requests.
    assert made <= 10
    assert spent <= 240
    answered = [answer.lower() for answer in answers.split()]
    assert set(answered) | {failure.partition(":")[0] for failure in failures} == set(openai_limits.TEXTS)
    assert len(answered) + len(failures) == len(openai_limits.TEXTS)
    assert "fish: Error code: 404 - refused with 404, after attempts: 1" in failures
    assert any("budget of 250 tokens exceeded: " in failure for failure in failures)
