"""Reading a store for display: all runs as trees, and their contents as plain data.

Needs none of the original types, and a damaged run does not hide the others.
"""

import base64
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from trioflow.checkpoint.protocol import CheckpointStore, RunInfo

__all__ = ("all_runs", "as_json", "readable", "tree")

_PAGE = 1_000
"""Runs per page."""


async def all_runs(store: CheckpointStore) -> list[RunInfo]:
    """Return the runs in the store, page by page.

    Cancellation: nothing is changed.
    """
    runs: list[RunInfo] = []
    page: Sequence[RunInfo] = await store.list_runs(limit=_PAGE)
    while page:
        runs.extend(page)
        page = await store.list_runs(after=page[-1].run_id, limit=_PAGE) if len(page) == _PAGE else ()
    return runs


def tree(runs: Sequence[RunInfo], root: str | None = None) -> Iterator[tuple[int, RunInfo]]:
    """Yield the runs inside `root`, or all, with their depth, each before its child runs."""
    inside: dict[str | None, list[RunInfo]] = {}
    listed = {run.run_id for run in runs}
    for run in runs:
        # A parent without stored data is not listed, but its child runs are.
        inside.setdefault(run.parent if run.parent in listed or run.parent == root else None, []).append(run)
    ahead = [(0, run) for run in reversed(inside.pop(root, []))]
    while ahead:
        depth, run = ahead.pop()
        yield depth, run
        ahead.extend((depth + 1, child) for child in reversed(inside.pop(run.run_id, [])))


def readable(data: bytes) -> Any:
    """Decode `data` for display."""
    try:
        return msgspec.msgpack.decode(data, ext_hook=_readable_extension)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return data


def _readable_extension(code: int, data: memoryview) -> Any:
    """Decode a MessagePack extension: the JSON text of a model."""
    try:
        return json.loads(bytes(data))
    except ValueError:
        return f"extension {code}: {bytes(data)!r}"


def as_json(value: Any) -> Any:
    """Return `value` as JSON data; values that JSON cannot represent become text."""
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, bytes):
        return _text_of(value)
    if isinstance(value, Mapping):
        return {name if isinstance(name, str) else _name_of(name): as_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(part) for part in value]
    return value if value is None or isinstance(value, str | int | float) else str(value)


def _name_of(key: Any) -> str:
    return _text_of(key) if isinstance(key, bytes) else str(as_json(key))


def _text_of(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()
