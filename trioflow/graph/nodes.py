"""Nodes made of the other patterns, and of graphs: each of these functions returns what `add_node` takes.

What runs inside a node is a run of its own, with an id of its own, and tells the graph's observer, unless its
config names an observer other than the default. Where the graph is kept it is kept too, as a run inside that run:
whatever ends the node before its time, what was paid for is there when the node is called again.
"""

from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Iterator
from typing import Any, NoReturn, TypeVar

from trioflow._durable.children import ChildStore, host
from trioflow._runtime.calls import call_either
from trioflow._runtime.emitter import Emitter
from trioflow._runtime.signals import Paused
from trioflow.checkpoint.session import choose_store
from trioflow.config import ChainConfig, ConditionalConfig, ParallelConfig
from trioflow.config.checks import check_async, check_callable, check_instance
from trioflow.errors import ConfigError
from trioflow.graph._builder import NodeFunction
from trioflow.graph._inside import child_of, no_failure_of_the_node, run_kept
from trioflow.graph.graph import DEFAULT_OBSERVER, StateGraph
from trioflow.outcomes import ParallelResult
from trioflow.workflows import Routes, process_chain, process_parallel
from trioflow.workflows.conditional import Chooser, route_with

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
    is never retried. In a run inside a run (a chain, a fan-out, another graph) the outer run pauses too; where it
    is kept, what is inside goes on where it paused, and begins anew otherwise.

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
    durable: bool = True,
) -> NodeFunction[S]:
    """Return a node that runs a chain over `items`, from the node's state to the chain's last.

    Args:
        processor: as for `process_chain`.
        items: the input, such as a list; or a plain function of the state that returns it.
        config: as for `process_chain`.
        durable: whether the chain is kept where the graph is: it then goes on after its last step.

    Raises:
        ConfigError: an argument cannot work.
    """
    check_async("processor", processor)
    check_instance("config", config, ChainConfig)
    items_for = _items_for(items)

    async def run_chain(state: S) -> S:
        child = child_of(run_chain, config.observer, durable=durable)

        async def run(config: ChainConfig, store: ChildStore | None) -> S:
            given = items_for(state)
            result = await process_chain(
                given, state, processor, config=config, observer=child.observer, store=store, run_id=child.run_id
            )
            return result.final

        kept_in = choose_store(None, config.checkpoint)
        return await run_kept(run, child, config, kept_in if durable else None)

    return run_chain


def parallel_node(
    processor: Callable[[T], Awaitable[R]],
    *,
    items: Iterable[T] | Callable[[S], Iterable[T] | AsyncIterable[T]],
    aggregate: Callable[[S, ParallelResult[T, R]], S | Awaitable[S]],
    config: ParallelConfig = _PARALLEL,
    durable: bool = True,
    key: Callable[[T], str] | None = None,
    result_type: type[R] | None = None,
) -> NodeFunction[S]:
    """Return a node that fans `items` out, and puts what came of them into the state.

    Args:
        processor: as for `process_parallel`.
        items: the input, such as a list; or a plain function of the state that returns it.
        aggregate: a function of the state and the whole account that returns the next state. Under
            `fail_fast=False` it sees the items that failed, too; what makes `process_parallel` raise makes the
            node fail.
        config: as for `process_parallel`.
        durable: whether the fan-out is kept where the graph is: only items without a success are then called.
        key: as for `process_parallel`.
        result_type: as for `process_parallel`.

    Raises:
        ConfigError: an argument cannot work.
    """
    check_async("processor", processor)
    check_instance("config", config, ParallelConfig)
    if not callable(aggregate):
        raise ConfigError.refusing("aggregate", aggregate, "a function of the state and the result")
    items_for = _items_for(items)

    async def run_parallel(state: S) -> S:
        child = child_of(run_parallel, config.observer, durable=durable)

        async def run(config: ParallelConfig, store: ChildStore | None) -> ParallelResult[T, R]:
            return await process_parallel(
                items_for(state),
                processor,
                config=config,
                observer=child.observer,
                store=store,
                run_id=child.run_id,
                key=key,
                result_type=result_type,
            )

        kept_in = None if config.checkpoint is None or not durable else config.checkpoint.store
        return await call_either(aggregate, state, await run_kept(run, child, config, kept_in))

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
        child = child_of(run_conditional, config.observer, durable=False)
        return await route_with(Emitter(child.observer, "conditional", child.run_id), state, predicate, routes)

    return run_conditional


def graph_node(
    subgraph: StateGraph[I],
    enter: Callable[[S], I],
    leave: Callable[[S, I], S],
    *,
    durable: bool = True,
) -> NodeFunction[S]:
    """Return a node that runs another graph.

    Args:
        subgraph: the inner graph; `validate` of the outer graph looks for its faults, too.
        enter: a plain function of the outer state that returns the inner graph's first one.
        leave: a plain function of the outer state and the inner graph's last one that returns the next outer one.
        durable: whether the inner run is kept where the outer one is: it then goes on at the node where it was.
            What has been changed meanwhile in what `enter` gives, such as by the `update` of a resume, is changed
            in its state.

    Raises:
        ConfigError: an argument cannot work.
    """
    check_instance("subgraph", subgraph, StateGraph)
    check_callable("enter", enter)
    check_callable("leave", leave)

    async def run_graph(state: S) -> S:
        child = child_of(run_graph, DEFAULT_OBSERVER, durable=durable)
        inner = enter(state)
        if child.run_id is None:
            result = await subgraph.execute(inner)
        elif child.store is None:
            result = await subgraph._execute_inside(inner, child)  # noqa: SLF001 - the other half of this
        else:
            result = await no_failure_of_the_node(lambda: subgraph._execute_inside(inner, child))  # noqa: SLF001
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
