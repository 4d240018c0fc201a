"""Of which map should `State` be made: a dict that is copied, or a persistent map?

    python benchmarks/bench_state.py [--repeat 5] [--json FILE] [--check]

For states of 5 to 10,000 names: setting one, reading one, and the memory of a thousand versions that are all kept.
The persistent maps are those of `immutables` (a HAMT, as in CPython's contextvars) and `rpds` (Rust). Nothing is
checked; the figures are behind a decision in `docs/design/graph.md`.
"""

import argparse
import gc
import os
import subprocess
import sys
import timeit
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from measuring import About, Contender, Role, Row, add_arguments, allocated_memory, compare, is_installed, report

from trioflow import State

SIZES = (5, 20, 100, 1_000, 10_000)
VERSIONS = 1_000
CALLS = 5_000
LEGEND = "ratio: how much longer, or larger, than State"
ABOUT = {
    "a": About(
        "what it costs to make the next state, which has another value for one of its names.",
        "each map has the same names and values; the old version stays whole in all of them.",
    ),
    "b": About("what reading a name of a state costs.", "the same name in the same map."),
    "c": About(
        "what one more version of a state takes in memory, of a thousand that are kept.",
        "each kind in a fresh process; the allocator is asked, so that what Rust allocates counts too.",
    ),
}


def kinds(size: int) -> dict[str, tuple[Any, Callable[[Any, str, int], Any]] | None]:
    """Return a map of `size` names of each kind, and how one of its names is set."""
    values = {f"name{number}": number for number in range(size)}
    found: dict[str, tuple[Any, Callable[[Any, str, int], Any]] | None] = {
        "State (a dict)": (State(values), State.set),
        "immutables.Map": None,
        "rpds.HashTrieMap": None,
    }
    if is_installed("immutables"):
        from immutables import Map  # noqa: PLC0415 - optional

        found["immutables.Map"] = (Map(values), Map.set)
    if is_installed("rpds-py"):
        from rpds import HashTrieMap  # noqa: PLC0415 - optional

        found["rpds.HashTrieMap"] = (HashTrieMap(values), HashTrieMap.insert)
    return found


def ask(what: str, size: int, repeat: int) -> list[Row]:
    contenders = []
    for name, kind in kinds(size).items():
        measure = None
        if kind is not None:
            value, change = kind
            call = 'change(value, "name3", -1)' if "set" in what else 'value["name3"]'
            names = {"value": value, "change": change}
            measure = partial(timeit.timeit, call, number=CALLS, globals=names)
        contenders.append(Contender(name, measure, Role.PEER if contenders else Role.OURS))
    return compare(f"{what} one name of {size:,}", contenders, items=CALLS, repeat=repeat, x=size)


def memory_of_child(name: str, size: int) -> float:
    """Return the KiB of a version, in a process of its own.

    The allocator is asked, as `tracemalloc` does not see what Rust allocates.
    """
    command = [sys.executable, __file__, "--print-memory", name, str(size)]
    environment = os.environ | {"PYTHONMALLOC": "malloc"}
    done = subprocess.run(command, capture_output=True, check=True, text=True, env=environment)
    return int(done.stdout) / VERSIONS / 1024


def print_memory(name: str, size: int) -> None:
    kind = kinds(size)[name]
    if kind is None:
        raise RuntimeError(f"{name} is not installed")
    version, change = kind
    names = [f"name{number % size}" for number in range(VERSIONS)]
    values = [-number - 1 for number in range(VERSIONS)]
    versions = [version] * (VERSIONS + 1)
    gc.collect()
    before = allocated_memory()
    for number in range(VERSIONS):
        versions[number + 1] = change(versions[number], names[number], values[number])
    print(allocated_memory() - before)


def ask_memory(size: int) -> list[Row]:
    rows: list[Row] = []
    for name, kind in kinds(size).items():
        used = None if kind is None else memory_of_child(name, size)
        ratio = used / rows[0].value if rows and used is not None and rows[0].value else None
        role = Role.PEER if rows else Role.OURS
        question = f"c. memory of one version of {size:,} names, {VERSIONS:,} kept"
        rows.append(Row(question, name, used, "KiB", role, ratio, x=size))
    return rows


def ask_all(repeat: int) -> Iterable[list[Row]]:
    for size in SIZES:
        yield ask("a. set", size, repeat)
        yield ask("b. get", size, repeat)
        yield ask_memory(size)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--print-memory", nargs=2, metavar=("KIND", "SIZE"), help=argparse.SUPPRESS)
    add_arguments(parser)
    arguments = parser.parse_args()
    if arguments.print_memory:
        name, size = arguments.print_memory
        print_memory(name, int(size))
        return 0
    return report(arguments, ask_all(arguments.repeat), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())
