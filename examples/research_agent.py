"""An agent that researches a question in a loop, with branches that work at once; killed half-way, and resumed.

Run it (`pip install h11 "openai>=1.63"` beside trioflow; older clients need asyncio)::

    python examples/research_agent.py [--seed N] [--faults SHARE] [--store FILE]

It plans what to search for in the language topics that ship with Python. Then three branches work at once: one has
topics summed up, one asks the model for an opinion, one computes which words matter. A judge sends it back to the
plan until the notes cover the question. The model has room for a short text only: at first the opinion fails, and
an error edge leads it to a node that cuts the texts, while the other branches go on. All this is done by a child
process, which is killed with SIGKILL in the second round and started again: no call whose answer was written is
made twice. The service is that of `document_review.py`; the same seed gives the same path and report. Ctrl-C does
no harm: run it again with the same `--store`.
"""

import argparse
import math
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from pydoc_data.topics import topics

import msgspec
import trio
from document_review import Ask, open_client, share, words
from msgspec.structs import replace

# isort: split
import openai  # where it is missing, document_review has said so

from trioflow import (
    CheckpointConfig,
    ExecutionError,
    GraphConfig,
    ParallelConfig,
    ParallelResult,
    RetryConfig,
    StateGraph,
    branches_node,
    current_run,
    graph_node,
    parallel_node,
    with_retry,
)
from trioflow.checkpoint.sqlite import SqliteStore

RUN_ID = "research"
QUESTION = "When is an exception raised in a generator, and what does a context manager do with it?"
KILL_AFTER, ENOUGH, MOST_ROUNDS = 9, 0.8, 3
TOPICS_A_ROUND, TOPIC_LENGTH, MODEL_LIMIT = 4, 4_000, 6_000
WORDS = {topic: words(text) for topic, text in topics.items()}
RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError)


class Research(msgspec.Struct, frozen=True):
    """The state of a run: what it searches for, has read and noted, and which words of the question it lacks."""

    question: str
    query: tuple[str, ...] = ()
    read: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    weights: dict[str, float] = {}
    missing: tuple[str, ...] = ()
    covered: float = 0.0
    rounds: int = 0
    report: str = ""


class Opinion(msgspec.Struct, frozen=True):
    """The state of the graph inside the branch that asks the model for an opinion."""

    question: str
    texts: tuple[str, ...]
    answer: str = ""


class TooLongError(ValueError):
    """The text is longer than the model takes."""


def main() -> int:
    """Read the command line, run the two children, and return the exit status."""
    parser = argparse.ArgumentParser(description="Research a question in Python's language topics.")
    parser.add_argument("--seed", type=int, default=4, help="what the local server's faults are drawn from")
    parser.add_argument("--faults", type=share, default=0.1, help="share of calls that it fails, from 0 to 1")
    parser.add_argument("--store", type=Path, help="the file that keeps the run; a temporary one by default")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        return trio.run(research, options)
    status = 130  # what shells expect of a program that Ctrl-C ended
    try:
        with tempfile.TemporaryDirectory() as folder:
            options.store = options.store or Path(folder) / "runs.db"
            status = trio.run(show, options)
    except* KeyboardInterrupt:
        print("research agent: interrupted", file=sys.stderr)
    return status


async def show(options: argparse.Namespace) -> int:
    """Run a child and kill it half-way, run another one, and print the path and what was saved."""
    before = await count_written(options.store)
    first, status = await run_child(options, kill_after=KILL_AFTER)
    written, second = await count_written(options.store) - before, list[str]()
    if len(first) >= KILL_AFTER:  # more, if others were on their way when it was killed
        print(f"killed after {len(first)} answers, of which {written} were written", flush=True)
        second, status = await run_child(options, kill_after=None)
    await show_paths(options.store)
    again = len(set(first) & set(second))
    print(f"calls: {len(first + second)}, {again} of them made again; saved: {before + written}")
    # What was written is among the first; none of it was asked for again if there is room for both.
    return status or int(written + again > len(first))


async def run_child(options: argparse.Namespace, kill_after: int | None) -> tuple[list[str], int]:
    """Run this program as a child, and kill it after so many answers; return their keys, and its exit status."""
    given = [f"--{name}={getattr(options, name)}" for name in ("seed", "faults", "store")]
    answered, rest = [], b""
    async with trio.open_nursery() as nursery:
        # In a session of its own: Ctrl-C is for the parent, and what leaves the nursery ends the child.
        command = [sys.executable, __file__, "--child", *given]
        run = partial(trio.run_process, command, stdout=subprocess.PIPE, check=False, start_new_session=True)
        child: trio.Process = await nursery.start(run)
        assert child.stdout is not None  # noqa: S101 - it is a pipe
        async for data in child.stdout:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                if line.startswith(b"answered "):
                    answered.append(line.split()[1].decode())
                else:
                    print(line.decode(), flush=True)
                if len(answered) == kill_after:
                    child.kill()
    return answered, child.returncode or 0


async def count_written(path: Path) -> int:
    """Return how many answers the store has: items of the fan-outs that read, and steps of the nodes that ask."""
    if not await trio.Path(path).exists():
        return 0
    async with SqliteStore(path, read_only=True) as store:
        runs = await store.list_runs()
        steps = [step for run in runs if run.kind == "graph" for step in await store.history(run.run_id)]
    # both graphs end with a node that asks
    asked = sum(step.node == "plan" or step.next_node == "" for step in steps)
    return asked + sum(run.items for run in runs if run.run_id.endswith("..read"))


async def show_paths(path: Path) -> None:
    """Print which nodes the run completed, and those of the graph inside its branch."""
    async with SqliteStore(path, read_only=True) as store:
        for run in [run for run in await store.list_runs() if run.kind == "graph"]:
            nodes = [step.node for step in await store.history(run.run_id) if step.node]
            print(f"path of {run.run_id}: {' -> '.join(nodes)}")


async def research(options: argparse.Namespace) -> int:
    """Go on with the run, or begin it; print a line for each answer that is paid for."""
    async with open_client(options.seed, options.faults) as client, SqliteStore(options.store) as store:
        graph = build_graph(build_ask(client), store)
        begun = any(run.run_id == RUN_ID for run in await store.list_runs())
        print("" if begun else graph.to_mermaid(), flush=True)
        try:
            result = await (graph.resume(RUN_ID) if begun else graph.execute(Research(QUESTION), run_id=RUN_ID))
        except ExecutionError as error:
            print(f"research agent: {error}", file=sys.stderr)
            return 1
    print(f"\n{result.state.report}\n", flush=True)
    return 0


def build_ask(client: openai.AsyncOpenAI) -> Ask:
    """Return the function that asks the service, again where that helps, and prints the key of each answer."""

    async def call(prompt: str, text: str) -> str:
        if len(text) > MODEL_LIMIT:
            raise TooLongError(f"{len(text)} characters are more than {MODEL_LIMIT}")
        completion = await client.chat.completions.create(
            model=os.environ.get("OPENAI_MODEL") or "gpt-4o-mini",
            messages=[{"role": "system", "content": prompt}, {"role": "user", "content": text}],
            # a service that knows such keys does not charge twice for what was in hand at the kill
            extra_headers={"Idempotency-Key": current_run().key},
        )
        print("answered", current_run().key, flush=True)
        return completion.choices[0].message.content or ""

    return with_retry(call, RetryConfig(max_attempts=5, initial_delay=0.1), on=RETRIED)


def build_graph(ask: Ask, store: SqliteStore | None = None) -> StateGraph[Research]:
    """Return the graph: plan, work in branches, judge, and again until there is enough to write."""
    # Kept when it is complete, so that the parent can read the path; by default a run is then forgotten.
    config = GraphConfig(name="research", observer="noop", checkpoint=CheckpointConfig(preserve=True))
    graph = StateGraph(config, Research, store=store)

    @graph.node
    async def plan(state: Research) -> Research:
        text = f"The notes lack {', '.join(state.missing)}." if state.missing else state.question
        answer = await ask("Name the words to search the documentation for.", text)
        return replace(state, query=tuple(sorted(words(answer))), rounds=state.rounds + 1)

    async def read(topic: str) -> str:
        return await ask("Summarise the user's text in at most two sentences.", topics[topic][:TOPIC_LENGTH])

    def note(state: Research, result: ParallelResult[str, str]) -> Research:
        return replace(state, notes=(*state.notes, *result.results), read=(*state.read, *search(state)))

    async def weigh(state: Research) -> Research:
        # counting is work for the processor: in a thread, it holds nobody up
        return replace(state, weights=await trio.to_thread.run_sync(weights, sorted(words(state.question))))

    branches: dict[str, Callable[[Research], Awaitable[Research]]] = {
        "read": parallel_node(read, items=search, aggregate=note, config=ParallelConfig(max_workers=2)),
        "opinion": graph_node(
            build_opinion(ask),
            enter=lambda state: Opinion(state.question, tuple(topics[topic] for topic in search(state))),
            leave=lambda state, opinion: replace(state, notes=(*state.notes, opinion.answer)),
        ),
        "weigh": weigh,
    }
    graph.add_node("investigate", branches_node(branches, reducers={"notes": join_notes}))

    @graph.node
    async def judge(state: Research) -> Research:
        await trio.lowlevel.checkpoint()  # a node is async; this one has nothing to wait for
        missing = state.weights.keys() - words(" ".join(state.notes))
        lost = sum(state.weights[word] for word in sorted(missing)) / (sum(state.weights.values()) or 1)
        print(f"judge: {len(state.notes)} notes on {len(state.read)} topics cover {1 - lost:.0%}", flush=True)
        return replace(state, missing=tuple(sorted(missing)), covered=1 - lost)

    @graph.node
    async def write(state: Research) -> Research:
        text = "\n\n".join([state.question, *state.notes])[:MODEL_LIMIT]
        answer = await ask("Answer the user's question from the notes.", text)
        return replace(state, report=f"{state.question}\n{answer}\nRead: {', '.join(state.read)}")

    graph.set_entry_point("plan")
    graph.add_edge("plan", "investigate")
    graph.add_edge("investigate", "judge")
    graph.add_edge("judge", "write", when=lambda state: state.covered >= ENOUGH, name="enough")
    graph.add_edge("judge", "write", when=lambda state: state.rounds >= MOST_ROUNDS, name="tired")
    graph.add_edge("judge", "plan")
    graph.set_exit_point("write")
    return graph


def build_opinion(ask: Ask) -> StateGraph[Opinion]:
    """Return the graph inside a branch: ask the model with all texts, or shorter ones where it has no room."""
    graph = StateGraph(GraphConfig(name="opinion", observer="noop"), Opinion)

    @graph.node("ask")
    async def ask_model(state: Opinion) -> Opinion:
        text = "\n\n".join([state.question, *state.texts])
        return replace(state, answer=await ask("Answer the user's question from the texts.", text))

    @graph.node
    async def shorten(state: Opinion) -> Opinion:
        await trio.lowlevel.checkpoint()
        room = (MODEL_LIMIT - len(state.question)) // len(state.texts) - 2
        return replace(state, texts=tuple(text[:room] for text in state.texts))

    graph.set_entry_point("ask")
    graph.add_error_edge("ask", "shorten", on=TooLongError)
    graph.add_edge("shorten", "ask")
    graph.set_exit_point("ask")
    return graph


def join_notes(before: tuple[str, ...], values: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    """Return the notes before and what each branch has added to them."""
    return (*before, *(note for value in values for note in value[len(before) :]))


def search(state: Research) -> list[str]:
    """Return the topics that have the most of what this round searches for, without those that were read."""
    wanted = weights(state.query)

    def score(topic: str) -> float:
        # the square root lets longer topics win, but not for their length alone
        return sum(wanted[word] for word in wanted if word in WORDS[topic]) / math.sqrt(len(WORDS[topic]) + 100)

    return sorted(topics.keys() - state.read, key=lambda topic: (-score(topic), topic))[:TOPICS_A_ROUND]


def weights(asked: Sequence[str]) -> dict[str, float]:
    """Return what each word counts for: more, the fewer topics have it."""
    return {word: math.log(len(WORDS) / sum((word in found for found in WORDS.values()), 1) + 1) for word in asked}


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
