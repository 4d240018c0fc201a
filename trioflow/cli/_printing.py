"""Output of the command line: tables for people, and valid JSON."""

import json
import sys
import time
from collections.abc import Iterable, Sequence
from typing import Any

from trioflow._text import one_line
from trioflow.checkpoint.looking import as_json
from trioflow.errors import TrioflowError


class CommandError(TrioflowError):
    """Something that a command needs is missing or damaged; the message is one line."""


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - the extra
    from rich.table import Table  # noqa: PLC0415 - the extra

    table = Table(*[column.replace("_", " ") for column in columns], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    # A pipe's reader wants whole lines.
    width = None if sys.stdout.isatty() else 10_000
    Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=True).print(table)


def cells(row: Any, columns: Sequence[str]) -> list[str]:
    return [cell(column, getattr(row, column)) for column in columns]


def cell(column: str, value: object, limit: int = 60) -> str:
    if column.endswith("_at") and isinstance(value, int | float):
        return _time(value)
    text = one_line(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _time(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (ValueError, OverflowError, OSError):
        # A damaged run may have any number here.
        return repr(seconds)


def print_json(value: Any) -> None:
    say(json.dumps(as_json(value), indent=2, allow_nan=False))


def say(line: str) -> None:
    print(line)  # noqa: T201 - a command line prints


def show_time(seconds: float) -> str:
    """Format a duration in a suitable unit."""
    for unit, size in (("s", 1.0), ("ms", 1e-3)):
        if seconds >= size:
            return f"{seconds / size:.3g} {unit}" if seconds < 1000 * size else f"{seconds:.0f} s"
    return f"{seconds / 1e-6:.3g} µs"
