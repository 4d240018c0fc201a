"""Two hundred calls to a language-model service, many at once, with an exact account of what became of each.

Run it (`pip install h11 "openai>=1.63" rich` beside trioflow; older clients need asyncio)::

    python examples/fan_out.py [--seed N] [--count N] [--workers N]

It cuts the language topics that ship with Python into pieces and has each summarised through the `openai`
client. The service is `chat_server.py`, a local server that is slow, refuses, fails and hangs up as real ones
do; the same seed gives the same account, however many workers there are. With `OPENAI_BASE_URL` and
`OPENAI_API_KEY` set it calls that service instead, with the model in `OPENAI_MODEL` (else gpt-4o-mini). Ctrl-C
ends the run early and still gives the account of what completed.
"""

import argparse
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pydoc_data.topics import topics

import msgspec
import trio
from chat_server import open_chat_server

from trioflow import (
    ParallelConfig,
    ParallelResult,
    ParallelRun,
    RateLimiter,
    RetryConfig,
    open_parallel,
    with_rate_limit,
    with_retry,
    with_timeout,
)

try:
    import openai
    from rich import box
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
    from rich.table import Table
except ImportError as missing:
    package = (missing.name or "a package").partition(".")[0]
    raise SystemExit(f"this example needs {package}: pip install h11 'openai>=1.63' rich") from None

CHUNK_LENGTH = 3_000
LONGEST_WAIT = 60.0
PROMPT = "Summarise the user's text in at most two sentences."
RETRIED = (openai.APIConnectionError, openai.RateLimitError, openai.InternalServerError, trio.TooSlowError)


class Chunk(msgspec.Struct, frozen=True):
    """A piece of a topic: what one call summarises."""

    topic: str
    text: str


class Account(msgspec.Struct, frozen=True):
    """What became of the calls, and how long they took."""

    result: ParallelResult[Chunk, str]
    """Who succeeded, failed, or did not get that far."""
    retries: int
    """Attempts beyond the first, over all finished chunks."""
    wall_time: float
    """Seconds from the start of the run to its end."""
    call_time: float
    """Seconds inside HTTP calls, summed: what the same calls would take one after another."""


def main() -> int:
    """Read the command line, run the demo, and return the exit status."""
    parser = argparse.ArgumentParser(description="Summarise Python's language topics, many at once.")
    parser.add_argument("--seed", type=int, default=6, help="what the local server's faults are drawn from")
    parser.add_argument("--count", type=positive, default=200, help="how many calls; there is text for about 210")
    parser.add_argument("--workers", type=positive, default=32, help="how many calls at once")
    options = parser.parse_args()
    chunks = cut(topics)[: options.count]
    try:
        return trio.run(demo, chunks, options.workers, options.seed)
    except KeyboardInterrupt:
        # the second one, after the account: the first is `cancel_when_interrupted`'s
        return 130


def positive(text: str) -> int:
    """Return the number in `text`, for argparse."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def cut(texts: Mapping[str, str]) -> list[Chunk]:
    """Cut each text between paragraphs into chunks of about `CHUNK_LENGTH` characters."""
    topic_of: dict[str, str] = {}
    for topic, text in texts.items():
        chunk = ""
        for paragraph in text.split("\n\n"):
            if chunk and len(chunk) + len(paragraph) > CHUNK_LENGTH:
                topic_of.setdefault(chunk, topic)
                chunk = ""
            chunk += paragraph + "\n\n"
        # some sections stand under several topics: one call is enough for them
        topic_of.setdefault(chunk, topic)
    return [Chunk(topic, text) for text, topic in topic_of.items()]


async def demo(chunks: Sequence[Chunk], workers: int, seed: int) -> int:
    """Summarise `chunks`, print the account, and return the exit status."""
    # summaries and error messages are other people's text: brackets and colons in them are no markup
    console = Console(markup=False, highlight=False, emoji=False)
    with trio.open_signal_receiver(signal.SIGINT) as interrupts:
        async with open_client(seed) as client:
            console.print(f"{len(chunks)} calls to {client.base_url} with {workers} workers")
            account = await fan_out(chunks, client, workers, interrupts, console)
        show(account, chunks, console)
    # 130 is what shells expect of a program that Ctrl-C ended
    return 130 if account.result.unfinished else 0


@asynccontextmanager
async def open_client(seed: int) -> AsyncIterator[openai.AsyncOpenAI]:
    """Open a client of the service that the environment names, or else of a local server."""
    # retries are trioflow's part here, so that each one is paced and counted
    if os.environ.get("OPENAI_BASE_URL") and os.environ.get("OPENAI_API_KEY"):
        async with openai.AsyncOpenAI(max_retries=0) as client:
            yield client
    else:
        # a proxy that the environment names cannot reach our loopback interface
        direct = openai.DefaultAsyncHttpxClient(trust_env=False)
        async with (
            open_chat_server(seed=seed) as base_url,
            openai.AsyncOpenAI(base_url=base_url, api_key="local", max_retries=0, http_client=direct) as client,
        ):
            yield client


async def fan_out(
    chunks: Sequence[Chunk],
    client: openai.AsyncOpenAI,
    workers: int,
    interrupts: AsyncIterator[int],
    console: Console,
) -> Account:
    """Summarise every chunk, whatever becomes of the others, until done or interrupted."""
    call_times: list[float] = []
    processor = build_processor(client, call_times)
    config = ParallelConfig(max_workers=workers, fail_fast=False, observer="noop")
    started = trio.current_time()
    retries = 0
    async with open_parallel(chunks, processor, config=config) as run, trio.open_nursery() as nursery:
        nursery.start_soon(cancel_when_interrupted, run, interrupts)
        nursery.start_soon(show_progress, run, console)
        async for outcome in run:
            retries += outcome.attempts - 1
        nursery.cancel_scope.cancel()
    return Account(run.result(), retries, trio.current_time() - started, sum(call_times))


def build_processor(client: openai.AsyncOpenAI, call_times: list[float]) -> Callable[[Chunk], Awaitable[str]]:
    """Return the function that summarises one chunk: each attempt timed, paced, and repeated where it helps."""
    model = os.environ.get("OPENAI_MODEL") or "gpt-4o-mini"
    limiter = RateLimiter(rate=100, burst=20)

    async def summarise(chunk: Chunk) -> str:
        started = trio.current_time()
        try:
            completion = await client.chat.completions.create(
                model=model,
                messages=[{"role": "system", "content": PROMPT}, {"role": "user", "content": chunk.text}],
            )
        except openai.RateLimitError as error:
            # the service is too busy for everybody, not for this call alone
            limiter.pause(retry_after(error) or 0.0)
            raise
        finally:
            call_times.append(trio.current_time() - started)
        return completion.choices[0].message.content or ""

    timed = with_timeout(summarise, 10.0)
    paced = with_rate_limit(timed, limiter)
    return with_retry(paced, RetryConfig(max_attempts=3), on=RETRIED, delay=retry_after)


def retry_after(error: Exception) -> float | None:
    """Return the seconds that a 429 asks to wait; None leaves the wait to the back-off."""
    if not isinstance(error, openai.RateLimitError):
        return None
    try:
        seconds = float(error.response.headers["retry-after"])
    except (KeyError, ValueError):
        # absent, or a date
        return None
    return min(max(0.0, seconds), LONGEST_WAIT)


async def cancel_when_interrupted(run: ParallelRun[Chunk, str], interrupts: AsyncIterator[int]) -> None:
    """Stop the run at Ctrl-C; what completed is kept."""
    async for _ in interrupts:
        run.cancel()


async def show_progress(run: ParallelRun[Chunk, str], console: Console) -> None:
    """Keep one line on the terminal up to date until cancelled; print nothing where there is none."""
    columns = (
        TextColumn("summarising"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[failed]} failed"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as line:
        task = line.add_task("", total=run.progress.value.total, failed=0)
        async for progress in run.progress.eventual_values():
            line.update(task, completed=progress.completed + progress.failed, failed=progress.failed)


def show(account: Account, chunks: Sequence[Chunk], console: Console) -> None:
    """Print the account: a few summaries, the numbers, and the failures counted by message."""
    result = account.result
    answered = list(zip(result.indices, result.results, strict=True))
    for index, summary in answered[:: len(answered) // 3 + 1]:
        console.print(f"\n{chunks[index].topic}:", style="bold")
        console.print(summary)

    numbers = Table(box=box.SIMPLE, show_header=False)
    numbers.add_column()
    numbers.add_column(justify="right")
    numbers.add_row("calls", f"{result.total}")
    numbers.add_row("succeeded", f"{len(result.results)}")
    numbers.add_row("failed", f"{len(result.errors)}")
    numbers.add_row("unfinished", f"{len(result.unfinished)}")
    numbers.add_row("retries", f"{account.retries}")
    numbers.add_row("wall time", f"{account.wall_time:.1f} s")
    numbers.add_row("time in HTTP calls, summed", f"{account.call_time:.1f} s")
    numbers.add_row("speed-up over one after another", f"{account.call_time / account.wall_time:.1f}x")
    console.print(numbers)

    if result.errors:
        failures = Table("count", "error", "message", box=box.SIMPLE_HEAD)
        for category in result.report.categories:
            failures.add_row(str(category.count), category.type, category.message)
        console.print(failures)


if __name__ == "__main__":
    # Where SIGINT was ignored, as under nohup, Python leaves it so: Ctrl-C ends an example everywhere.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.exit(main())
