"""A draft reviewed by three at once and revised until two approve: a graph with a loop, watched step by step.

Run it (`pip install h11 "openai>=1.63"` beside trioflow; older clients need asyncio)::

    python examples/document_review.py [--seed N] [--faults SHARE]

The text is a language topic that ships with Python, cut into three parts: the draft sums up the first one, and
each revision adds the next. A reviewer has the service say what matters and holds that against the draft; where
its call fails, there is no verdict and the others decide. The service is `chat_server.py`, a local server that
fails as real ones do; the same seed gives the same path and verdicts, and `--faults 1` shows how a run fails.
With `OPENAI_BASE_URL` and `OPENAI_API_KEY` set it calls that service instead, with the model in `OPENAI_MODEL`
(else gpt-4o-mini). Ctrl-C ends it.
"""

import argparse
import os
import re
import signal
import sys
import textwrap
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pydoc_data.topics import topics

import msgspec
import trio
from chat_server import FaultRates, open_chat_server
from msgspec.structs import replace

from trioflow import (
    ExecutionError,
    GraphConfig,
    GraphStep,
    ParallelConfig,
    ParallelResult,
    RetryConfig,
    StateGraph,
    parallel_node,
)

try:
    import openai
except ImportError as missing:
    raise SystemExit(f"this example needs {missing.name}: pip install h11 'openai>=1.63'") from None

TOPIC = "import"
TEXT_LENGTH = 5_000
QUORUM = 2
MOST_REVISIONS = 2
PROMPT = "Summarise the user's text in at most two sentences."

Ask = Callable[[str, str], Awaitable[str]]
"""What the service is to the graph: an async function of a prompt and a text that returns an answer."""


class Verdict(msgspec.Struct, frozen=True):
    """What one reviewer says of the draft."""

    reviewer: str
    approves: bool | None
    """None where the reviewer failed: no verdict."""
    reason: str


class Review(msgspec.Struct, frozen=True):
    """The state of a run: each node makes a new one of the one that it is given."""

    title: str
    parts: tuple[str, ...]
    """The text: a part for the draft, and one for each revision."""
    draft: str = ""
    verdicts: tuple[Verdict, ...] = ()
    """Those of the last round."""
    approvals: int = 0
    revisions: int = 0


class Reviewer(msgspec.Struct, frozen=True):
    """Somebody who has the service sum a text up, and judges the draft by the answer."""

    reads: Callable[[Review], str]
    """Returns the text, given the state."""
    judge: Callable[[Review, str], tuple[bool, str]]
    """Returns whether the draft will do, and why, given the state and the answer."""


def main() -> int:
    """Read the command line, run the review, and return the exit status."""
    parser = argparse.ArgumentParser(description="Review a summary of one of Python's language topics.")
    parser.add_argument("--seed", type=int, default=9, help="what the local server's faults are drawn from")
    parser.add_argument("--faults", type=share, default=0.2, help="share of calls that it fails, from 0 to 1")
    options = parser.parse_args()
    # what shells expect of a program that Ctrl-C ended
    status = 130
    try:
        status = trio.run(demo, options.seed, options.faults)
    except* KeyboardInterrupt:
        print("document review: interrupted", file=sys.stderr)
    return status


def share(text: str) -> float:
    """Return the number in `text`, for argparse."""
    number = float(text)
    if not 0 <= number <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {text}")
    return number


async def demo(seed: int, faults: float) -> int:
    """Review a summary of the topic, print what happens, and return the exit status."""
    async with open_client(seed, faults) as client:
        graph = build_graph(build_ask(client))
        print(graph.to_mermaid(), flush=True)
        try:
            async with graph.open_run(cut(topics[TOPIC])) as run:
                async for step in run:
                    show(step)
        except ExecutionError as error:
            print(f"document review: {error}", file=sys.stderr)
            return 1
    result = run.result()
    print(f"\npath: {' -> '.join(result.path)}\n\n{result.state.draft}")
    return 0


def show(step: GraphStep[Review]) -> None:
    """Print what a step came to."""
    state, said = step.state, ""
    if step.node == "review":
        votes = {True: "approves", False: "rejects", None: "no verdict"}
        for verdict in state.verdicts:
            said += f"\n    {verdict.reviewer:<10}{votes[verdict.approves]:<12}{verdict.reason}"
    elif step.node == "decide":
        said = f" {state.approvals} of {len(state.verdicts)} approve, {QUORUM} are enough"
    elif step.node == "publish":
        said = " approved" if approved(state) else " not approved, but out of revisions"
    else:
        said = f" {len(state.draft.split())} words"
    print(f"{step.node}:{said}", flush=True)


@asynccontextmanager
async def open_client(seed: int, faults: float) -> AsyncIterator[openai.AsyncOpenAI]:
    """Open a client of the service that the environment names, or else of a local server."""
    if os.environ.get("OPENAI_BASE_URL") and os.environ.get("OPENAI_API_KEY"):
        async with openai.AsyncOpenAI(max_retries=0) as client:
            yield client
    else:
        rates = FaultRates(rate_limited=faults / 4, server_error=faults / 2, dropped=faults / 4, persistent=0)
        # a proxy that the environment names cannot reach our loopback interface
        direct = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with (
            open_chat_server(seed=seed, faults=rates) as base_url,
            openai.AsyncOpenAI(base_url=base_url, api_key="local", max_retries=0, http_client=direct) as client,
        ):
            yield client


def build_ask(client: openai.AsyncOpenAI) -> Ask:
    """Return the function that asks the service once; to ask again is the graph's part."""
    model = os.environ.get("OPENAI_MODEL") or "gpt-4o-mini"

    async def ask(prompt: str, text: str) -> str:
        completion = await client.chat.completions.create(
            model=model,
            messages=[{"role": "system", "content": prompt}, {"role": "user", "content": text}],
        )
        return completion.choices[0].message.content or ""

    return ask


def cut(text: str) -> Review:
    """Return the state that a run begins with: the start of `text`, cut between paragraphs into equal parts."""
    title, _, body = text[:TEXT_LENGTH].strip().partition("\n")
    parts = [""] * (MOST_REVISIONS + 1)
    begin = 0
    for paragraph in body.split("\n\n"):
        parts[begin * len(parts) // (len(body) + 1)] += paragraph + "\n\n"
        begin += len(paragraph) + 2
    return Review(title, tuple(parts))


def build_graph(ask: Ask) -> StateGraph[Review]:
    """Return the graph: a draft, then reviews and revisions until it is published."""
    # the node "review" fails, and is tried again, only where all reviewers fail
    retry = RetryConfig(max_attempts=5, initial_delay=0.2)
    config = GraphConfig(name="document review", retry=retry, task_timeout=30.0, observer="noop")
    graph = StateGraph(config, Review)

    @graph.node
    async def draft(state: Review) -> Review:
        return replace(state, draft=await ask(PROMPT, state.parts[0]))

    async def assess(assignment: tuple[str, Review]) -> Verdict:
        name, state = assignment
        reviewer = REVIEWERS[name]
        # the heading lets the local server tell apart the reviewers of one text
        answer = await ask(PROMPT, f"For the review of {name}\n\n{reviewer.reads(state)}")
        return Verdict(name, *reviewer.judge(state, answer))

    def collect(state: Review, result: ParallelResult[tuple[str, Review], Verdict]) -> Review:
        verdicts = dict(zip(result.indices, result.results, strict=True))
        for failure in result.errors:
            name = list(REVIEWERS)[failure.index]
            verdicts[failure.index] = Verdict(name, None, f"failed: {type(failure.error).__name__}")
        return replace(state, verdicts=tuple(verdicts[index] for index in sorted(verdicts)))

    review = parallel_node(
        assess,
        items=lambda state: [(name, state) for name in REVIEWERS],
        aggregate=collect,
        config=ParallelConfig(fail_fast=False, task_timeout=10.0),
    )
    graph.add_node("review", review)

    @graph.node
    async def decide(state: Review) -> Review:
        # a node is async; this one has nothing to wait for
        await trio.lowlevel.checkpoint()
        return replace(state, approvals=sum(verdict.approves is True for verdict in state.verdicts))

    @graph.node
    async def revise(state: Review) -> Review:
        objections = [verdict.reason for verdict in state.verdicts if verdict.approves is False]
        prompt = "; ".join([f"{PROMPT} It continues a draft, of which reviewers said", *objections])
        revisions = state.revisions + 1
        more = await ask(prompt, state.parts[revisions])
        return replace(state, draft=f"{state.draft}\n\n{more}", revisions=revisions)

    @graph.node
    async def publish(state: Review) -> Review:
        await trio.lowlevel.checkpoint()
        paragraphs = [textwrap.fill(paragraph, 100) for paragraph in state.draft.split("\n\n")]
        return replace(state, draft="\n\n".join([state.title, *paragraphs]))

    graph.set_entry_point("draft")
    graph.add_edge("draft", "review")
    graph.add_edge("review", "decide")
    graph.add_edge("decide", "publish", when=approved)
    graph.add_edge("decide", "publish", when=out_of_revisions)
    graph.add_edge("decide", "revise")
    graph.add_edge("revise", "review")
    graph.set_exit_point("publish")
    return graph


def approved(state: Review) -> bool:
    """Hold where enough reviewers approve of the draft."""
    return state.approvals >= QUORUM


def out_of_revisions(state: Review) -> bool:
    """Hold where the draft has been revised as often as it may be."""
    return state.revisions >= MOST_REVISIONS


def covers(state: Review, gist: str) -> tuple[bool, str]:
    """Judge whether the draft has most of the words in which the whole text is summed up."""
    wanted = words(gist)
    found = wanted & words(state.draft)
    return 5 * len(found) >= 3 * len(wanted), f"it has {len(found)} of the {len(wanted)} words that matter"


def names_subject(state: Review, gist: str) -> tuple[bool, str]:
    """Judge whether what the draft comes down to names its subject."""
    named = sorted(word for word in words(state.title) if word in gist.lower())
    return bool(named), f"in short, it speaks of {' and '.join(named) or 'something else'}"


def reads_easily(_: Review, gist: str) -> tuple[bool, str]:
    """Judge whether the sentences that the draft comes down to are short enough."""
    length = len(gist.split()) // max(1, len(re.findall(r"[.!?](?=\s|$)", gist)))
    return length <= 30, f"its main sentences have {length} words"


def words(text: str) -> set[str]:
    """Return the words in `text` that are no mere grammar, by their length."""
    return set(re.findall(r"[a-z]{5,}", text.lower()))


REVIEWERS = {
    "coverage": Reviewer(lambda state: "".join(state.parts), covers),
    "subject": Reviewer(lambda state: state.draft, names_subject),
    "style": Reviewer(lambda state: state.draft, reads_easily),
}


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
