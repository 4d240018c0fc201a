"""Completions of OpenAI's API, fanned out: patient, within a rate and a budget of tokens, and kept."""

from contextlib import asynccontextmanager

import pytest
import trio

from trioflow import (
    Budget,
    BudgetExceededError,
    CheckpointConfig,
    ParallelConfig,
    ParallelResult,
    RateLimiter,
    RetryConfig,
    process_parallel,
    with_budget,
    with_rate_limit,
    with_retry,
)

openai = pytest.importorskip("openai", reason="a program with the openai package: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

from openai import APIConnectionError, APIStatusError, AsyncOpenAI, RateLimitError  # noqa: E402 - may be missing
from openai.types.chat import ChatCompletion  # noqa: E402
from servers import Models, open_server  # noqa: E402

THOUGHT_TO_COST = 30  # tokens a call, before it is made


def worth_another_attempt(error: Exception) -> bool:
    if isinstance(error, APIStatusError):
        return error.status_code in {408, 409, 429} or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def server_says(error: Exception) -> float | None:
    if isinstance(error, APIStatusError) and "retry-after" in error.response.headers:
        return float(error.response.headers["retry-after"])
    return None


class Summaries:
    """The program: what its runs share is the client, the tokens a minute, and the tokens in all."""

    def __init__(self, client: AsyncOpenAI, *, tokens: float = 100_000) -> None:
        self.client = client
        self.limiter = RateLimiter(60_000, per=60, burst=20_000)
        self.budget = Budget({"tokens": tokens})

    async def ask(self, text: str) -> ChatCompletion:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": text}]
        try:
            completion = await self.client.chat.completions.create(model="small", messages=messages)
        except RateLimitError as error:
            self.limiter.pause(server_says(error) or 1.0)  # one refusal slows everybody
            raise
        self.limiter.adjust(completion.usage.total_tokens - THOUGHT_TO_COST)
        return completion

    async def run(self, texts: list[str], store: str) -> ParallelResult[str, ChatCompletion]:
        paced = with_rate_limit(self.ask, self.limiter, cost=THOUGHT_TO_COST)
        paid = with_budget(
            paced,
            self.budget,
            estimate={"tokens": THOUGHT_TO_COST},
            actual=lambda completion: {"tokens": completion.usage.total_tokens},
        )
        patient = with_retry(paid, RetryConfig(initial_delay=0.01), on=worth_another_attempt, delay=server_says)
        kept = CheckpointConfig(store=store)
        config = ParallelConfig(max_workers=4, fail_fast=False, checkpoint=kept, observer="noop")
        return await process_parallel(texts, patient, config=config, run_id="nightly", result_type=ChatCompletion)


@asynccontextmanager
async def open_client(url: str):
    # max_retries=0: the client's own attempts would be neither counted nor paid for
    async with AsyncOpenAI(base_url=f"{url}/v1", api_key="test", max_retries=0) as client:
        yield client


@pytest.fixture
def store(tmp_path):
    return f"sqlite:///{tmp_path}/runs.db"


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
    models = Models({"busy": [429]})
    with trio.fail_after(20):
        async with open_server(models.app) as url, open_client(url) as client:
            summaries = Summaries(client)
            with pytest.raises(RateLimitError):
                await summaries.ask("busy")
            began = trio.current_time()
            await summaries.limiter.acquire()
            assert trio.current_time() - began >= 0.015
