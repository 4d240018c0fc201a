"""Lines of a table of measurements: contenders that take turns, ratios, and limits that ratios must keep to.

The best round of each contender is what limits are held against, as it has the least of other programs in it. The
median and the spread of all rounds stand beside it, and are what `full.py` shows. A contender that fails or takes
too long is a line that says so.
"""

import argparse
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import signal
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from statistics import median
from textwrap import fill, indent

MICRO = 1e6
MEBI = 1 << 20
LONGEST = 60
"""Seconds that one round of one contender may take."""
PEERS = (
    "trio",
    "aiometer",
    "aiostream",
    "anyio",
    "dbos",
    "langgraph",
    "pydantic-graph",
    "pykka",
    "immutables",
    "rpds-py",
)


class Role(StrEnum):
    """What a contender is to the first of its table, and so which way its ratio goes."""

    OURS = ""
    FLOOR = "floor"
    PEER = "peer"
    VARIANT = "variant"


@dataclass(frozen=True)
class Limit:
    """What a ratio or a value must keep to."""

    bound: float
    at_least: bool = False

    def __str__(self) -> str:
        return f"{'>=' if self.at_least else '<='} {self.bound:g}"

    def holds(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


@dataclass(frozen=True)
class About:
    """What a question measures, and why the contenders are compared fairly."""

    measures: str
    fair: str


@dataclass(frozen=True)
class Row:
    """One line: a value, None where it could not be measured, and what it should keep to."""

    question: str
    name: str
    value: float | None
    unit: str = "µs/item"
    role: Role = Role.OURS
    ratio: float | None = None
    limit: Limit | None = None
    x: float | None = None
    """The size that was asked for, where a question is asked in several."""
    rounds: tuple[float, ...] = ()
    """The value of each round, of which `value` is the least."""
    ratios: tuple[float, ...] = ()
    """The ratio in each round."""
    skipped: str = "not installed"
    failed: str = ""

    @property
    def missed(self) -> bool:
        measured = self.value if self.ratio is None else self.ratio
        return self.limit is not None and measured is not None and not self.limit.holds(measured)

    @property
    def verdict(self) -> str:
        if self.failed:
            return f"FAILED: {self.failed}"
        if self.value is None:
            return self.skipped
        if self.limit is None:
            return ""
        return "MISSED" if self.missed else "ok"

    def cells(self) -> tuple[str, ...]:
        rounds = self.rounds
        return (
            self.name,
            self.role.value,
            "" if self.ratio is None else f"{self.ratio:.2f}x",
            "-" if self.value is None else f"{self.value:.2f} {self.unit}",
            f"{median(rounds):.2f}, {min(rounds):.2f} to {max(rounds):.2f}" if len(rounds) > 1 else "",
            "" if self.limit is None else str(self.limit),
            self.verdict,
        )


@dataclass(frozen=True)
class Contender:
    """Something to time: `measure` runs it once and returns seconds; None, and why, where it cannot be."""

    name: str
    measure: Callable[[], float] | None
    role: Role
    limit: Limit | None = None
    skipped: str = "not installed"


@dataclass
class Timed:
    """The seconds of each round of a contender, or why there are none."""

    seconds: list[float] = field(default_factory=list)
    failed: str = ""


def compare(
    question: str,
    contenders: Sequence[Contender],
    *,
    items: float,
    repeat: int,
    unit: str = "µs/item",
    x: float | None = None,
) -> list[Row]:
    """Time the contenders in turns; the first one is what the others are compared with."""
    timed = time_in_turns(contenders, repeat)
    ours = timed[contenders[0].name].seconds
    rows = []
    for contender in contenders:
        theirs = timed[contender.name]
        pair = (ours, theirs.seconds) if contender.role is Role.FLOOR else (theirs.seconds, ours)
        compared = contender.role is not Role.OURS and all(pair)
        rows.append(
            Row(
                question,
                contender.name,
                min(theirs.seconds) / items * MICRO if theirs.seconds else None,
                unit,
                contender.role,
                ratio=min(pair[0]) / min(pair[1]) if compared else None,
                limit=contender.limit,
                x=x,
                rounds=tuple(seconds / items * MICRO for seconds in theirs.seconds),
                ratios=tuple(over / under for over, under in zip(*pair, strict=True)) if compared else (),
                skipped=contender.skipped,
                failed=theirs.failed,
            )
        )
    return rows


def compare_added(
    question: str, contenders: Sequence[Contender], *, items: int, repeat: int, unit: str = "µs/item"
) -> list[Row]:
    """Time the contenders in turns; what counts is how much longer than the first one the others take."""
    timed = time_in_turns(contenders, repeat)
    base = timed[contenders[0].name].seconds
    bare = tuple(seconds / items * MICRO for seconds in base)
    rows = [Row(question, contenders[0].name, min(bare, default=None), unit, Role.FLOOR, rounds=bare)]
    for contender in contenders[1:]:
        theirs = timed[contender.name]
        added = (min(theirs.seconds) - min(base)) / items * MICRO if theirs.seconds and base else None
        pairs = zip(theirs.seconds, base, strict=False)
        rounds = tuple((seconds - least) / items * MICRO for seconds, least in pairs)
        why = {"skipped": contender.skipped, "failed": theirs.failed or timed[contenders[0].name].failed}
        limit = contender.limit
        rows.append(Row(question, contender.name, added, unit, contender.role, limit=limit, rounds=rounds, **why))
    return rows


def best_of(contenders: Sequence[Contender], repeat: int) -> dict[str, float]:
    return {name: min(timed.seconds) for name, timed in time_in_turns(contenders, repeat).items() if timed.seconds}


def time_in_turns(contenders: Sequence[Contender], repeat: int) -> dict[str, Timed]:
    """Time each contender once a round. One that fails is left out from then on, and its rounds with it."""
    timed = {contender.name: Timed() for contender in contenders}
    for _ in range(repeat):
        for contender in contenders:
            mine = timed[contender.name]
            if contender.measure is None or mine.failed:
                continue
            gc.collect()
            try:
                mine.seconds.append(within(LONGEST, contender.measure))
            except (Exception, BaseExceptionGroup) as error:
                if isinstance(error, BaseExceptionGroup) and error.subgroup(KeyboardInterrupt):
                    raise
                mine.seconds.clear()
                mine.failed = " ".join(f"{type(error).__name__}: {error}".split())[:200]
                print(f"{contender.name} failed: {error!r}", file=sys.stderr)
    return timed


def within(longest: float, measure: Callable[[], float]) -> float:
    """Return what `measure` returns, or raise `TimeoutError` where it takes longer and the platform has alarms."""
    if not hasattr(signal, "setitimer"):
        return measure()
    rung = False

    def ring(*_: object) -> None:
        nonlocal rung
        rung = True
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    remaining, _ = signal.setitimer(signal.ITIMER_REAL, longest)
    try:
        return measure()
    except (Exception, BaseExceptionGroup) as error:
        if rung:  # an event loop may have wrapped it
            raise TimeoutError(f"took more than {longest:g} s") from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, remaining)


# Memory of this process.


def peak_memory() -> int:
    """Return the most bytes that this process had resident.

    Linux hands the parent's peak on to a child in `ru_maxrss`, which would hide any smaller growth.
    """
    told = _told_by_linux("VmHWM:")
    if told is not None:
        return told
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class _MallInfo(ctypes.Structure):
    _fields_ = [
        ("arena", ctypes.c_size_t),
        ("ordblks", ctypes.c_size_t),
        ("smblks", ctypes.c_size_t),
        ("hblks", ctypes.c_size_t),
        ("hblkhd", ctypes.c_size_t),
        ("usmblks", ctypes.c_size_t),
        ("fsmblks", ctypes.c_size_t),
        ("uordblks", ctypes.c_size_t),
        ("fordblks", ctypes.c_size_t),
        ("keepcost", ctypes.c_size_t),
    ]


def allocated_memory() -> int:
    """Return the bytes that are allocated now, by Rust and C too.

    `PYTHONMALLOC=malloc` has to be set, so that Python's objects count one by one. Where glibc's `mallinfo2` is
    not to be had it is what is resident, which is too little where memory that had been freed is used again.
    """
    tell = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if tell is None:
        resident = _told_by_linux("VmRSS:")
        return peak_memory() if resident is None else resident
    tell.restype = _MallInfo
    info = tell()
    return info.uordblks + info.hblkhd


def _told_by_linux(field: str) -> int | None:
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1]) * 1024
    return None


# The program.


def is_installed(distribution: str) -> bool:
    return any(importlib.metadata.distributions(name=distribution))


def environment() -> dict[str, object]:
    versions = {name: importlib.metadata.version(name) for name in PEERS if is_installed(name)}
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return {"python": python, **versions, "machine": platform.machine(), "cpus": os.cpu_count()}


def print_table(rows: Sequence[Row], about: About | None = None) -> None:
    print(f"\n{rows[0].question}")
    if about is not None:
        print(indent(fill(f"Measures {about.measures} Fair: {about.fair}", 111), "  "))
    for row in rows:
        name, role, ratio, value, spread, limit, verdict = row.cells()
        print(f"  {name:34}{role:8}{ratio:>10}{value:>19} {spread:>28}{limit:>10}  {verdict}".rstrip())


def write_json(file: Path, rows: Sequence[Row], about: Mapping[str, About]) -> None:
    told = [asdict(row) | {"verdict": row.verdict} for row in rows]
    sentences = {letter: asdict(each) for letter, each in about.items()}
    file.write_text(json.dumps({"environment": environment(), "about": sentences, "rows": told}, indent=2) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeat", type=positive, default=5, help="rounds; the best of each contender counts")
    parser.add_argument("--full", action="store_true", help="ask all, also what takes minutes")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE too")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is missed")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def report(
    arguments: argparse.Namespace,
    answers: Iterable[list[Row]],
    legend: str,
    about: Mapping[str, About] | None = None,
) -> int:
    """Print each answer when it is there, write what the arguments ask for, and return the exit status.

    `about` has the sentences of each question by the letter that its title begins with.
    """
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print(legend)
    unsaid = dict(about or {})
    rows: list[Row] = []
    for answer in answers:
        print_table(answer, unsaid.pop(answer[0].question[0], None))
        rows += answer
        if arguments.json:  # after each, so that what is measured is kept whatever the next question does
            write_json(arguments.json, rows, about or {})
    limited = [row for row in rows if row.limit is not None and row.value is not None]
    missed = [row for row in limited if row.missed]
    failed = [row for row in rows if row.failed]
    print(f"\n{len(missed)} of the {len(limited)} limits that were measured are missed")
    if failed:
        print(f"{len(failed)} contenders failed")
    return 1 if arguments.check and (missed or failed) else 0
