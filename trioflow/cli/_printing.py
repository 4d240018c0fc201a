"""What the command line prints: tables for people, and JSON that any reader takes."""

import base64
import json
import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

from trioflow._text import one_line
from trioflow.errors import TrioflowError


class CommandError(TrioflowError):
    """What a command was asked for is not there, or is damaged; the message is one line."""


def readable(data: bytes) -> Any:
    """Return what is in `data`, for people to read."""
    try:
        return msgspec.msgpack.decode(data, ext_hook=_readable_extension)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return data


def _readable_extension(code: int, data: memoryview) -> Any:
    """Return what is in a part that MessagePack knows no form for: the JSON text of a model."""
    try:
        return json.loads(bytes(data))
    except ValueError:
        return f"extension {code}: {bytes(data)!r}"


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    from rich.console import Console  # noqa: PLC0415 - the extra
    from rich.table import Table  # noqa: PLC0415 - the extra

    table = Table(*[column.replace("_", " ") for column in columns], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*row)
    # Whatever reads a pipe wants whole lines.
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
    say(json.dumps(_as_json(value), indent=2, allow_nan=False))


def _as_json(value: Any) -> Any:
    """Return `value` as JSON has it: what JSON has no form for becomes text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return _text_of(value)
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else _name_of(name): _as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(part) for part in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _name_of(key: Any) -> str:
    return _text_of(key) if isinstance(key, bytes) else str(_as_json(key))


def _text_of(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()


def say(line: str) -> None:
    print(line)  # noqa: T201 - a command line prints
