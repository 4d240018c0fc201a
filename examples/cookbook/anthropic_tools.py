"""An agent on Anthropic's API: each turn's tool calls run side by side, and one that fails costs no turn.

Run it: `pip install anthropic starlette "hypercorn[trio]"`, `python examples/cookbook/anthropic_tools.py`
"""

from collections.abc import Awaitable, Callable, Mapping

import trio
from anthropic import APIConnectionError, APIStatusError, AsyncAnthropic, DefaultAsyncHttpxClient
from anthropic.types import Message, MessageParam, ToolParam, ToolResultBlockParam, ToolUseBlock
from servers import Models, open_server

from trioflow import ParallelConfig, RetryConfig, process_parallel, with_retry

Tools = Mapping[str, Callable[..., Awaitable[str]]]
SCHEMA: dict[str, object] = {"type": "object", "properties": {"word": {"type": "string"}}, "required": ["word"]}
POPULATIONS = {"Oslo": 717_710, "Bergen": 291_940}
# one call that fails must not cost the agent its turn, even where it is the only one
CONFIG = ParallelConfig(fail_fast=False, raise_if_all_failed=False, task_timeout=10, observer="noop")


def worth_another_attempt(error: Exception) -> bool:
    if isinstance(error, APIStatusError):
        return error.status_code in {408, 409, 429} or error.status_code >= 500  # 529: overloaded
    return isinstance(error, APIConnectionError)


async def call_tools(tools: Tools, uses: list[ToolUseBlock]) -> list[ToolResultBlockParam]:
    async def call(use: ToolUseBlock) -> str:
        return await tools[use.name](**use.input)

    result = await process_parallel(uses, call, config=CONFIG)
    # each call is answered, in the order of the calls: the API refuses a turn that leaves one out
    return [
        {
            "type": "tool_result",
            "tool_use_id": uses[outcome.index].id,
            "content": outcome.unwrap() if outcome.ok else f"{type(outcome.error).__name__}: {outcome.error}",
            "is_error": not outcome.ok,
        }
        for outcome in result.outcomes()
    ]


async def answer(client: AsyncAnthropic, tools: Tools, question: str, *, turns: int = 10) -> Message:
    create = with_retry(client.messages.create, RetryConfig(initial_delay=0.01), on=worth_another_attempt)
    offered: list[ToolParam] = [{"name": name, "input_schema": SCHEMA} for name in tools]
    history: list[MessageParam] = [{"role": "user", "content": question}]
    for _ in range(turns):
        message: Message = await create(model="small", max_tokens=500, tools=offered, messages=history)
        uses = [block for block in message.content if isinstance(block, ToolUseBlock)]
        if not uses:
            return message
        history.append({"role": "assistant", "content": message.content})
        history.append({"role": "user", "content": await call_tools(tools, uses)})
    raise RuntimeError(f"no answer after {turns} turns")


async def population(word: str) -> str:
    await trio.sleep(0.1)  # stands for a call to somebody's API
    return f"{word} has {POPULATIONS[word]:,} inhabitants"


async def main() -> None:
    models = Models({"Oslo Atlantis Bergen": [529, 429]})
    http = DefaultAsyncHttpxClient(trust_env=False)  # a proxy would not reach loopback
    async with (
        open_server(models.app) as url,
        AsyncAnthropic(base_url=url, api_key="local", max_retries=0, http_client=http) as client,
    ):
        started, tools = trio.current_time(), {"population": population}
        message = await answer(client, tools, "Oslo Atlantis Bergen")
    print(message.content[0].text if message.content[0].type == "text" else message.content)
    print(f"{len(models.texts)} requests, three tools of 0.1 s in {trio.current_time() - started:.1f} s")


if __name__ == "__main__":
    trio.run(main)
