"""A web service whose runs outlive it: reviews that wait for approval, two worker processes, one of them killed.

Run it (with `pip install starlette "hypercorn[trio]"` beside trioflow)::

    python examples/service.py [--count N] [--store FILE] [--serve]

The web server makes no runs: it submits them to a SQLite file, and passes approvals on as signals. Two worker
processes make them. The program then uses itself as its users would, over HTTP: it submits reviews, kills a worker
with SIGKILL while they are under way, approves them, and prints what became of each and which processes made its
steps. With `--serve` it goes on serving, for a `curl` and a `kill -9` of your own, until Ctrl-C.
"""

import argparse
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import trio

from trioflow import (
    CheckpointNotFoundError,
    GraphConfig,
    ServiceConfig,
    State,
    StateGraph,
    durable_sleep,
    open_service,
    service_client,
    wait_for_signal,
)
from trioflow.checkpoint.sqlite import SqliteStore

try:
    from hypercorn.config import Config
    from hypercorn.trio import serve as serve_app
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route
except ImportError as missing:
    raise SystemExit(f"this example needs {missing.name}: pip install starlette 'hypercorn[trio]'") from None

# Short ones, so that there is something to see; a real service takes the defaults.
SETTINGS = ServiceConfig(max_runs=8, lease=2.0, poll=0.1, park_after=0.2, observer="noop")
WORKERS = 2


def main() -> int:
    """Read the command line, run the server or a worker, and return the exit status."""
    parser = argparse.ArgumentParser(description="A web service whose runs outlive their processes.")
    parser.add_argument("--count", type=int, default=6, help="how many reviews")
    parser.add_argument("--store", type=Path, help="the file that keeps the runs; a temporary one by default")
    parser.add_argument("--serve", action="store_true", help="go on serving until Ctrl-C")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        if options.worker:
            trio.run(work, options.store)
            return 0
        with tempfile.TemporaryDirectory() as folder:
            return trio.run(show, options.store or Path(folder) / "runs.db", options.count, options.serve)
    except* KeyboardInterrupt:
        print("interrupted: the runs stay in the store", flush=True)
    return 130


# The graph, and the process that makes its runs.


def build_graph() -> StateGraph[State]:
    """Return the graph of a review: check the text, let it rest, and wait for an approval."""
    graph = StateGraph(GraphConfig(name="review", observer="noop"))

    def made_by(state: State) -> list[int]:
        return [*state.get("made_by", []), os.getpid()]

    async def check(state: State) -> State:
        await trio.sleep(0.3)  # stands for a call to a model
        return state.merge(words=len(state["text"].split()), made_by=made_by(state))

    async def rest(state: State) -> State:
        await durable_sleep(0.5)
        return state.set("made_by", made_by(state))

    async def approve(state: State) -> State:
        answer = await wait_for_signal("approval", timeout=24 * 3600)
        return state.merge(approved=answer["approved"], made_by=made_by(state))

    graph.add_node("check", check)
    graph.add_node("rest", rest)
    graph.add_node("approve", approve)
    graph.add_edge("check", "rest")
    graph.add_edge("rest", "approve")
    graph.set_entry_point("check")
    graph.set_exit_point("approve")
    return graph


async def work(path: Path) -> None:
    """Make runs until SIGTERM; then let the steps in hand end."""
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with SqliteStore(path) as store, open_service(store, [build_graph()], config=SETTINGS):
            print("ready", flush=True)
            async for _ in signals:
                break


# The web server.


def build_app(store: SqliteStore) -> Starlette:
    """Return the application: it submits, signals and looks, and makes no runs."""
    client = service_client(store, [build_graph()])

    async def submit(request: Request) -> JSONResponse:
        text = str((await request.json())["text"])
        return JSONResponse({"id": await client.submit("review", State(text=text))}, 202)

    async def answer(request: Request) -> JSONResponse:
        approved = bool((await request.json())["approved"])
        try:
            await client.signal(request.path_params["id"], "approval", {"approved": approved})
        except CheckpointNotFoundError as error:
            return JSONResponse({"error": str(error)}, 404)
        return JSONResponse({}, 202)

    async def look(request: Request) -> JSONResponse:
        run_id = request.path_params["id"]
        try:
            run = await store.look(run_id)
            state: dict[str, Any] = {}
            if run.status == "completed":
                state = dict((await client.result(run_id)).state)
        except CheckpointNotFoundError as error:
            return JSONResponse({"error": str(error)}, 404)
        return JSONResponse({"status": run.status, "reason": run.reason, **state})

    return Starlette(
        routes=[
            Route("/reviews", submit, methods=["POST"]),
            Route("/reviews/{id}/approval", answer, methods=["POST"]),
            Route("/reviews/{id}", look),
        ]
    )


@asynccontextmanager
async def open_web_server(store: SqliteStore) -> AsyncIterator[str]:
    """Serve the application on a free port of this machine while the block runs, and yield its address."""
    config = Config()
    config.accesslog, config.loglevel, config.graceful_timeout = None, "ERROR", 0.5
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        config.bind = [f"fd://{bound.detach()}"]
    async with trio.open_nursery() as nursery:
        app: Any = build_app(store)
        serve = partial(serve_app, app, config, shutdown_trigger=trio.sleep_forever)
        (address,) = await nursery.start(serve)
        yield address
        nursery.cancel_scope.cancel(reason="the block was left")


# What the users do.


async def show(path: Path, count: int, serve: bool) -> int:  # noqa: FBT001 - called by position
    """Submit reviews, kill a worker, approve the reviews, and print what became of them."""
    workers = [start_worker(path) for _ in range(WORKERS)]
    try:
        await trio.to_thread.run_sync(wait_until_ready, workers)
        async with SqliteStore(path) as store, open_web_server(store) as address:
            print(f"serving {address}, workers {', '.join(str(worker.pid) for worker in workers)}", flush=True)
            ids = [await submit(address, f"text number {number}") for number in range(count)]
            await trio.sleep(0.6)
            workers[0].kill()
            print(f"submitted {count} reviews, killed worker {workers[0].pid}", flush=True)
            for number, run_id in enumerate(ids):
                await ask(f"{address}/reviews/{run_id}/approval", {"approved": number % 3 != 0})
            completed = [await wait_for_end(address, run_id) for run_id in ids]
            changed = sum(len(set(made_by)) > 1 for made_by in completed)
            print(f"{len(completed)} of {count} reviews completed, {changed} of them by two workers", flush=True)
            if serve:
                print(f"curl -d '{{\"text\": \"...\"}}' {address}/reviews (Ctrl-C ends it)", flush=True)
                await trio.sleep_forever()
    finally:
        for worker in workers:
            worker.terminate()
        for worker in workers:
            worker.wait()
            if worker.stdout is not None:
                worker.stdout.close()
    return 0


async def ask(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return what the web server answers; with a `body` it is sent something."""
    data = None if body is None else json.dumps(body).encode()
    # Nobody is asked for this machine's own address.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def call() -> dict[str, Any]:
        with opener.open(url, data, timeout=10) as response:
            answer: dict[str, Any] = json.load(response)
        return answer

    return await trio.to_thread.run_sync(call)


async def submit(address: str, text: str) -> str:
    """Submit a review, and return its id."""
    run_id: str = (await ask(f"{address}/reviews", {"text": text}))["id"]
    return run_id


async def wait_for_end(address: str, run_id: str) -> list[int]:
    """Wait until the review has ended, print it, and return the processes that made its steps."""
    url = f"{address}/reviews/{run_id}"
    while (review := await ask(url))["status"] != "completed":  # noqa: ASYNC110 - it is asked over HTTP
        await trio.sleep(0.1)
    verdict = "approved" if review["approved"] else "rejected"
    print(f"{run_id[:8]} {verdict}, {review['words']} words, steps made by {review['made_by']}", flush=True)
    made_by: list[int] = review["made_by"]
    return made_by


def start_worker(path: Path) -> subprocess.Popen[bytes]:
    """Start this program as a worker, in a session of its own: Ctrl-C is for the web server."""
    command = [sys.executable, __file__, "--worker", "--store", str(path)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True)  # noqa: S603 - itself


def wait_until_ready(workers: list[subprocess.Popen[bytes]]) -> None:
    """Wait until each worker says that it takes runs."""
    for worker in workers:
        if worker.stdout is None or worker.stdout.readline() != b"ready\n":
            raise SystemExit("a worker did not start")


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
