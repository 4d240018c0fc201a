"""A Starlette service on hypercorn[trio]: answers as server-sent events, while they come, and drained at the end."""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial

import pytest
import trio

from trioflow import ParallelConfig, ParallelRun, TaskOutcome, open_parallel

httpx = pytest.importorskip("httpx", reason="a program whose client is httpx: tests group")
pytest.importorskip("starlette", reason="a program with starlette: tests group")
pytest.importorskip("hypercorn", reason="a program that runs on hypercorn[trio]: tests group")

from hypercorn.config import Config  # noqa: E402 - may be missing
from hypercorn.trio import serve  # noqa: E402
from starlette.applications import Starlette  # noqa: E402
from starlette.requests import Request  # noqa: E402
from starlette.responses import StreamingResponse  # noqa: E402
from starlette.routing import Route  # noqa: E402


class EventResponse(StreamingResponse):
    """A response that opens its events where it sends them, so that a client that goes away ends the run behind."""

    media_type = "text/event-stream"

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[AsyncIterator[bytes]]]) -> None:
        super().__init__(())
        self._open = opened

    async def stream_response(self, send) -> None:
        async with self._open() as self.body_iterator:
            await super().stream_response(send)


class Service:
    """The program: each request is a run; `drain` lets what is in hand finish."""

    def __init__(self, answer) -> None:
        self.runs: set[ParallelRun[str, str]] = set()
        self.accounts = []
        self.draining = trio.Event()
        self._answer = answer
        self.app = Starlette(routes=[Route("/answers", self.answers, methods=["POST"])])

    async def answers(self, request: Request) -> EventResponse:
        prompts = await request.json()
        return EventResponse(partial(self.events, prompts))

    # Nothing may be yielded out of a plain async generator while a nursery is open: what the decorator makes runs in
    # a task of its own, which ends when the block is left.
    @trio.as_safe_channel
    async def events(self, prompts: list[str]) -> AsyncIterator[bytes]:
        config = ParallelConfig(max_workers=2, fail_fast=False, observer="noop")
        async with open_parallel(prompts, self._answer, config=config) as run:
            self.runs.add(run)
            try:
                if self.draining.is_set():
                    run.drain()
                async for outcome in run:
                    yield event_of(outcome)
                result = run.result()
                yield event("end", {"status": result.status, "unfinished": len(result.unfinished)})
            finally:
                self.runs.discard(run)
                self.accounts.append(run.result())

    def drain(self) -> None:
        self.draining.set()
        for run in self.runs:
            run.drain()

    async def run(self, until, *, task_status=trio.TASK_STATUS_IGNORED) -> None:
        """Serve until `until()` returns; then take no more connections, and finish what is in hand."""

        async def drain_when_told() -> None:
            await until()
            self.drain()

        config = Config()
        config.bind = ["127.0.0.1:0"]
        config.graceful_timeout = 5
        config.errorlog = None
        await serve(self.app, config, shutdown_trigger=drain_when_told, task_status=task_status)


def event_of(outcome: TaskOutcome[str, str]) -> bytes:
    if outcome.ok:
        return event("answer", {"prompt": outcome.item, "answer": outcome.unwrap()})
    return event("failure", {"prompt": outcome.item, "error": str(outcome.error)})


def event(name: str, data: dict) -> bytes:
    return f"event: {name}\ndata: {json.dumps(data)}\n\n".encode()


@asynccontextmanager
async def running(service: Service):
    """Yield a client of the service, and what tells the service to stop."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(service.run, stop.wait))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            yield client, stop
        stop.set()


async def read_events(response):
    name = ""
    async for line in response.aiter_lines():
        if line.startswith("event: "):
            name = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield name, json.loads(line.removeprefix("data: "))


async def test_answers_are_events_that_come_while_the_run_works():
    go_on = trio.Event()

    async def answer(prompt: str) -> str:
        if prompt == "slow":
            await go_on.wait()
        if prompt == "bad":
            raise ValueError("no answer to that")
        return prompt.upper()

    service = Service(answer)
    with trio.fail_after(10):
        async with running(service) as (client, _), client.stream("POST", "/answers", json=["slow", "a", "bad"]) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            events = []
            async for came in read_events(response):
                events.append(came)
                if len(events) == 2:  # "slow" is still worked on
                    go_on.set()

    assert events == [
        ("answer", {"prompt": "a", "answer": "A"}),
        ("failure", {"prompt": "bad", "error": "no answer to that"}),
        ("answer", {"prompt": "slow", "answer": "SLOW"}),
        ("end", {"status": "complete", "unfinished": 0}),
    ]


async def test_a_client_that_goes_away_ends_its_run():
    cancelled = trio.Event()

    async def answer(prompt: str) -> str:
        if prompt == "endless":
            try:
                await trio.sleep_forever()
            finally:
                cancelled.set()
        return prompt

    service = Service(answer)
    with trio.fail_after(10):
        async with running(service) as (client, _):
            # a socket that is closed in the middle, which httpx leaves generators behind of
            connection = await trio.open_tcp_stream("127.0.0.1", client.base_url.port)
            body = b'["first", "endless"]'
            head = f"POST /answers HTTP/1.1\r\nhost: test\r\ncontent-length: {len(body)}\r\n\r\n"
            await connection.send_all(head.encode() + body)
            received = b""
            while b"event: answer" not in received:
                received += await connection.receive_some()
            await connection.aclose()
            await cancelled.wait()
        assert not service.runs

    (account,) = service.accounts
    assert (account.results, account.unfinished) == (["first"], [1])


async def test_at_shutdown_what_is_in_hand_is_answered_and_the_rest_is_unfinished():
    begun, go_on = trio.Event(), trio.Event()

    async def answer(prompt: str) -> str:
        begun.set()
        await go_on.wait()
        return prompt

    service = Service(answer)
    with trio.fail_after(10):
        async with running(service) as (client, stop):
            prompts = [f"prompt {number}" for number in range(20)]
            async with client.stream("POST", "/answers", json=prompts) as response:
                await begun.wait()
                stop.set()
                await service.draining.wait()
                go_on.set()
                events = [came async for came in read_events(response)]
            with pytest.raises(OSError):  # nobody listens any more
                await trio.open_tcp_stream("127.0.0.1", client.base_url.port)

    answered = [data["prompt"] for name, data in events if name == "answer"]
    assert prompts[: len(answered)] == sorted(answered, key=prompts.index)
    assert 2 <= len(answered) <= 4
    assert events[-1] == ("end", {"status": "drained", "unfinished": 20 - len(answered)})
