"""How many instructions does the processor execute for an item, which no other program on the machine can change?

    python benchmarks/bench_instructions.py [--json FILE] [--check]

Valgrind's Cachegrind counts them for a process with few items and for one with many, and the difference is divided
by the difference of the items: what starting Python and importing takes drops out. Skipped where there is no
Valgrind.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import peers
import trio
from measuring import About, Role, Row, add_arguments, report
from peers import under_asyncio, under_trio, yielding, yielding_asyncio

from trioflow import ChainConfig, GraphConfig, State, StateGraph, process_chain

FEW, MANY = 200, 1_200
WORKERS = 16
LONGEST = 200
LEGEND = "user-space instructions by Cachegrind; ratio: of a floor to ours, of ours to a peer"
ABOUT = {
    "a": About(
        "the instructions that an item of a fan-out takes whose call yields once.",
        f"the same processes but for the pool, {WORKERS} calls at a time; what the kernel does is not counted.",
    ),
    "b": About(
        "the instructions that a step of a chain and of a graph take whose function yields once.",
        "the floor is an `await` in a loop.",
    ),
}


async def add(item: int, total: int) -> int:
    await trio.lowlevel.checkpoint()
    return total + item


async def chain(steps: int) -> None:
    await process_chain(range(steps), 0, add, config=ChainConfig(observer="noop"))


async def loop(steps: int) -> None:
    total = 0
    for item in range(steps):
        total = await add(item, total)


async def graph(steps: int) -> None:
    config = GraphConfig(name="count", observer="noop", max_iterations=steps + 1)
    walked: StateGraph[State] = StateGraph(config)

    @walked.node
    async def more(state: State) -> State:
        await trio.lowlevel.checkpoint()
        return state.set("count", state["count"] + 1)

    @walked.node
    async def done(state: State) -> State:
        return state

    walked.add_edge("more", "more", when=lambda state: state["count"] < steps)
    walked.add_edge("more", "done")
    walked.set_entry_point("more")
    walked.set_exit_point("done")
    result = await walked.execute(State(count=0))
    if result.iterations != steps + 1:
        raise RuntimeError(f"{result.iterations} iterations instead of {steps + 1}")


def fan_outs(items: int) -> dict[str, tuple[Role, Callable[[], object]]]:
    here = partial(under_trio, items=items, fn=yielding, workers=WORKERS)
    there = partial(under_asyncio, items=items, fn=yielding_asyncio, workers=WORKERS)
    return {
        "process_parallel": (Role.OURS, here(peers.collected)),
        "bare loop": (Role.FLOOR, here(partial(peers.bare_loop, checkpoint=False))),
        "nursery + CapacityLimiter": (Role.PEER, here(peers.nursery_limiter)),
        "aiometer.run_all": (Role.PEER, here(peers.aiometer_run_all)),
        "asyncio TaskGroup + Semaphore": (Role.PEER, there(peers.asyncio_semaphore)),
        "asyncio gather + Semaphore": (Role.PEER, there(peers.asyncio_gather)),
    }


def steps(items: int) -> dict[str, tuple[Role, Callable[[], object]]]:
    return {
        "process_chain": (Role.OURS, partial(trio.run, chain, items)),
        "bare loop of awaits": (Role.FLOOR, partial(trio.run, loop, items)),
        "StateGraph": (Role.VARIANT, partial(trio.run, graph, items)),
    }


def count(name: str, items: int) -> int:
    """Return the instructions of a process that runs one contender."""
    valgrind = ["valgrind", "--tool=cachegrind", "--cache-sim=no", f"--cachegrind-out-file={os.devnull}"]
    command = [*valgrind, sys.executable, __file__, "--run", name, str(items)]
    environment = os.environ | {"PYTHONHASHSEED": "0"}
    done = subprocess.run(
        command, capture_output=True, text=True, check=True, env=environment, timeout=LONGEST
    )
    return int(re.search(r"I +refs: +([\d,]+)", done.stderr)[1].replace(",", ""))


def per_item(name: str) -> float | str:
    """Return the instructions of an item, or why there are none."""
    if name.startswith("aiometer") and not peers.HAS_AIOMETER:
        return "not installed"
    try:
        return (count(name, MANY) - count(name, FEW)) / (MANY - FEW)
    except (subprocess.SubprocessError, TypeError) as error:
        return f"failed: {type(error).__name__}"


def ask(question: str, contenders: dict[str, tuple[Role, object]]) -> list[Row]:
    if shutil.which("valgrind") is None:
        why = "Valgrind is not installed"
        return [Row(question, name, None, role=role, skipped=why) for name, (role, _) in contenders.items()]
    # Other processes do not change the counts, so each core may have its own.
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        counts = dict(zip(contenders, threads.map(per_item, contenders), strict=True))
    ours = next(iter(counts.values()))
    rows = []
    for name, (role, _) in contenders.items():
        found = counts[name]
        if isinstance(found, str):
            failed = found.removeprefix("failed: ") if found.startswith("failed: ") else ""
            rows.append(Row(question, name, None, role=role, skipped=found, failed=failed))
            continue
        compared = role is not Role.OURS and not isinstance(ours, str)
        over, under = (ours, found) if role is Role.FLOOR else (found, ours)
        ratio = over / under if compared else None
        rows.append(Row(question, name, found / 1000, "k", role, ratio))
    return rows


def ask_all() -> Iterable[list[Row]]:
    yield ask(f"a. instructions of an item of a fan-out, {WORKERS} workers, in thousands", fan_outs(0))
    yield ask("b. instructions of a step, in thousands", steps(0))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", nargs=2, metavar=("NAME", "ITEMS"), help=argparse.SUPPRESS)
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.run:
        name, items = arguments.run
        (fan_outs(int(items)) | steps(int(items)))[name][1]()
        return 0
    return report(arguments, ask_all(), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())
