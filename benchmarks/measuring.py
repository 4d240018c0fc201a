"""Lines of a table of measurements: contenders that take turns, ratios, and limits that ratios must keep to."""

import argparse
import ctypes
import gc
import importlib.metadata
import importlib.util
import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

MICRO = 1e6
MEBI = 1 << 20
PEERS = ("trio", "aiometer", "anyio", "langgraph", "immutables", "rpds-py")


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
class Row:
    """One line: a value, None where it could not be measured, and what it should keep to."""

    question: str
    name: str
    value: float | None
    unit: str = "µs/item"
    role: Role = Role.OURS
    ratio: float | None = None
    limit: Limit | None = None

    @property
    def missed(self) -> bool:
        measured = self.value if self.ratio is None else self.ratio
        return self.limit is not None and measured is not None and not self.limit.holds(measured)

    @property
    def verdict(self) -> str:
        if self.value is None:
            return "not installed"
        if self.limit is None:
            return ""
        return "MISSED" if self.missed else "ok"

    def cells(self) -> tuple[str, ...]:
        return (
            self.name,
            self.role.value,
            "-" if self.value is None else f"{self.value:.2f} {self.unit}",
            "" if self.ratio is None else f"{self.ratio:.2f}x",
            "" if self.limit is None else str(self.limit),
            self.verdict,
        )


@dataclass(frozen=True)
class Contender:
    """Something to time: `measure` runs it once and returns seconds; None where it is not installed."""

    name: str
    measure: Callable[[], float] | None
    role: Role
    limit: Limit | None = None


def compare(question: str, contenders: Sequence[Contender], *, items: int, repeat: int) -> list[Row]:
    """Time the contenders in turns; the first one is what the others are compared with."""
    best = best_of(contenders, repeat)
    ours = best[contenders[0].name]
    rows = []
    for contender in contenders:
        seconds = best.get(contender.name)
        value = None if seconds is None else seconds / items * MICRO
        ratio = None
        if seconds is not None and contender.role is not Role.OURS:
            ratio = ours / seconds if contender.role is Role.FLOOR else seconds / ours
        limit = contender.limit
        rows.append(Row(question, contender.name, value, role=contender.role, ratio=ratio, limit=limit))
    return rows


def best_of(contenders: Sequence[Contender], repeat: int) -> dict[str, float]:
    best: dict[str, float] = {}
    for _ in range(repeat):
        for contender in contenders:
            if contender.measure is not None:
                gc.collect()
                best[contender.name] = min(contender.measure(), best.get(contender.name, float("inf")))
    return best


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


def print_table(rows: Sequence[Row]) -> None:
    print(f"\n{rows[0].question}")
    for row in rows:
        name, role, value, ratio, limit, verdict = row.cells()
        print(f"  {name:34}{role:8}{value:>18}{ratio:>10}{limit:>10}  {verdict}".rstrip())


def write_json(file: Path, rows: Sequence[Row]) -> None:
    told = [asdict(row) | {"verdict": row.verdict} for row in rows]
    file.write_text(json.dumps({"environment": environment(), "rows": told}, indent=2) + "\n")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--repeat", type=positive, default=5, help="rounds; the best of each contender counts")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows to FILE too")
    parser.add_argument("--check", action="store_true", help="exit with 1 if a limit is missed")


def positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {number}")
    return number


def report(arguments: argparse.Namespace, answers: Iterable[list[Row]], legend: str) -> int:
    """Print each answer when it is there, write what the arguments ask for, and return the exit status."""
    print(", ".join(f"{name} {value}" for name, value in environment().items()))
    print(legend)
    rows: list[Row] = []
    for answer in answers:
        print_table(answer)
        rows += answer
    if arguments.json:
        write_json(arguments.json, rows)
    limited = [row for row in rows if row.limit is not None and row.value is not None]
    missed = [row for row in limited if row.missed]
    print(f"\n{len(missed)} of the {len(limited)} limits that were measured are missed")
    return 1 if arguments.check and missed else 0
