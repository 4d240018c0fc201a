"""The command line: look at the runs that a store keeps, and clear them away.

::

    trioflow runs list --store sqlite:///runs.db

It needs the extra `cli` (cyclopts and rich), which is imported when it is used.
"""

import json
import re
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import trio

from trioflow._text import list_known, one_line, quote
from trioflow.checkpoint.protocol import CheckpointStore, RunInfo
from trioflow.checkpoint.registry import is_url
from trioflow.checkpoint.session import load_verified, open_store
from trioflow.errors import CheckpointNotFoundError, ConfigError, TrioflowError

__all__ = ("delete", "history", "list_runs", "main", "prune", "show")

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_SHOWN = 2_000
"""Characters of a state that are shown."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name, those of the process by default, and return the exit status.

    0 is success, 1 what trioflow refuses or cannot do, 2 a command that makes no sense.

    Raises:
        ImportError: the extra `cli` is not installed.
    """
    try:
        import cyclopts  # noqa: PLC0415 - the extra
    except ImportError as error:
        message = "the command line needs the extra `cli`: pip install 'trioflow[cli]'"
        raise ImportError(message) from error
    app = cyclopts.App(name="trioflow", help="Look at the runs that a store keeps, and clear them away.")
    runs = cyclopts.App(name="runs", help="The runs in a checkpoint store.")
    app.command(runs)
    for command in (list_runs, show, history, delete, prune):
        runs.command(command, name=command.__name__.removesuffix("_runs"))
    try:
        status = app(arguments, exit_on_error=False, print_error=True, result_action="return_value")
    except cyclopts.CycloptsError:
        return 2
    except TrioflowError as error:
        print(f"trioflow: {error}", file=sys.stderr)  # noqa: T201 - a command line prints
        return 1
    return status if isinstance(status, int) else 0


def list_runs(*, store: str, json: bool = False) -> int:
    """List the runs, in the order in which they were begun.

    Args:
        store: the store's URL, such as sqlite:///runs.db.
        json: print JSON instead of a table.
    """
    runs = _ask(store, lambda opened: opened.list_runs())
    _print(runs, ("run_id", "graph", "status", "step", "items", "updated_at"), as_json=json)
    return 0


def show(run_id: str, *, store: str, step: int | None = None, json: bool = False) -> int:
    """Show a run: where it stands, and its state.

    Args:
        run_id: the run.
        store: the store's URL.
        step: the step to show; the latest by default.
        json: print JSON instead of lines.
    """

    async def ask(opened: CheckpointStore) -> dict[str, Any]:
        run = await _find(opened, run_id)
        if step is None and not await opened.history(run_id):
            return msgspec.structs.asdict(run)
        found = await load_verified(opened, run_id, step)
        pause = None if found.pause is None else _readable(found.pause)
        told = {"items": run.items, "state": _readable(found.state), "pause": pause}
        return msgspec.structs.asdict(found) | told

    told = _ask(store, ask)
    if json:
        _print_json(told)
        return 0
    for name, value in told.items():
        _say(f"{name + ':':12} {_cell(name, value, limit=_SHOWN)}")
    return 0


def history(run_id: str, *, store: str, json: bool = False) -> int:
    """List the steps that are kept of a run, oldest first.

    Args:
        run_id: the run.
        store: the store's URL.
        json: print JSON instead of a table.
    """

    async def ask(opened: CheckpointStore) -> Sequence[Any]:
        await _find(opened, run_id)
        return await opened.history(run_id)

    columns = ("step", "node", "next_node", "iterations", "status", "created_at")
    _print(_ask(store, ask), columns, as_json=json)
    return 0


def delete(run_id: str, *, store: str) -> int:
    """Delete a run, with its steps and items.

    Args:
        run_id: the run.
        store: the store's URL.
    """

    async def ask(opened: CheckpointStore) -> None:
        await _find(opened, run_id)
        await opened.delete(run_id)

    _ask(store, ask)
    _say(f"deleted {quote(run_id)}")
    return 0


def prune(*, store: str, older_than: str, status: str | None = None, dry_run: bool = False) -> int:
    """Delete the runs that were not changed for some time.

    Args:
        store: the store's URL.
        older_than: how long, such as 30d, 12h, 45m, 90s or 2w.
        status: only runs that stand so, such as completed.
        dry_run: say what would be deleted, and delete nothing.
    """
    oldest = time.time() - _seconds(older_than)

    async def ask(opened: CheckpointStore) -> list[str]:
        runs = await opened.list_runs()
        old = [run.run_id for run in runs if run.updated_at < oldest and status in {None, run.status}]
        for run_id in [] if dry_run else old:
            await opened.delete(run_id)
        return old

    for run_id in _ask(store, ask):
        _say(f"{'would delete' if dry_run else 'deleted'} {quote(run_id)}")
    return 0


def _ask(store: str, question: Callable[[CheckpointStore], Awaitable[Any]]) -> Any:
    """Return what the store answers; a file that is not there is not made."""
    if not is_url(store):
        raise ConfigError.refusing("store", store, "a URL such as sqlite:///runs.db")
    path = store.partition(":///")[2]
    if store.startswith("sqlite:///") and not Path(path).is_file():
        raise ConfigError.refusing("store", store, "the URL of a store that is there")

    async def main() -> Any:
        async with open_store(store) as opened:
            return await question(opened)

    return trio.run(main)


async def _find(store: CheckpointStore, run_id: str) -> RunInfo:
    runs = {run.run_id: run for run in await store.list_runs()}
    if run_id not in runs:
        message = f"there is no run {quote(run_id)} in this store {list_known(run_id, runs)}"
        raise CheckpointNotFoundError(message, run_id=run_id)
    return runs[run_id]


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None:
        raise ConfigError.refusing("older_than", text, "a number and a unit, such as 30d, 12h, 45m, 90s or 2w")
    return float(match[1]) * _UNITS[match[2]]


def _readable(data: bytes) -> Any:
    """Return what is in `data`, for people to read."""
    try:
        return msgspec.msgpack.decode(data)
    except msgspec.MsgspecError:
        return data


def _print(rows: Iterable[Any], columns: Sequence[str], *, as_json: bool) -> None:
    if as_json:
        _print_json([msgspec.structs.asdict(row) for row in rows])
        return
    from rich.console import Console  # noqa: PLC0415 - the extra
    from rich.table import Table  # noqa: PLC0415 - the extra

    table = Table(*[column.replace("_", " ") for column in columns], box=None, pad_edge=False)
    for row in rows:
        table.add_row(*[_cell(column, getattr(row, column)) for column in columns])
    Console(markup=False, highlight=False, emoji=False, soft_wrap=True).print(table)


def _cell(column: str, value: object, limit: int = 60) -> str:
    if column.endswith("_at") and isinstance(value, float):
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    text = one_line(value) if isinstance(value, str) else repr(value)
    return text if len(text) <= limit else f"{text[: limit - 1]}…"


def _print_json(value: Any) -> None:
    _say(json.dumps(value, indent=2, default=str))


def _say(line: str) -> None:
    print(line)  # noqa: T201 - a command line prints
