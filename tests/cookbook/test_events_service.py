"""The recipe of server-sent events on hypercorn[trio]: answers while they come, and drained at the end."""

import json
import signal
import subprocess
import sys
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio
import trio.testing

httpx = pytest.importorskip("httpx", reason="the client of its tests is httpx: tests group")
pytest.importorskip("starlette", reason="the recipe needs starlette: tests group")
pytest.importorskip("hypercorn", reason="the recipe needs hypercorn[trio]: tests group")

from events_service import make_app  # noqa: E402 - may be missing
from hypercorn.config import Config  # noqa: E402
from hypercorn.trio import serve  # noqa: E402


class Service:
    """The recipe's app, and what its runs came to."""

    def __init__(self, answer) -> None:
        self.accounts = []
        self.stopping = trio.Event()
        self.app = make_app(answer, self.stopping, self.accounts.append)


@asynccontextmanager
async def running(service: Service):
    """Yield a client of the service; `stopping` tells the service to stop."""
    config = Config()
    config.bind, config.graceful_timeout, config.errorlog = ["127.0.0.1:0"], 5, None
    async with trio.open_nursery() as nursery:
        (url,) = await nursery.start(partial(serve, service.app, config, shutdown_trigger=service.stopping.wait))
        async with httpx.AsyncClient(base_url=url, trust_env=False) as client:
            yield client
        service.stopping.set()


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
        async with running(service) as client, client.stream("POST", "/answers", json=["slow", "a", "bad"]) as response:
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
        async with running(service) as client:
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
        async with running(service) as client:
            prompts = [f"prompt {number}" for number in range(20)]
            async with client.stream("POST", "/answers", json=prompts) as response:
                await begun.wait()
                service.stopping.set()
                await trio.testing.wait_all_tasks_blocked()
                go_on.set()
                events = [came async for came in read_events(response)]
            with pytest.raises(OSError):  # nobody listens any more
                await trio.open_tcp_stream("127.0.0.1", client.base_url.port)

    answered = [data["prompt"] for name, data in events if name == "answer"]
    assert prompts[: len(answered)] == sorted(answered, key=prompts.index)
    assert 2 <= len(answered) <= 4
    assert events[-1] == ("end", {"status": "drained", "unfinished": 20 - len(answered)})


@pytest.mark.skipif(sys.platform == "win32", reason="a process of Windows is not asked to stop by SIGTERM")
async def test_sigterm_drains_what_the_program_answers(start_recipe):
    start = start_recipe("events_service.py", stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            process = await nursery.start(start)
            output = b""
            while b"\n" not in output:
                output += await process.stdout.receive_some()
            _, _, url, _, prompts = output.decode().strip().split(maxsplit=4)
            async with (
                httpx.AsyncClient(trust_env=False) as client,
                client.stream("POST", url, content=prompts.strip("'")) as response,
            ):
                events = read_events(response)
                came = [await anext(events)]
                process.send_signal(signal.SIGTERM)
                came += [event async for event in events]
            output += b"".join([part async for part in process.stdout])
    assert process.returncode == 0
    answered = [data["answer"] for name, data in came if name == "answer"]
    assert 2 <= len(answered) < 6
    assert set(answered) <= set("ABCDEF")
    assert came[-1] == ("end", {"status": "drained", "unfinished": 6 - len(answered)})
    assert f"<ParallelResult: drained, {len(answered)} ok" in output.decode()
