"""What of a graph's runs is read back: the codec of its states, and the checkpoint that a run goes on from."""

from operator import attrgetter
from typing import Any, TypeVar

from trioflow._text import list_known, quote
from trioflow.checkpoint.codec import Codec
from trioflow.checkpoint.protocol import Checkpoint, CheckpointStore
from trioflow.checkpoint.session import load_verified
from trioflow.errors import CheckpointMismatchError
from trioflow.graph._plan import Plan
from trioflow.graph.state import State

__all__ = ("find", "state_codec")

S = TypeVar("S")


def state_codec(state_type: type[S]) -> Codec[S]:
    """Return what encodes and decodes the states of a graph."""
    if issubclass(state_type, State):
        return Codec(state_type, wrap=state_type, unwrap=attrgetter("_values"))
    return Codec(state_type)


async def find(store: CheckpointStore, run_id: str, step: int | None, graph: str, plan: Plan[Any]) -> Checkpoint:
    """Return the checkpoint to go on from, if this graph can.

    Raises:
        CheckpointNotFoundError: there is none.
        CheckpointMismatchError: it is another graph's, or its node is gone.

    Cancellation: nothing is changed.
    """
    checkpoint = await load_verified(store, run_id, step, suggest=True)
    if checkpoint.graph != graph:
        message = f"run {quote(run_id)} is one of {quote(checkpoint.graph)}, not of graph {quote(graph)}"
        raise CheckpointMismatchError(f"{message}: resume it there", run_id=run_id)
    node = checkpoint.next_node or checkpoint.node
    if node not in plan.nodes:
        raise CheckpointMismatchError(
            f"run {quote(run_id)} stands at node {quote(node)}, which is not in graph {quote(graph)} any more "
            f"{list_known(node, plan.nodes)}: add a node of that name, or resume from another step",
            run_id=run_id,
        )
    return checkpoint
