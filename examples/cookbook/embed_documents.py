"""Documents embedded on a pool of processes, and searched: hashed n-grams, no model and no download.

Run it: `python examples/cookbook/embed_documents.py "what if the process is killed"`
"""

import math
import multiprocessing
import os
import re
import sys
from collections.abc import Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor
from pathlib import Path
from time import perf_counter
from zlib import crc32

import trio

from trioflow import ParallelConfig, RetryConfig, on_executor, process_parallel, with_retry

DOCUMENTS = Path(__file__).parents[2] / "docs"
DIMENSIONS = 512
CHUNK = 8
PROCESSES = os.cpu_count() or 2


def make_pool() -> ProcessPoolExecutor:
    # not "fork": a fork of a program with threads may hang, and there is always one here
    return ProcessPoolExecutor(PROCESSES, mp_context=multiprocessing.get_context("spawn"))


def embed(text: str) -> list[float]:
    """Return a unit vector: how often words, and their pieces of three to five letters, fall into each bin."""
    bins = [0.0] * DIMENSIONS
    for word in re.findall(r"[a-z]{3,}", text.lower()):
        padded = f"<{word}>"
        pieces = [padded[at : at + size] for size in (3, 4, 5) for at in range(len(padded) - size + 1)]
        for piece in (padded, *pieces):
            code = crc32(piece.encode())
            # the sign lets collisions cancel out
            bins[code % DIMENSIONS] += (1 if code >> 31 else -1) / len(pieces)
    # dampened, so that a word that a text is full of is not all that it says
    damped = [math.copysign(math.sqrt(abs(value)), value) for value in bins]
    length = math.hypot(*damped) or 1.0
    return [value / length for value in damped]


def read_sections(folder: Path) -> list[tuple[str, str]]:
    sections = []
    for path in sorted(folder.rglob("*.md")):
        for part in re.split(r"\n(?=##+ )", path.read_text(encoding="utf-8")):
            title = part.partition("\n")[0].strip("# ")
            sections.append((f"{path.relative_to(folder)}: {title}", part))
    return sections


async def embed_all(texts: Sequence[str]) -> list[list[float]]:
    # a process that dies takes its pool along: the next attempt has a new one
    processor = with_retry(on_executor(make_pool, embed, chunk=CHUNK), RetryConfig(), on=BrokenExecutor)
    # twice as many workers as are worked on, so that a chunk waits for each process
    config = ParallelConfig(max_workers=2 * CHUNK * PROCESSES, observer="noop")
    return (await process_parallel(texts, processor, config=config)).results


async def main(question: str) -> None:
    sections = read_sections(DOCUMENTS)
    started = perf_counter()
    vectors = await embed_all([text for _, text in sections])
    print(f"{len(vectors)} sections in {perf_counter() - started:.2f} s on {PROCESSES} processes")
    asked = embed(question)
    scores = [sum(map(float.__mul__, asked, vector)) for vector in vectors]
    for score, (title, _) in sorted(zip(scores, sections, strict=True), reverse=True)[:5]:
        print(f"{score:.2f}  {title}")


if __name__ == "__main__":
    trio.run(main, " ".join(sys.argv[1:]) or "what happens after a kill")
