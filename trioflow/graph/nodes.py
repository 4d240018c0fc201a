"""Nodes made of the other patterns, and of graphs: each of these functions returns what `add_node` takes.

What runs inside a node tells the graph's observer, under the graph's run id, unless its config names an observer
other than the default.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from trioflow._durable.children import host
from trioflow._runtime.calls import call_either
from trioflow._runtime.emitter import Emitter
from trioflow._runtime.signals import Paused
from trioflow.config import ChainConfig, ConditionalConfig, ParallelConfig
from trioflow.config.checks import check_async, check_callable, check_instance
from trioflow.errors import ConfigError
from trioflow.events import Observer
from trioflow.graph._builder import NodeFunction
from trioflow.graph.graph import DEFAULT_OBSERVER, StateGraph
from trioflow.observers.registry import get_observer
from trioflow.outcomes import ParallelResult
from trioflow.workflows import Routes, process_chain, process_parallel
from trioflow.workflows._routing import Chooser, route_with

__all__ = ("chain_node", "conditional_node", "graph_node", "parallel_node", "pause")

S = TypeVar("S")
T = TypeVar("T")
R = TypeVar("R")
I = TypeVar("I")  # noqa: E741 - the inner graph's state

_CHAIN = ChainConfig()
_PARALLEL = ParallelConfig()
_CONDITIONAL = ConditionalConfig()


def pause(payload: Any = None) -> NoReturn:
    """End the run that this node belongs to for now; `StateGraph.resume` goes on by calling the node again.

    The state that the node was given is kept; what the node did so far is not undone, and is done again. A pause
    is never retried. In a node that is a graph, the outer run pauses, and the inner one begins anew at resume.

    Args:
        payload: what `GraphResult.pause` says, such as the question that has to be answered.

    Raises:
        RuntimeError: no graph is being run here.
    """
    if host.get(None) is None:
        raise RuntimeError("pause() works in the nodes of a graph, while it is run")
    raise Paused(payload)


def chain_node(
    processor: Callable[[T, S], Awaitable[S]],
    *,
    items: Iterable[T] | Callable[[S], Iterable[T] | AsyncIterable[T]],
    config: ChainConfig = _CHAIN,
) -> NodeFunction[S]:
    """Return a node that runs a chain over `items`, from the node's state to the chain's last.

    Args:
        processor: as for `process_chain`.
        items: the input, such as a list; or a plain function of the state that returns it.
        config: as for `process_chain`.

    Raises:
        ConfigError: an argument cannot work.
    """
    check_async("processor", processor)
    check_instance("config", config, ChainConfig)
    items_for = _items_for(items)

    async def run_chain(state: S) -> S:
        run_id, observer = _run_id_and_observer(config.observer)
        result = await process_chain(
            items_for(state), state, processor, config=config, observer=observer, run_id=run_id
        )
        return result.final

    return run_chain


def parallel_node(
    processor: Callable[[T], Awaitable[R]],
    *,
    items: Iterable[T] | Callable[[S], Iterable[T] | AsyncIterable[T]],
    aggregate: Callable[[S, ParallelResult[T, R]], S | Awaitable[S]],
    config: ParallelConfig = _PARALLEL,
) -> NodeFunction[S]:
    """Return a node that fans `items` out, and puts what came of them into the state.

    Args:
        processor: as for `process_parallel`.
        items: the input, such as a list; or a plain function of the state that returns it.
        aggregate: a function of the state and the whole account that returns the next state. Under
            `fail_fast=False` it sees the items that failed, too; what makes `process_parallel` raise makes the
            node fail.
        config: as for `process_parallel`.

    Raises:
        ConfigError: an argument cannot work.
    """
    check_async("processor", processor)
    check_instance("config", config, ParallelConfig)
    if not callable(aggregate):
        raise ConfigError.refusing("aggregate", aggregate, "a function of the state and the result")
    items_for = _items_for(items)

    async def run_parallel(state: S) -> S:
        run_id, observer = _run_id_and_observer(config.observer)
        result = await process_parallel(
            items_for(state), processor, config=config, observer=observer, run_id=run_id
        )
        return await call_either(aggregate, state, result)

    return run_parallel


def conditional_node(
    predicate: Chooser[S],
    routes: Routes[S],
    *,
    config: ConditionalConfig = _CONDITIONAL,
) -> NodeFunction[S]:
    """Return a node that chooses a handler for the state and returns what the handler makes of it.

    Args:
        predicate: as for `process_conditional`.
        routes: as for `process_conditional`.
        config: as for `process_conditional`.

    Raises:
        ConfigError: an argument cannot work.
    """
    check_instance("config", config, ConditionalConfig)
    check_instance("routes", routes, Routes)
    if not callable(predicate):
        raise ConfigError.refusing("predicate", predicate, "a function of the state, plain or async")

    async def run_conditional(state: S) -> S:
        run_id, observer = _run_id_and_observer(config.observer)
        return await route_with(Emitter(observer, "conditional", run_id), state, predicate, routes)

    return run_conditional


def graph_node(
    subgraph: StateGraph[I], enter: Callable[[S], I], leave: Callable[[S, I], S]
) -> NodeFunction[S]:
    """Return a node that runs another graph.

    Args:
        subgraph: the inner graph; `validate` of the outer graph looks for its faults, too.
        enter: a plain function of the outer state that returns the inner graph's first one.
        leave: a plain function of the outer state and the inner graph's last one that returns the next outer one.

    Raises:
        ConfigError: an argument cannot work.
    """
    check_instance("subgraph", subgraph, StateGraph)
    check_callable("enter", enter)
    check_callable("leave", leave)

    async def run_graph(state: S) -> S:
        around = host.get(None)
        inner = enter(state)
        result = await (
            subgraph.execute(inner)
            if around is None
            else subgraph._execute_within(inner, around.run_id, around.observer)  # noqa: SLF001 - one of us
        )
        if result.status == "paused":
            pause(result.pause)
        return leave(state, result.state)

    run_graph.subgraph = subgraph  # type: ignore[attr-defined]  # what validate and to_mermaid look for
    return run_graph


def _items_for(
    items: Iterable[T] | Callable[[S], Iterable[T] | AsyncIterable[T]],
) -> Callable[[S], Iterable[T] | AsyncIterable[T]]:
    if isinstance(items, Iterable):
        if isinstance(items, Iterator):
            allowed = "a collection such as a list, or a function of the state: the node may be entered again"
            raise ConfigError.refusing("items", items, allowed)
        return lambda _: items
    check_callable("items", items)
    return items


def _run_id_and_observer(name: str) -> tuple[str | None, Observer]:
    """Return the run id and the observer for what runs here by a config that names this observer."""
    around = host.get(None)
    if around is None:
        return None, get_observer(name)
    named = name != DEFAULT_OBSERVER
    return around.run_id, get_observer(name) if named else around.observer
