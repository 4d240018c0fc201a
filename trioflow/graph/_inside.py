"""How a run is started inside a node: its id, its observer, and its store.

A pattern node asks its host, which is the graph's runner or a branch, for the `Child` that it runs as.
"""

from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from trioflow._durable.children import Child, ChildStore, child_store, host
from trioflow._runtime.signals import JournalError
from trioflow.checkpoint.protocol import CheckpointStore
from trioflow.checkpoint.session import open_store
from trioflow.config import ChainConfig, CheckpointConfig, ParallelConfig
from trioflow.errors import CheckpointError
from trioflow.graph.graph import DEFAULT_OBSERVER
from trioflow.graph.state import rebased
from trioflow.observers.registry import get_observer

V = TypeVar("V")
C = TypeVar("C", ChainConfig, ParallelConfig)


def child_of(node: object, observer: str, *, durable: bool) -> Child:
    """Return the child run that `node` starts, with a config that names `observer`.

    A name other than the default replaces the graph's observer.
    """
    around = host.get(None)
    if around is None:
        return Child(None, get_observer(observer), None)
    child = around.child_of(node)
    return msgspec.structs.replace(
        child,
        observer=child.observer if observer == DEFAULT_OBSERVER else get_observer(observer),
        store=child.store if durable else None,
        finished=child.finished if durable else None,
    )


async def run_child(
    run: Callable[[C, ChildStore | None], Awaitable[V]],
    child: Child,
    config: C,
    own_store: CheckpointStore | str | None,
) -> V:
    """Await `run` with the config and the store of a child: the graph's store, else one that the config names.

    Raises:
        JournalError: the child cannot be stored with the graph; that is not an error of the node.

    Cancellation: passes through.
    """
    if child.store is not None:
        checkpoint = msgspec.structs.replace(config.checkpoint or CheckpointConfig(), preserve=True)
        kept = msgspec.structs.replace(config, checkpoint=checkpoint)
        store = child.store
        return await raising_journal_errors(lambda: run(kept, store))
    if child.run_id is None or own_store is None:
        unkept = config if config.checkpoint is None else msgspec.structs.replace(config, checkpoint=None)
        return await run(unkept, None)
    async with open_store(own_store) as opened:
        return await run(config, child_store(opened, None, None, rebased))


async def raising_journal_errors(run: Callable[[], Awaitable[V]]) -> V:
    """Await `run`, and let its store errors end the graph's run, bypassing retries and error edges.

    Raises:
        JournalError: from the `CheckpointError` of `run`.

    Cancellation: passes through.
    """
    try:
        return await run()
    except CheckpointError as error:
        raise JournalError from error
