"""A service that writes briefings: the program that docs/tutorial builds, page by page.

Run it (`pip install '.[cli,ui]' h11 "openai>=1.63" rich` in the clone)::

    python examples/briefing.py try                          # one fan-out, shown as it goes
    python examples/briefing.py serve --store briefings.db   # the service, and the page of its runs

A briefing is about some of the topics in `notes.py`. The service has each of them summarised through the `openai`
client, many at once, writes a text, and waits until somebody says "publish" or "shorter". What it does is in the
store, so it may be killed at any time. From another terminal::

    trioflow runs submit briefing --store sqlite:///briefings.db --state '{"topics": ["with", "try"]}'
    trioflow runs signal RUN_ID resume --store sqlite:///briefings.db --payload '{"answer": "publish"}'

The calls go to the service that `OPENAI_BASE_URL` and `OPENAI_API_KEY` name, or else to a local server, which is
slow and fails as real ones do.
"""

import argparse
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio
from fan_out import open_client
from notes import NOTES

from trioflow import (
    CheckpointNotFoundError,
    CheckpointStore,
    GraphConfig,
    GraphResult,
    ParallelConfig,
    ParallelResult,
    RateLimiter,
    RetryConfig,
    ServiceConfig,
    State,
    StateGraph,
    key_equals,
    open_parallel,
    open_service,
    parallel_node,
    pause,
    with_rate_limit,
    with_retry,
    with_timeout,
)
from trioflow.checkpoint.sqlite import SqliteStore
from trioflow.ui import serve_page

try:
    import openai
except ImportError as missing:
    raise SystemExit(f"this example needs {missing.name}: pip install h11 'openai>=1.63'") from None

NAMES = list(NOTES)

# Page 1: a fan-out.


async def summarise(client: openai.AsyncOpenAI, name: str) -> str:
    """Ask the model for a summary of one topic."""
    completion = await client.chat.completions.create(
        model=os.environ.get("OPENAI_MODEL") or "gpt-4o-mini",
        messages=[{"role": "user", "content": NOTES[name]}],
    )
    return completion.choices[0].message.content or ""


# Page 2: its limits.

RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, trio.TooSlowError)


def careful(client: openai.AsyncOpenAI) -> Callable[[str], Awaitable[str]]:
    """Return what summarises a topic: each attempt timed and paced, and made again where that may help."""
    timed = with_timeout(partial(summarise, client), 10)
    paced = with_rate_limit(timed, RateLimiter(50, burst=10))
    return with_retry(paced, RetryConfig(max_attempts=4), on=RETRIED, delay=retry_after)


def retry_after(error: Exception) -> float | None:
    """Return the seconds that the service asks to wait; None leaves that to the back-off."""
    try:
        return float(error.response.headers["retry-after"])  # type: ignore[attr-defined]
    except (AttributeError, KeyError, ValueError):
        return None


# Page 3: a stream.

FAN_OUT = ParallelConfig(max_workers=8, fail_fast=False, observer="noop")


async def follow(call: Callable[[str], Awaitable[str]], names: Sequence[str]) -> ParallelResult[str, str]:
    """Summarise the topics, and print what becomes of each as it is known."""
    async with open_parallel(names, call, config=FAN_OUT) as run:
        async for outcome in run:
            ok = outcome.ok
            end = f"{outcome.duration:.1f} s" if ok else f"failed: {outcome.error}"
            print(f"{outcome.item}: {end}")
    return run.result()


# Page 4: a graph.


def build(call: Callable[[str], Awaitable[str]], store: CheckpointStore | None = None) -> StateGraph[State]:
    """Return the graph of a briefing: collect summaries, write, wait for an answer, publish."""
    config = GraphConfig(name="briefing", observer="noop")
    graph = StateGraph(config, store=store, on_resume=take_answer)
    collect = parallel_node(call, items=lambda state: state["topics"], aggregate=keep, config=FAN_OUT)
    graph.add_node("collect", collect)
    graph.add_node("write", write)
    graph.add_node("approve", approve)
    graph.add_node("publish", publish)
    graph.add_edge("collect", "write")
    graph.add_edge("write", "approve")
    wants_less = key_equals("answer", "shorter")
    graph.add_edge("approve", "write", when=wants_less, name="shorter")
    graph.add_edge("approve", "publish")
    graph.set_entry_point("collect")
    graph.set_exit_point("publish")
    return graph


def keep(state: State, result: ParallelResult[str, str]) -> State:
    """Put the summaries into the state, and the topics that have none."""
    names = [state["topics"][index] for index in result.indices]
    missing = [failed.item for failed in result.errors]
    summaries = dict(zip(names, result.results, strict=True))
    return state.merge(summaries=summaries, missing=missing)


async def write(state: State) -> State:
    """Write the briefing; where a shorter one is wanted, with one sentence for each topic."""
    shorter = state.get("answer") == "shorter"
    summaries = {name: text.split(". ")[0] if shorter else text for name, text in state["summaries"].items()}
    text = "\n".join(f"{name}: {summary}" for name, summary in summaries.items())
    return state.merge(text=text, answer=None)


async def approve(state: State) -> State:
    """Wait for somebody who has read it."""
    if state["answer"] is None:
        pause({"publish or shorter?": state["text"]})
    return state


async def publish(state: State) -> State:
    """Publish the briefing: here would be a call to whatever publishes."""
    return state.set("published", True)


def take_answer(state: State, payload: Any) -> State:
    """Bring an answer into the state of the run that waits for it."""
    return state.set("answer", payload["answer"])


# Page 5: a run that survives.


async def go_on(graph: StateGraph[State], run_id: str, names: Sequence[str]) -> GraphResult[State]:
    """Go on with the run, or begin it."""
    try:
        return await graph.resume(run_id)
    except CheckpointNotFoundError:
        return await graph.execute(State(topics=list(names)), run_id=run_id)


# Pages 6 and 7: the page of runs, and the service.


async def serve(path: Path, port: int, config: ServiceConfig) -> None:
    """Make the briefings that are submitted to the store, and show them, until SIGTERM or Ctrl-C."""
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        async with open_client(seed=70) as client, SqliteStore(path) as store:
            graph = build(careful(client))
            async with open_service(store, [graph], config=config), trio.open_nursery() as nursery:
                url = f"sqlite:///{path}"
                page = partial(serve_page, url, port=port, graphs=[graph], show_data=True)
                address = await nursery.start(page)
                print(f"serving briefings, shown at {address} (Ctrl-C ends it)", flush=True)
                async for _ in signals:
                    nursery.cancel_scope.cancel(reason="a signal came")


# The command line.


async def show() -> None:
    """Summarise all topics once."""
    async with open_client(seed=70) as client:
        print(await follow(careful(client), NAMES))


def main() -> int:
    """Read the command line, and do what it says."""
    parser = argparse.ArgumentParser(description="A service that writes briefings.")
    parser.add_argument("command", choices=("try", "serve"))
    parser.add_argument("--store", type=Path, default=Path("briefings.db"), help="the file that keeps the runs")
    parser.add_argument("--port", type=int, default=8765, help="where the page of runs is served; 0 for any")
    parser.add_argument("--lease", type=float, default=30.0, help="seconds after which a dead process is replaced")
    options = parser.parse_args()
    if options.command == "try":
        trio.run(show)
    else:
        trio.run(serve, options.store, options.port, ServiceConfig(lease=options.lease, observer="noop"))
    return 0


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
