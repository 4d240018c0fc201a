"""The contents of the page, as plain data: the list of runs, one run, and its items.

Displayed names are one escaped line each; ids in links are unchanged. States, results and payloads of pauses are
included only if the page was started with `show_data`.
"""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain, islice
from typing import Any, final

import msgspec
import trio

from trioflow._text import clip, describe_error, escape, one_line, quote
from trioflow.checkpoint.fan_outs import LONGEST_TEXT, FailureCategory, FanOut, count_unfinished, read_fan_out
from trioflow.checkpoint.looking import as_json, readable, tree
from trioflow.checkpoint.protocol import Checkpoint, CheckpointInfo, CheckpointStore, RunInfo
from trioflow.checkpoint.session import load_verified
from trioflow.errors import CheckpointCorruptError, CheckpointError, CheckpointNotFoundError
from trioflow.graph import StateGraph
from trioflow.ui._pictures import draw, durations
from trioflow.ui._reader import Reader

PAGE = 1_000
"""Runs read from the store at a time."""

MOST_FAN_OUTS = 100_000
"""The most fan-outs whose numbers of items and failures are cached."""

RUNS = 200
"""Outermost runs on one page of the list."""

STEPS = 500
"""The most steps shown of a run, the latest ones."""

ITEMS = 200
"""Items on one page."""

INSIDE = 1_000
"""The most child runs listed with a run."""

SHOWN = 20_000
"""The most characters of a state or of results that are shown."""


class _Known(msgspec.Struct):
    """The stored data of a run, beside its entry in the list of runs."""

    steps: Sequence[CheckpointInfo]
    latest: Checkpoint | None = None
    """The latest step with its data; None if it must not be shown."""
    fan_out: FanOut = FanOut()
    """The number of items of a fan-out, and those that failed."""
    problem: str | None = None
    """A description of the damage, if any."""


class _Counts(msgspec.Struct, frozen=True):
    """How many items a fan-out has, and how many failed."""

    stamp: tuple[float, float]
    """When the run was begun, and last saved."""
    total: int | None = None
    failed: int = 0


_UNKNOWN = _Counts((0.0, 0.0))


async def list_whole(store: CheckpointStore) -> tuple[Sequence[RunInfo], str | None]:
    """Return the runs in the store, read page by page, and the error that hides the rest, if any.

    If a page cannot be read, a smaller one is tried, so that all runs before the damage are returned.

    Raises:
        CheckpointError: no run can be read.

    Cancellation: nothing is changed.
    """
    runs: list[RunInfo] = []
    limit = PAGE
    after: str | None = None
    while True:
        try:
            page = await store.list_runs(after=after, limit=limit)
        except CheckpointError as error:
            if limit > 1 and isinstance(error, CheckpointCorruptError):
                limit //= 2
                continue
            if not runs:
                raise
            return runs, one_line(describe_error(error))
        runs.extend(page)
        if len(page) < limit:
            return runs, None
        after = page[-1].run_id


@final
class Views:
    """Answers the page's queries.

    Args:
        reader: reads the store.
        graphs: the known graphs.
        show_data: whether to include states, results and payloads of pauses.
    """

    def __init__(self, reader: Reader, graphs: Sequence[StateGraph[Any]], *, show_data: bool) -> None:
        self._reader = reader
        self._graphs = {graph.name: graph for graph in graphs}
        self._show_data = show_data
        self._fan_outs: dict[str, _Counts] = {}

    def __repr__(self) -> str:
        return f"<Views of {self._reader!r}>"

    async def runs(self, *, text: str = "", status: str = "", offset: int = 0) -> dict[str, Any]:
        """Return a page of the outermost runs, the newest first, each followed by its child runs.

        Args:
            text: a part of the run's id or of its graph's name.
            status: the run's status; empty is any.
            offset: the number of runs to skip.

        Raises:
            CheckpointError: the store cannot be read.

        Cancellation: nothing is changed.
        """
        runs, problem = await self._listed()
        # With many runs this takes a while, and the event loop may be executing answered runs.
        found = await trio.to_thread.run_sync(_page_of, runs, text, status, offset)
        await self._look_up_counts(found["runs"])
        return found | {"problem": problem}

    async def _look_up_counts(self, runs: list[dict[str, Any]]) -> None:
        """Add the numbers of items and failures of each fan-out, which is read again only when it was saved again.

        Cancellation: nothing is changed.
        """
        fans = {run["id"]: run for run in runs if run["kind"] == "parallel"}
        stale = {}
        for run_id, run in fans.items():
            known = self._fan_outs.get(run_id)
            if known is None or known.stamp != _stamp(run):
                stale[run_id] = _stamp(run)
        if stale:
            # Named without the stamps: where many fan-outs run, they are not read anew for each of their saves.
            found = await self._reader.query(("counts", *stale), lambda store: _load_counts(store, stale))
            if len(self._fan_outs) > MOST_FAN_OUTS:
                self._fan_outs.clear()
            self._fan_outs.update(found)
        for run_id, run in fans.items():
            counts = self._fan_outs.get(run_id, _UNKNOWN)
            run["total"], run["failed"] = counts.total, counts.failed

    async def find(self, run_id: str) -> RunInfo | None:
        """Return the run, if it exists.

        Raises:
            CheckpointError: the store cannot be read.

        Cancellation: nothing is changed.
        """
        runs, _ = await self._listed()
        return next((run for run in runs if run.run_id == run_id), None)

    async def run(self, run_id: str) -> dict[str, Any]:
        """Return the details of one run.

        Raises:
            CheckpointNotFoundError: there is no such run.
            CheckpointError: the store cannot be read.

        Cancellation: nothing is changed.
        """
        run = await self.find(run_id)
        if run is None:
            raise CheckpointNotFoundError(f"there is no run {quote(run_id)} in this store", run_id=run_id)
        runs, _ = await self._listed()
        known = await self._reader.query(("run", run_id), lambda store: self._load(store, run_id))
        found = await trio.to_thread.run_sync(self._shown, run, runs, known)
        await self._look_up_counts(found["inside"])
        return found

    def _shown(self, run: RunInfo, runs: Sequence[RunInfo], known: "_Known") -> dict[str, Any]:
        shown = list(zip(known.steps, durations(run.created_at, known.steps), strict=True))[-STEPS:]
        inside = list(tree(runs, run.run_id))
        return {
            "run": _run(run, 0) | {"parent": run.parent, "forked_from": run.forked_from},
            "problem": known.problem,
            "reason": self._reason(run),
            "total": known.fan_out.total,
            "failures": self._failures(known.fan_out, run.items),
            "waits_at": _place(known.steps) if run.status == "paused" else "",
            "failed_at": _place(known.steps) if run.status == "failed" else "",
            "steps": [_step(step, seconds) for step, seconds in reversed(shown)],
            "step_count": len(known.steps),
            "inside": [_run(each, depth) for depth, each in inside[:INSIDE]],
            "inside_count": len(inside),
            "inside_states": _counted(each for _, each in inside),
            "picture": self._picture(run, known.steps),
            # The state of a fan-out has its number of items, which is shown separately.
            "data": None if known.latest is None or run.kind == "parallel" else _data(known.latest),
            "show_data": self._show_data,
        }

    def _reason(self, run: RunInfo) -> str:
        # That of a failed run is the message of its error.
        if run.status == "failed" and not self._show_data:
            return ""
        return one_line(getattr(run, "reason", None) or "")

    async def items(self, run_id: str, *, offset: int = 0) -> dict[str, Any]:
        """Return a page of the stored items of a run.

        Raises:
            CheckpointError: the store cannot be read, or an item is damaged.

        Cancellation: nothing is changed.
        """
        items = await self._reader.query(("items", run_id), lambda store: self._load_items(store, run_id))
        names = islice(items, offset, offset + ITEMS)
        shown = [{"key": one_line(name), "value": self._value(items[name])} for name in names]
        return {"total": len(items), "offset": offset, "limit": ITEMS, "items": shown}

    async def _listed(self) -> tuple[Sequence[RunInfo], str | None]:
        listed: tuple[Sequence[RunInfo], str | None] = await self._reader.query("runs", list_whole)
        return listed

    async def _load(self, store: CheckpointStore, run_id: str) -> "_Known":
        """Return the stored data of a run, without what must not be shown.

        Cancellation: nothing is changed.
        """
        steps: Sequence[CheckpointInfo] = ()
        try:
            steps = await store.history(run_id)
            latest = await load_verified(store, run_id) if steps else None
        except CheckpointError as error:
            return _Known(steps, problem=one_line(describe_error(error)))
        fan_out = FanOut() if latest is None or latest.kind != "parallel" else read_fan_out(latest.state)
        return _Known(steps, latest if self._show_data else None, fan_out)

    def _failures(self, fan_out: FanOut, items: int) -> dict[str, Any] | None:
        failures = fan_out.failures
        if failures is None:
            return None
        return {
            "failed": failures.failed,
            "other": failures.other,
            "unfinished": count_unfinished(fan_out, items),
            "categories": [_category(each, show_data=self._show_data) for each in failures.categories],
        }

    async def _load_items(self, store: CheckpointStore, run_id: str) -> Mapping[str, bytes]:
        """Return the items by key, in order, without what must not be shown.

        Cancellation: nothing is changed.
        """
        items = await store.load_items(run_id)
        return await trio.to_thread.run_sync(self._ordered, items)

    def _ordered(self, items: Mapping[str, bytes]) -> Mapping[str, bytes]:
        # Sorting holds the GIL, even from the event loop; with plain numbers and strings it is fast.
        named = sorted(name for name in items if not _is_number(name))
        numbered = sorted((name for name in items if _is_number(name)), key=int)
        return {name: items[name] if self._show_data else b"" for name in chain(named, numbered)}

    def _value(self, data: bytes) -> str | None:
        return _result(data) if self._show_data else None

    def _picture(self, run: RunInfo, steps: Sequence[CheckpointInfo]) -> Any:
        if run.kind != "graph" or not steps:
            return None
        return msgspec.to_builtins(draw(steps, self._graphs.get(run.graph)))


def _is_number(name: str) -> bool:
    # Python refuses to parse numbers of thousands of digits.
    return name.isdecimal() and len(name) < 20


def _page_of(runs: Sequence[RunInfo], text: str, status: str, offset: int) -> dict[str, Any]:
    groups: list[list[tuple[int, RunInfo]]] = []
    for depth, run in tree(runs):
        if not depth:
            groups.append([])
        groups[-1].append((depth, run))
    wanted = [group for group in reversed(groups) if any(_fits(run, text, status) for _, run in group)]
    shown = wanted[offset : offset + RUNS]
    return {
        "counts": _counted(runs),
        "total": len(wanted),
        "offset": offset,
        "limit": RUNS,
        "runs": [_run(run, depth) for group in shown for depth, run in group[:INSIDE]],
    }


def _counted(runs: Iterable[RunInfo]) -> dict[str, int]:
    return dict(Counter(one_line(str(run.status)) for run in runs))


def _fits(run: RunInfo, text: str, status: str) -> bool:
    named = text.casefold() in f"{run.run_id}\n{run.graph}".casefold()
    return named and status in {"", one_line(str(run.status))}


def _run(run: RunInfo, depth: int) -> dict[str, Any]:
    return {
        "id": run.run_id,
        "label": one_line(run.run_id),
        "depth": depth,
        "graph": one_line(run.graph),
        "kind": one_line(run.kind),
        "status": one_line(str(run.status)),
        "step": run.step,
        "items": run.items,
        "total": None,
        "failed": 0,
        "created_at": run.created_at,
        "updated_at": run.updated_at,
    }


def _step(step: CheckpointInfo, seconds: float) -> dict[str, Any]:
    return {
        "step": step.step,
        "node": one_line(step.node),
        "next_node": one_line(step.next_node),
        "iterations": step.iterations,
        "status": one_line(str(step.status)),
        "created_at": step.created_at,
        "seconds": seconds,
    }


def _place(steps: Sequence[CheckpointInfo]) -> str:
    return one_line(steps[-1].next_node) if steps else ""


def _category(category: FailureCategory, *, show_data: bool) -> dict[str, Any]:
    return {
        "type": one_line(category.type),
        "count": category.count,
        "first": str(category.first_index) if category.first_key is None else one_line(category.first_key),
        # The message may contain an item.
        "message": clip(escape(category.message), LONGEST_TEXT) if show_data else None,
    }


def _stamp(run: Mapping[str, Any]) -> tuple[float, float]:
    """Return what tells apart two states of a fan-out, and two runs of one id."""
    return run["created_at"], run["updated_at"]


async def _load_counts(store: CheckpointStore, stamps: Mapping[str, tuple[float, float]]) -> dict[str, "_Counts"]:
    """Return the counts of each of these fan-outs; those of a damaged one are unknown.

    Cancellation: nothing is changed.
    """
    counts: dict[str, _Counts] = {}
    for run_id, stamp in stamps.items():
        try:
            fan_out = read_fan_out((await load_verified(store, run_id)).state)
        except CheckpointError:
            fan_out = FanOut()
        counts[run_id] = _Counts(stamp, fan_out.total, fan_out.failed)
    return counts


def _data(checkpoint: Checkpoint) -> dict[str, Any]:
    pause = None if checkpoint.pause is None else _text(readable(checkpoint.pause))
    return {"state": _text(readable(checkpoint.state)), "pause": pause}


def _result(data: bytes) -> str:
    """Return the result in a stored item, which a fan-out stores with the item's fingerprint."""
    kept = readable(data)
    is_record = isinstance(kept, list) and len(kept) == 3 and isinstance(kept[2], bytes)
    return _text(readable(kept[2]) if is_record else kept)


def _text(value: Any) -> str:
    lines = json.dumps(as_json(value), indent=2, ensure_ascii=False).splitlines()
    return clip("\n".join(escape(line) for line in lines), SHOWN)
