"""`trioflow runs`: inspects and deletes the runs in a store.

Inspecting changes neither the store nor its directory. A damaged run does not hide the others. A child run is
shown below its parent, and deleted with it.
"""

import re
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, get_args

import msgspec
import trio

from trioflow._text import one_line, quote, without_secrets
from trioflow.checkpoint.fan_outs import FanOut, Header, count_unfinished, read_fan_out
from trioflow.checkpoint.looking import all_runs, readable, tree
from trioflow.checkpoint.protocol import CheckpointStore, RunInfo, RunStatus
from trioflow.checkpoint.registry import get_checkpoint_store, is_url, open_to_look
from trioflow.checkpoint.session import load_verified, name_known
from trioflow.cli._printing import cell, cells, print_json, print_table, say
from trioflow.errors import CheckpointCorruptError, CheckpointStoreError, ConfigError

_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_WAITING = frozenset({"queued", "parked", "blocked"})
"""The statuses, beside `paused`, of runs that a service will continue, however long they have waited."""
_SHOWN = 2_000
"""The most characters of a state that are shown."""


def list_runs(*, store: str, json: bool = False) -> int:
    """List the runs in the order in which they were started, each followed by its child runs.

    Args:
        store: the store's URL, such as sqlite:///runs.db.
        json: print JSON instead of a table.
    """
    runs = _look(store, all_runs)
    if json:
        print_json([msgspec.structs.asdict(run) for run in runs])
        return 0
    columns = ("run_id", "graph", "status", "step", "items", "updated_at")
    rows = [[_branch(depth, run.run_id), *cells(run, columns[1:])] for depth, run in tree(runs)]
    print_table(columns, rows)
    return 0


def show(run_id: str, *, store: str, step: int | None = None, json: bool = False) -> int:
    """Show a run: its position, its state, and its child runs.

    Args:
        run_id: the run's id.
        store: the store's URL.
        step: the step to show; the latest by default.
        json: print JSON instead of lines.
    """
    found, problem = _look(store, partial(_load_run, run_id, step))
    if json:
        print_json(found)
    else:
        for name, value in found.items():
            if name not in {"children", "failures"}:
                say(f"{name + ':':12} {cell(name, value, limit=_SHOWN)}")
        for line in _failure_lines(found.get("failures")):
            say(line)
        for depth, child in tree([msgspec.convert(child, RunInfo) for child in found["children"]]):
            say(f"{'child:':12} {_branch(depth, child.run_id)} ({child.status})")
    if problem is not None:
        raise problem
    return 0


async def _load_run(
    run_id: str, step: int | None, store: CheckpointStore
) -> tuple[dict[str, Any], CheckpointCorruptError | None]:
    """Return what to show of a run, and what is damaged in it.

    Cancellation: nothing is changed.
    """
    runs = await all_runs(store)
    run = await _find(store, run_id, runs)
    shown = msgspec.structs.asdict(run)
    problem = None
    try:
        if step is not None or await store.history(run_id):
            found = await load_verified(store, run_id, step, suggest=True)
            pause = None if found.pause is None else readable(found.pause)
            shown |= msgspec.structs.asdict(found) | {"state": readable(found.state), "pause": pause}
            if step is None:
                shown["created_at"] = run.created_at  # the run's, not its last step's
            if found.kind == "parallel":
                shown["state"] = _without_failures(shown["state"])
                shown["failures"] = _failures(read_fan_out(found.state), run.items if step is None else None)
    except CheckpointCorruptError as error:
        shown["status"], problem = "corrupt", error
    inside = [child for _, child in tree(runs, run_id)]
    return {**shown, "children": [msgspec.structs.asdict(child) for child in inside]}, problem


def _without_failures(state: Any) -> Any:
    """Return the state of a fan-out without its failures, which are shown apart."""
    return state[: Header.__struct_fields__.index("failures")] if isinstance(state, list) else state


def _failures(fan_out: FanOut, items: int | None) -> dict[str, Any] | None:
    failures = fan_out.failures
    if failures is None:
        return None
    unfinished = None if items is None else count_unfinished(fan_out, items)
    categories = [msgspec.structs.asdict(each) for each in failures.categories]
    return msgspec.structs.asdict(failures) | {"categories": categories, "unfinished": unfinished}


def _failure_lines(failures: dict[str, Any] | None) -> Iterator[str]:
    if failures is None:
        return
    unfinished = "" if failures["unfinished"] is None else f", {failures['unfinished']} unfinished"
    yield f"{'failed:':12} {_items(failures['failed'])}{unfinished}"
    for each in failures["categories"]:
        first = each["first_index"] if each["first_key"] is None else quote(each["first_key"])
        what = f"{one_line(each['type'])}: {one_line(each['message'])}"
        yield f"{'error:':12} {_items(each['count'])}, the first is {first}: {what}"
    if failures["other"]:
        yield f"{'error:':12} {_items(failures['other'])} with other messages"


def _items(count: int) -> str:
    return f"{count} item{'' if count == 1 else 's'}"


def history(run_id: str, *, store: str, json: bool = False) -> int:
    """List the stored steps of a run, oldest first.

    Args:
        run_id: the run's id.
        store: the store's URL.
        json: print JSON instead of a table.
    """

    async def work(opened: CheckpointStore) -> Sequence[Any]:
        await _find(opened, run_id, await all_runs(opened))
        return await opened.history(run_id)

    steps = _look(store, work)
    if json:
        print_json([msgspec.structs.asdict(step) for step in steps])
        return 0
    columns = ("step", "node", "next_node", "iterations", "status", "created_at")
    print_table(columns, [cells(step, columns) for step in steps])
    return 0


def delete(run_id: str, *, store: str) -> int:
    """Delete a run, with its steps and items, and its child runs.

    Args:
        run_id: the run's id.
        store: the store's URL.
    """

    async def work(opened: CheckpointStore) -> list[str]:
        runs = await all_runs(opened)
        await _find(opened, run_id, runs)
        await opened.delete(run_id)
        return [run_id, *(child.run_id for _, child in tree(runs, run_id))]

    for gone in _change(store, work):
        say(f"deleted {quote(gone)}")
    return 0


def prune(*, store: str, older_than: str, status: str | None = None, dry_run: bool = False) -> int:
    """Delete the runs that have not changed for some time, with their child runs.

    Args:
        store: the store's URL.
        older_than: the least time without a change, such as 30d, 12h, 45m, 90s or 2w.
        status: only runs of this status, such as completed; by default all but those that wait in a service.
        dry_run: print what would be deleted, and delete nothing.
    """
    oldest = time.time() - _seconds(older_than)
    if status not in {None, *get_args(RunStatus)}:
        raise ConfigError.refusing("status", status, f"one of {', '.join(get_args(RunStatus))}")

    async def choose(opened: CheckpointStore) -> list[str]:
        # A child run is deleted only with its parent.
        alone = [run for run in await all_runs(opened) if run.parent is None]
        old = [run for run in alone if run.updated_at < oldest]
        return [run.run_id for run in old if run.status == status or (status is None and not _waits(run))]

    async def work(opened: CheckpointStore) -> list[str]:
        old = await choose(opened)
        for run_id in old:
            await opened.delete(run_id)
        return old

    for run_id in _look(store, choose) if dry_run else _change(store, work):
        say(f"{'would delete' if dry_run else 'deleted'} {quote(run_id)}")
    return 0


def vacuum(*, store: str) -> int:
    """Return the space of deleted runs to the disk.

    Args:
        store: the store's URL.
    """

    async def work(opened: CheckpointStore) -> None:
        give_back = getattr(opened, "vacuum", None)
        if give_back is None:
            raise ConfigError.refusing("store", without_secrets(store), "the URL of a store that can be vacuumed")
        await give_back()

    _change(store, work)
    return 0


def _waits(run: RunInfo) -> bool:
    """Return whether a service will continue the run; of paused runs, only a service's have a reason."""
    return run.status in _WAITING or (run.status == "paused" and run.reason is not None)


def _look(store: str, question: Callable[[CheckpointStore], Awaitable[Any]]) -> Any:
    """Query the store read-only, and return the answer."""
    check_url(store)
    return trio.run(_answer, open_to_look(store), question)


def _change(store: str, question: Callable[[CheckpointStore], Awaitable[Any]]) -> Any:
    """Run an operation that may change the store, and return its result."""
    check_url(store)
    return trio.run(_answer, get_checkpoint_store(store), question)


async def _answer(store: CheckpointStore, question: Callable[[CheckpointStore], Awaitable[Any]]) -> Any:
    """Query the store, and close it.

    Cancellation: passes through; the store is closed.
    """
    try:
        return await question(store)
    finally:
        with trio.CancelScope(shield=True):
            await store.aclose()


def check_url(store: str) -> None:
    """Require the URL of an existing store, so that no file is created."""
    if not is_url(store):
        raise ConfigError.refusing("store", store, "a URL such as sqlite:///runs.db")
    path = store.partition(":///")[2]
    if store.startswith("sqlite:///") and not Path(path).is_file():
        raise CheckpointStoreError(f"store must be the URL of an existing store, got {quote(store)}")


async def _find(store: CheckpointStore, run_id: str, runs: Iterable[RunInfo]) -> RunInfo:
    """Return the run of this id.

    Raises:
        CheckpointNotFoundError: there is none; the message suggests similar ids.

    Cancellation: nothing is changed.
    """
    for run in runs:
        if run.run_id == run_id:
            return run
    raise await name_known(store, run_id)


def _branch(depth: int, run_id: str) -> str:
    return f"{'  ' * depth}{'└ ' if depth else ''}{one_line(run_id)}"


def _seconds(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smhdw])", text.strip())
    if match is None:
        raise ConfigError.refusing("older_than", text, "a number and a unit, such as 30d, 12h, 45m, 90s or 2w")
    return float(match[1]) * _UNITS[match[2]]
