"""Completions within limits: a 429 makes everybody wait, and tokens are counted a minute and in all.

Run it: `pip install openai starlette "hypercorn[trio]"`, `python examples/cookbook/openai_limits.py`
"""

from collections.abc import Awaitable, Callable

import trio
from openai import APIConnectionError, APIStatusError, AsyncOpenAI, DefaultAsyncHttpxClient, RateLimitError
from openai.types.chat import ChatCompletion, ChatCompletionMessageParam
from servers import Models, open_server

from trioflow import (
    Budget,
    ParallelConfig,
    RateLimiter,
    RetryConfig,
    process_parallel,
    with_budget,
    with_rate_limit,
    with_retry,
)

TEXTS = ["cats", "dogs", "fish", "birds", "ants", "bees", "newts", "toads"]
CONFIG = ParallelConfig(max_workers=4, fail_fast=False, observer="noop")
Ask = Callable[[str], Awaitable[ChatCompletion]]
ESTIMATE = 30  # tokens that a call is thought to cost, before it is made


def worth_another_attempt(error: Exception) -> bool:
    if isinstance(error, APIStatusError) and error.code != "insufficient_quota":
        return error.status_code in {408, 409, 429} or error.status_code >= 500
    return isinstance(error, APIConnectionError)


def server_says(error: Exception) -> float | None:
    told = error.response.headers.get("retry-after") if isinstance(error, APIStatusError) else None
    return float(told) if told else None


def cost(completion: ChatCompletion) -> dict[str, float]:
    return {"tokens": completion.usage.total_tokens if completion.usage else ESTIMATE}


def within_limits(ask: Ask, pace: RateLimiter, budget: Budget) -> Ask:
    async def call(text: str) -> ChatCompletion:
        try:
            completion = await ask(text)
        except RateLimitError as error:
            pace.pause(server_says(error) or 1.0)  # one refusal slows everybody
            raise
        pace.adjust(cost(completion)["tokens"] - ESTIMATE)
        return completion

    paced = with_rate_limit(call, pace, cost=ESTIMATE)
    paid = with_budget(paced, budget, estimate={"tokens": ESTIMATE}, actual=cost)
    return with_retry(paid, RetryConfig(initial_delay=0.01), on=worth_another_attempt, delay=server_says)


async def main() -> None:
    models = Models({"cats": [429, 429], "dogs": [503], "fish": [404]})
    pace, budget = RateLimiter(90_000, per=60, burst=10_000), Budget({"tokens": 250})
    http = DefaultAsyncHttpxClient(trust_env=False)  # a proxy would not reach loopback
    async with (
        open_server(models.app) as url,
        AsyncOpenAI(base_url=f"{url}/v1", api_key="local", max_retries=0, http_client=http) as client,
    ):
        async def ask(text: str) -> ChatCompletion:
            messages: list[ChatCompletionMessageParam] = [{"role": "user", "content": text}]
            return await client.chat.completions.create(model="small", messages=messages)

        result = await process_parallel(TEXTS, within_limits(ask, pace, budget), config=CONFIG)
    print(f"{len(models.texts)} requests, {budget!r}")
    print(*(completion.choices[0].message.content for completion in result.results))
    for failed in result.errors:
        print(f"{failed.item}: {failed.error}, after attempts: {failed.attempts}")


if __name__ == "__main__":
    trio.run(main)
