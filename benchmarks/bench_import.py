"""What does `import trioflow` cost beside others' imports, and does it leave alone what few programs need?

    python benchmarks/bench_import.py [--full] [--repeat 20] [--json FILE] [--check]

Each import runs in a fresh interpreter, in turns with the others; the best wall times count, less the one of an
interpreter that does nothing. What trioflow loads on first use is timed on top of trioflow. With `--check` the
exit status is 1 if `import trioflow` loads any of it. `--full` adds the imports of peers.
"""

import argparse
import subprocess
import sys
from collections.abc import Iterable, Mapping
from functools import partial
from time import perf_counter

from measuring import About, Contender, Limit, Role, Row, add_arguments, compare_added, report

LAZY = ("loguru", "tenacity", "apsw", "rich", "yaml", "trio_util")
"""What `import trioflow` must not load."""
THEIRS = ("asyncio", "anyio", "aiometer", "aiostream", "pykka", "pydantic_graph", "langgraph.graph", "dbos")
LEGEND = "milliseconds of wall time"
ABOUT = {
    "a": About(
        "what an import costs a program at its start.",
        "each import is alone in a fresh interpreter whose files are in the disk's cache and compiled; an "
        "interpreter that imports nothing is subtracted.",
    ),
    "b": About(
        "what a part of trioflow costs when it is used for the first time.",
        "the same on top of `import trioflow`.",
    ),
    "c": About("whether `import trioflow` leaves alone what few programs need.", "`sys.modules` is looked at."),
}


def seconds_of(statement: str) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return perf_counter() - start


def ask_times(question: str, base: str, imports: Mapping[str, str], repeat: int) -> list[Row]:
    """Time `imports`, statements by their names, less `base`; a first round, which may compile, does not count."""
    there = set(named("from importlib.util import find_spec", "find_spec(name.split('.')[0]) is not None"))
    contenders = [Contender(base or "nothing", partial(seconds_of, base or "pass"), Role.OURS)]
    for name, statement in imports.items():
        measure = partial(seconds_of, statement) if name in there else None
        contenders.append(Contender(name, measure, Role.OURS if "trioflow" in statement else Role.PEER))
    for contender in contenders:
        if contender.measure is not None:
            contender.measure()
    return compare_added(question, contenders, items=1_000, repeat=repeat, unit="ms")


def named(first: str, condition: str) -> list[str]:
    """Return the names for which `condition` holds in a fresh interpreter, after the statement `first`."""
    names = ("trio", "trioflow", *LAZY, *THEIRS)
    program = f"{first}; print(*[name for name in {names!r} if {condition}])"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return child.stdout.split()


def ask_loaded() -> list[Row]:
    question = "c. modules that are loaded after import trioflow"
    loaded = named("import sys, trioflow", "name in sys.modules")
    return [Row(question, name, float(name in loaded), "loaded", limit=Limit(0)) for name in LAZY]


def ask_all(repeat: int, *, full: bool) -> Iterable[list[Row]]:
    imports = {name: f"import {name}" for name in ("trio", "trioflow", *(THEIRS if full else ()))}
    yield ask_times("a. an import, over an interpreter that does nothing", "", imports, repeat)
    imports = {name: f"import trioflow, {name}" for name in LAZY}
    yield ask_times("b. an import on top of trioflow", "import trioflow", imports, repeat)
    yield ask_loaded()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_arguments(parser)
    parser.set_defaults(repeat=20)
    arguments = parser.parse_args()
    return report(arguments, ask_all(arguments.repeat, full=arguments.full), LEGEND, ABOUT)


if __name__ == "__main__":
    sys.exit(main())
