"""Changes from the page, if it was started with `write`: answering a pause, and cancelling a run.

Both first check that the run is still as the page showed it. An answer resumes the run in the page's own nursery,
with the graph that the page was given. A cancellation claims the run, so that a process that executes it can save
nothing more, and writes that it is cancelled; it can be resumed.
"""

import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeVar, final, get_type_hints

import msgspec
import trio

from trioflow._text import describe_error, one_line, quote
from trioflow.checkpoint.looking import all_runs, tree
from trioflow.checkpoint.protocol import CHECKPOINT_VERSION, Checkpoint, CheckpointStore, RunInfo
from trioflow.checkpoint.registry import get_checkpoint_store
from trioflow.checkpoint.session import Session, load_verified
from trioflow.errors import (
    CheckpointConflictError,
    CheckpointNotFoundError,
    CheckpointStoreError,
    ConfigError,
    TrioflowError,
)
from trioflow.graph import StateGraph
from trioflow.graph.state import State, field_names, fields_of, with_changes

__all__ = ("Changes",)

V = TypeVar("V")

_ENDED = frozenset({"completed", "failed", "cancelled", "corrupt"})

_MOST_NOTES = 1_000
"""The most runs for which the last change from the page is remembered."""


@final
class Changes:
    """Changes runs in the store at `url`.

    Args:
        url: the store's URL.
        graphs: the graphs whose pauses can be answered.
        nursery: executes the answered runs.
        show_data: whether to show error messages, which may contain an item or a state.

    Attributes:
        secret: the secret that a change must carry.
    """

    def __init__(
        self, url: str, graphs: Sequence[StateGraph[Any]], nursery: trio.Nursery, *, show_data: bool
    ) -> None:
        self.secret = secrets.token_urlsafe(32)
        self._url = url
        self._graphs = {graph.name: graph for graph in graphs}
        self._nursery = nursery
        self._show_data = show_data
        self._going: dict[str, _Going] = {}
        self._notes: OrderedDict[str, str] = OrderedDict()

    def __repr__(self) -> str:
        return f"<Changes of {len(self._going)} runs>"

    def allowed(self, run: RunInfo) -> dict[str, Any]:
        """Return what can be done with `run`, an explanation if it cannot be answered, and the last change."""
        why = ""
        if run.status == "paused" and run.kind == "graph":
            if run.parent is not None:
                why = f"It is inside {one_line(run.parent)}: answer there."
            elif run.graph not in self._graphs:
                why = f"Start the page with --graph package.module:graph of {quote(run.graph)} to answer."
        return {
            "answer": run.status == "paused" and run.kind == "graph" and not why,
            "cancel": run.parent is None and run.status not in _ENDED and bool(run.kind),
            "why_not": why,
            "note": self._notes.get(run.run_id, ""),
        }

    async def answer(self, run_id: str, step: int, update: Mapping[str, Any]) -> str:
        """Resume a paused run, with `update` merged into its state, and return a description.

        Args:
            run_id: the run's id.
            step: the step after which the page showed it paused.
            update: values of the state by name.

        Raises:
            CheckpointError: the run cannot be resumed, or no longer.
            ConfigError: `update` does not fit the state, or the graph is unknown.

        Cancellation: a run that has been resumed keeps running.
        """
        checkpoint = await self._with_store(lambda store: load_verified(store, run_id))
        if run_id in self._going or checkpoint.status != "paused" or checkpoint.step != step:
            raise _resumed_already(run_id)
        graph = self._graphs.get(checkpoint.graph)
        if graph is None:
            raise ConfigError(f"the page does not know the graph {quote(checkpoint.graph)}: start it with --graph")
        going = self._going[run_id] = _Going()
        self._nursery.start_soon(self._resume, graph, run_id, update, going, name=f"the page resumes {run_id}")
        await going.begun.wait()
        if going.refusal is not None:
            raise going.refusal
        return "answered: the run continues, in the page's process"

    async def _resume(
        self, graph: StateGraph[Any], run_id: str, update: Mapping[str, Any], going: "_Going"
    ) -> None:
        """Resume the run, and record how it ended.

        Cancellation: passes through; the run can be resumed again.
        """

        def updated(state: Any) -> Any:
            merged = _merged(state, update)
            going.is_updated = True
            going.begun.set()
            return merged

        note = "The page answered, and was ended before the run."
        try:
            with going.scope:
                result = await graph.resume(run_id, update=updated)
                if not going.is_updated:
                    # The run completed meanwhile, and a completed run is not changed.
                    going.refusal = _resumed_already(run_id)
                note = f"The page answered and resumed the run: {result.status}."
        except Exception as error:  # noqa: BLE001 - an error of the run must not end the page
            if not going.is_updated:
                going.refusal = self._refusal(error, run_id)
            note = f"The page answered and resumed the run: {self._describe(error)}."
        finally:
            if going.is_updated:
                self._note(run_id, note)
            del self._going[run_id]
            going.begun.set()
            going.ended.set()

    def _describe(self, error: Exception) -> str:
        cause = error.__cause__ if isinstance(error.__cause__, Exception) else error
        names = dict.fromkeys(type(each).__name__ for each in (error, cause))
        category = "it failed with " + ", from ".join(names)
        return f"{category}: {one_line(describe_error(cause))}" if self._show_data else category

    def _refusal(self, error: Exception, run_id: str) -> TrioflowError:
        """Return the error to report to the user who answered, for `error` of the run."""
        if isinstance(error, CheckpointNotFoundError):
            message = f"the graph must keep its runs in the store that the page shows: {error}"
            return CheckpointNotFoundError(message, run_id=run_id)
        if isinstance(error, TrioflowError):
            return error
        refusal = CheckpointStoreError(f"the run did not continue: {self._describe(error)}")
        refusal.__cause__ = error
        return refusal

    def _note(self, run_id: str, note: str) -> None:
        self._notes[run_id] = one_line(note)
        self._notes.move_to_end(run_id)
        if len(self._notes) > _MOST_NOTES:
            self._notes.popitem(last=False)

    async def cancel(self, run_id: str) -> str:
        """Claim a run from its holder, write that it is cancelled, and return a description.

        Raises:
            CheckpointError: the run has ended or has a parent, or the store failed.

        Cancellation: the run may have been claimed without its status having changed.
        """
        going = self._going.get(run_id)
        if going is not None:
            going.scope.cancel(reason="cancelled from the page")
            await going.ended.wait()
        await self._with_store(lambda store: _cancel(store, run_id, was_ours=going is not None))
        self._note(run_id, "Cancelled from the page: its former holder can save no more.")
        return "cancelled: its former holder can save no more"

    async def _with_store(self, work: Callable[[CheckpointStore], Awaitable[V]]) -> V:
        """Run `work` with the open store.

        Cancellation: passes through; the store is closed.
        """
        store = get_checkpoint_store(self._url)
        try:
            return await work(store)
        finally:
            with trio.CancelScope(shield=True):
                await store.aclose()


@final
class _Going:
    """A run in the page's nursery."""

    def __init__(self) -> None:
        self.scope = trio.CancelScope()
        self.begun = trio.Event()
        self.ended = trio.Event()
        self.is_updated = False
        self.refusal: TrioflowError | None = None


async def _cancel(store: CheckpointStore, run_id: str, *, was_ours: bool) -> None:
    """Claim the run, and its child runs that have not ended, and write that they are cancelled.

    Cancellation: some of them may have been cancelled.
    """
    runs = await all_runs(store)
    root = next((run for run in runs if run.run_id == run_id), None)
    if root is None:
        raise CheckpointNotFoundError(f"there is no run {quote(run_id)} in this store", run_id=run_id)
    if root.parent is not None:
        message = f"run {quote(run_id)} is inside {quote(root.parent)}: cancel that one"
        raise CheckpointConflictError(message, run_id=run_id)
    # If the run is ours and its cancellation has reached it, this has been written already.
    if root.status in _ENDED and not (was_ours and root.status == "cancelled"):
        raise CheckpointConflictError(f"run {quote(run_id)} has ended: it is {root.status}", run_id=run_id)
    if not root.kind:
        message = f"only items of run {quote(run_id)} are stored, and no status"
        raise CheckpointConflictError(message, run_id=run_id)
    sessions = {run_id: await Session.claim(store, run_id)}
    await _write_cancelled(store, sessions[run_id])
    for _, run in tree(runs, run_id):
        holder = sessions.get(run.parent or "")
        if holder is not None and run.status != "corrupt":
            sessions[run.run_id] = await Session.claim(store, run.run_id, holder)
            if run.kind and run.status not in _ENDED:
                await _write_cancelled(store, sessions[run.run_id])


async def _write_cancelled(store: CheckpointStore, session: Session) -> None:
    """Write that a run is cancelled after its last step, including one saved just before the claim.

    Cancellation: it may have been written.
    """
    latest: Checkpoint = await load_verified(store, session.run_id)
    if latest.status not in _ENDED:
        changed = msgspec.structs.replace(
            latest, status="cancelled", pause=None, created_at=time.time(), version=CHECKPOINT_VERSION
        )
        await session.save(changed)


def _merged(state: Any, update: Mapping[str, Any]) -> Any:
    """Return the state with these values, converted to their types.

    Raises:
        ConfigError: they do not fit.
    """
    kind = type(state)
    known = field_names(kind)
    unknown = [] if known is None else [name for name in update if name not in known]
    if unknown:
        raise ConfigError(f"the state has no {quote(unknown[0])}: it has {', '.join(map(quote, known or ()))}")
    try:
        if isinstance(state, State):
            return with_changes(state, update)
        validate = getattr(kind, "model_validate", None)
        if validate is not None:
            return validate({**fields_of(state), **update})
        hints = get_type_hints(kind, include_extras=True)
        return with_changes(state, {name: msgspec.convert(value, hints[name]) for name, value in update.items()})
    except (msgspec.ValidationError, ValueError, TypeError, NameError) as error:
        raise ConfigError(f"the answer does not fit the state: {one_line(describe_error(error))}") from error


def _resumed_already(run_id: str) -> CheckpointConflictError:
    message = f"run {quote(run_id)} has continued meanwhile, or was answered already: nothing was changed"
    return CheckpointConflictError(message, run_id=run_id)
