"""What does `import trioflow` cost beside `import trio`, and does it leave alone what few programs need?

    python benchmarks/bench_import.py [--repeat 20]

Each import runs in a fresh interpreter, in turns with the others; the best wall times count, less the one of an
interpreter that does nothing. What trioflow loads on first use is timed on top of trioflow.
"""

import argparse
import subprocess
import sys
from time import perf_counter

LAZY = ("loguru", "tenacity", "apsw", "rich", "yaml", "trio_util")
"""What `import trioflow` must not load."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=20, help="interpreters for each import; the best counts")
    repeat = max(1, parser.parse_args().repeat)
    loaded = loaded_by_trioflow()
    statements = ["pass", "import trio", "import trioflow", *(f"import trioflow, {name}" for name in present())]
    print_times(best_of(statements, repeat))
    print("\nafter import trioflow")
    for name in LAZY:
        print(f"  {name:34}{'LOADED' if name in loaded else 'not loaded'}")


def print_times(best: dict[str, float]) -> None:
    trio, trioflow = best["import trio"], best["import trioflow"]
    print("milliseconds over an interpreter that does nothing")
    line("import trio", trio - best["pass"])
    line("import trioflow", trioflow - best["pass"])
    line("trioflow itself", trioflow - trio)
    print("\nmilliseconds on top of import trioflow")
    for name in LAZY:
        seconds = best.get(f"import trioflow, {name}")
        line(name, None if seconds is None else seconds - trioflow)


def line(name: str, seconds: float | None) -> None:
    print(f"  {name:34}{'not installed' if seconds is None else f'{seconds * 1000:.1f}':>14}")


def best_of(statements: list[str], repeat: int) -> dict[str, float]:
    """Return the least seconds of each; a first round, which may have to compile, does not count."""
    for statement in statements:
        seconds_of(statement)
    return {
        statement: min(times)
        for statement, *times in zip(
            statements, *([seconds_of(each) for each in statements] for _ in range(repeat)), strict=True
        )
    }


def seconds_of(statement: str) -> float:
    start = perf_counter()
    subprocess.run([sys.executable, "-c", statement], check=True)
    return perf_counter() - start


def present() -> list[str]:
    return output_of("from importlib.util import find_spec", "find_spec(name) is not None")


def loaded_by_trioflow() -> list[str]:
    return output_of("import sys, trioflow", "name in sys.modules")


def output_of(first: str, condition: str) -> list[str]:
    """Return the names for which `condition` holds in a fresh interpreter, after the statement `first`."""
    program = f"{first}; print(*[name for name in {LAZY!r} if {condition}])"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, text=True)
    return child.stdout.split()


if __name__ == "__main__":
    main()
