"""Messages of Anthropic's API: a conversation as a chain, and a stream of answers that is kept."""

from contextlib import asynccontextmanager

import pytest
import trio

from trioflow import (
    ChainConfig,
    ChainError,
    CheckpointConfig,
    ParallelConfig,
    RetryConfig,
    open_parallel,
    process_chain,
    with_retry,
)

anthropic = pytest.importorskip("anthropic", reason="a program with the anthropic package: tests group")
pytest.importorskip("starlette", reason="its server is a Starlette app: tests group")
pytest.importorskip("hypercorn", reason="its server runs on hypercorn[trio]: tests group")

from anthropic import APIConnectionError, APIStatusError, AsyncAnthropic  # noqa: E402 - may be missing
from anthropic.types import Message, MessageParam  # noqa: E402
from servers import Models, open_server  # noqa: E402


def worth_another_attempt(error: Exception) -> bool:
    if isinstance(error, APIStatusError):
        return error.status_code in {408, 409, 429} or error.status_code >= 500  # 529: overloaded
    return isinstance(error, APIConnectionError)


class Notes:
    """The program: notes on many subjects, and a conversation about one."""

    def __init__(self, client: AsyncAnthropic, store: str) -> None:
        self.client = client
        self.kept = CheckpointConfig(store=store)
        self.ask = with_retry(self.say, RetryConfig(initial_delay=0.01), on=worth_another_attempt)

    async def say(self, *texts: str) -> Message:
        messages = [{"role": "user", "content": text} for text in texts]
        return await self.client.messages.create(model="small", max_tokens=100, messages=messages)

    async def write(self, subjects: list[str]):
        config = ParallelConfig(max_workers=2, fail_fast=False, checkpoint=self.kept, observer="noop")
        came: dict[str, Message] = {}
        async with open_parallel(
            subjects, self.ask, config=config, run_id="notes", key=lambda subject: subject, result_type=Message
        ) as run:
            async for outcome in run:
                if outcome.ok:
                    came[outcome.item] = outcome.unwrap()
        return came, run.result()

    async def converse(self, questions: list[str]) -> list[MessageParam]:
        async def step(question: str, history: list[MessageParam]) -> list[MessageParam]:
            asked: list[MessageParam] = [*history, {"role": "user", "content": question}]
            answer = await self.client.messages.create(model="small", max_tokens=100, messages=asked)
            return [*asked, {"role": "assistant", "content": answer.content[0].text}]

        config = ChainConfig(checkpoint=self.kept, observer="noop")
        return (await process_chain(questions, [], step, config=config, run_id="conversation")).final


@asynccontextmanager
async def open_client(url: str):
    async with AsyncAnthropic(base_url=url, api_key="test", max_retries=0) as client:
        yield client


async def test_messages_with_tool_calls_are_recalled_equal(tmp_path):
    models = Models({"cats": [529, 429], "dogs": [500] * 3, "fish": [400] * 2})
    with trio.fail_after(20):
        async with open_server(models.app) as url, open_client(url) as client:
            notes = Notes(client, f"sqlite:///{tmp_path}/runs.db")
            first, account = await notes.write(["cats", "dogs", "fish", "birds"])
            assert set(first) == {"cats", "birds"}
            assert {failed.item: type(failed.error).__name__ for failed in account.errors} == {
                "dogs": "InternalServerError",
                "fish": "BadRequestError",
            }
            assert first["cats"].content[1].input == {"tags": ["cats"], "score": 0.5}
            calls = len(models.texts)
            second, _ = await notes.write(["birds", "cats", "dogs"])

    assert models.texts[calls:] == ["dogs"]
    assert {subject: second[subject] for subject in first} == first
    assert all(type(message) is Message for message in second.values())
    assert [type(block).__name__ for block in second["cats"].content] == ["TextBlock", "ToolUseBlock"]


async def test_a_conversation_goes_on_after_the_last_answer(tmp_path):
    models = Models({"third": [500]})
    with trio.fail_after(20):
        async with open_server(models.app) as url, open_client(url) as client:
            notes = Notes(client, f"sqlite:///{tmp_path}/runs.db")
            with pytest.raises(ChainError, match="step 2") as failed:
                await notes.converse(["first", "second", "third"])
            assert isinstance(failed.value.__cause__, anthropic.InternalServerError)
            history = await notes.converse(["first", "second", "third"])

    assert models.texts == ["first", "second", "third", "third"]
    assert [message["content"] for message in history] == ["first", "FIRST", "second", "SECOND", "third", "THIRD"]
