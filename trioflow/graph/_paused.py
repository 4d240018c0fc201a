"""Where paused runs wait to be resumed: in memory, kept by the graph that they are runs of."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Generic, NoReturn, TypeVar, final

import msgspec

from trioflow._text import list_known, quote
from trioflow.errors import (
    CheckpointConflictError,
    CheckpointMismatchError,
    CheckpointNotFoundError,
)
from trioflow.graph._isolation import isolate
from trioflow.graph._walk import Position

__all__ = ("PausedRuns",)

S = TypeVar("S")


@final
class PausedRuns(Generic[S]):
    """The paused runs of one graph.

    Args:
        graph: the graph's name.
    """

    __slots__ = ("_graph", "_positions", "_resuming")

    def __init__(self, graph: str) -> None:
        self._graph = graph
        self._positions: dict[str, Position[S]] = {}
        self._resuming: set[str] = set()

    def __repr__(self) -> str:
        return f"<PausedRuns of {self._graph}: {len(self._positions)}>"

    def keep(self, run_id: str, position: Position[S]) -> None:
        """Keep where the run paused."""
        self._positions[run_id] = msgspec.structs.replace(position, state=isolate(position.state))

    def spend(self, run_id: str, iterations: int) -> None:
        """Take note of the attempts that the run has made, if it is still kept: they count at the next resume."""
        if run_id in self._positions:
            self._positions[run_id] = msgspec.structs.replace(self._positions[run_id], iterations=iterations)

    def forget(self, run_id: str) -> None:
        """Forget the run, if it is kept: it completed."""
        self._positions.pop(run_id, None)

    def check_new(self, run_id: str) -> None:
        """Refuse to begin a run under the id of a paused one."""
        if run_id in self._positions:
            message = f"run {quote(run_id)} of graph {quote(self._graph)} is paused at node "
            advice = "; resume it, or begin under another run_id"
            raise CheckpointMismatchError(
                message + quote(self._positions[run_id].node) + advice, run_id=run_id
            )

    def refuse_step(self, run_id: str) -> NoReturn:
        """Refuse to go back to an earlier step of a run: none is kept."""
        message = f"no steps are kept of runs of graph {quote(self._graph)}: checkpointing is not enabled; "
        advice = "set checkpoint.interval in its config, or give it a store"
        raise CheckpointNotFoundError(message + advice, run_id=run_id)

    @contextmanager
    def resuming(self, run_id: str) -> Iterator[Position[S]]:
        """Give where the run paused, to one caller at a time."""
        if run_id not in self._positions:
            message = f"there is no paused run {quote(run_id)} of graph {quote(self._graph)} in this process "
            advice = (
                "; checkpointing is not enabled, so nothing else is kept: set checkpoint.interval in the graph's "
                "config, or give it a store"
            )
            raise CheckpointNotFoundError(message + list_known(run_id, self._positions) + advice, run_id=run_id)
        if run_id in self._resuming:
            raise CheckpointConflictError(f"run {quote(run_id)} is being resumed already", run_id=run_id)
        self._resuming.add(run_id)
        try:
            yield self._positions[run_id]
        finally:
            self._resuming.discard(run_id)
