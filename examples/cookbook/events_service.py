"""A Starlette service on hypercorn[trio]: answers as server-sent events, drained at SIGTERM.

Run it: `pip install starlette "hypercorn[trio]"`, `python examples/cookbook/events_service.py`
"""

import signal
from collections.abc import AsyncGenerator, Awaitable, Callable
from functools import partial
from typing import Any

import msgspec
import trio
from hypercorn.config import Config
from hypercorn.trio import serve
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.routing import Route

from trioflow import ParallelConfig, open_parallel


def make_app(answer: Callable[[str], Awaitable[str]], stopping: trio.Event, on_end: Any = print) -> Any:
    config = ParallelConfig(max_workers=2, fail_fast=False, observer="noop")

    # Nothing may be yielded out of a plain async generator while a nursery is open (ASYNC101, ASYNC119): what
    # the decorator makes runs in a task of its own, which ends when the response does.
    @trio.as_safe_channel
    async def events(prompts: list[str]) -> AsyncGenerator[bytes, None]:
        async def drain() -> None:
            await stopping.wait()
            run.drain()  # what is in hand is finished, and nothing more begun

        async with open_parallel(prompts, answer, config=config) as run, trio.open_nursery() as nursery:
            nursery.start_soon(drain)
            try:
                async for outcome in run:
                    end = {"answer": outcome.result} if outcome.ok else {"error": str(outcome.error)}
                    yield event("answer" if outcome.ok else "failure", prompt=outcome.item, **end)  # noqa: ASYNC101, ASYNC119
                yield event("end", status=run.result().status, unfinished=len(run.result().unfinished))  # noqa: ASYNC101, ASYNC119
            finally:
                on_end(run.result())
            nursery.cancel_scope.cancel()

    async def answers(request: Request) -> Any:
        prompts = await request.json()

        # The events are opened where they are sent: a client that goes away ends the run behind them.
        async def respond(*connection: Any) -> None:
            async with events(prompts) as channel:
                await StreamingResponse(channel, media_type="text/event-stream")(*connection)

        return respond

    return Starlette(routes=[Route("/answers", answers, methods=["POST"])])


def event(name: str, **data: object) -> bytes:
    return f"event: {name}\ndata: {msgspec.json.encode(data).decode()}\n\n".encode()


async def shout(prompt: str) -> str:
    await trio.sleep(0.5)  # stands for a call to a model
    return prompt.upper()


async def main() -> None:
    config, stopping = Config(), trio.Event()
    config.bind, config.graceful_timeout = ["127.0.0.1:0"], 5
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async with trio.open_nursery() as nursery:
            app = make_app(shout, stopping)
            (url,) = await nursery.start(partial(serve, app, config, shutdown_trigger=stopping.wait))
            print(f"curl -N {url}/answers -d '[\"a\", \"b\", \"c\", \"d\", \"e\", \"f\"]'", flush=True)
            await anext(signals)
            stopping.set()  # hypercorn takes no more connections, and each run is drained


if __name__ == "__main__":
    trio.run(main)
