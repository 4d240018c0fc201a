"""Pattern nodes: each of these functions returns a node that runs another pattern, or a graph.

Inside the node is a run of its own, with its own id. Its events go to the graph's observer, unless its config
names an observer other than the default. If the graph is durable, it is a durable child run: however the node is
interrupted, calling it again repeats no finished work.
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
from trioflow.graph._inside import child_of, raising_journal_errors, run_child
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
    """Pause the run that this node belongs to; `StateGraph.resume` continues it by calling the node again.

    The node's input state is saved; side effects of the node so far are not undone, and happen again. A pause is
    never retried. In a run inside a run (a chain, a fan-out, another graph) the outer run pauses too; if it is
    durable, the inner run continues where it paused, otherwise it starts over.

    Args:
        payload: the value of `GraphResult.pause`, such as a question to be answered.

    Raises:
        RuntimeError: called outside a node of a running graph.
    """
    if host.get(None) is None:
        raise RuntimeError("pause() works only in a node of a running graph")
    raise Paused(payload)


def chain_node(
    processor: Callable[[T, S], Awaitable[S]],
    *,
    items: Iterable[T] | Callable[[S], Iterable[T] | AsyncIterable[T]],
    config: ChainConfig = _CHAIN,
    durable: bool = True,
) -> NodeFunction[S]:
    """Return a node that runs a chain over `items`: its input state is the chain's first, its result the last.

    Args:
        processor: as for `process_chain`.
        items: the input, such as a list; or a plain function of the state that returns it.
        config: as for `process_chain`.
        durable: whether the chain is durable if the graph is: it then continues after its last step.

    Raises:
        ConfigError: an argument is invalid.
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

        own_store = choose_store(None, config.checkpoint)
        return await run_child(run, child, config, own_store if durable else None)

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
    """Return a node that fans out over `items`, and aggregates the results into the state.

    Args:
        processor: as for `process_parallel`.
        items: the input, such as a list; or a plain function of the state that returns it.
        aggregate: a function, plain or async, of the state and the `ParallelResult` that returns the next state.
            Under `fail_fast=False` the result includes failed items; if `process_parallel` raises, the node fails.
        config: as for `process_parallel`.
        durable: whether the fan-out is durable if the graph is: items that succeeded are then not processed again.
        key: as for `process_parallel`.
        result_type: as for `process_parallel`.

    Raises:
        ConfigError: an argument is invalid.
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

        own_store = None if config.checkpoint is None or not durable else config.checkpoint.store
        return await call_either(aggregate, state, await run_child(run, child, config, own_store))

    return run_parallel


def conditional_node(
    predicate: Chooser[S],
    routes: Routes[S],
    *,
    config: ConditionalConfig = _CONDITIONAL,
) -> NodeFunction[S]:
    """Return a node that routes the state to a handler, and returns the handler's state.

    Args:
        predicate: as for `process_conditional`.
        routes: as for `process_conditional`.
        config: as for `process_conditional`.

    Raises:
        ConfigError: an argument is invalid.
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
        subgraph: the inner graph; `validate` of the outer graph validates it too.
        enter: a plain function of the outer state that returns the inner graph's first state.
        leave: a plain function of the outer state and the inner graph's last state that returns the next outer
            state.
        durable: whether the inner run is durable if the outer one is: it then continues at the node where it was.
            Changes since then to what `enter` returns, such as by the `update` of a resume, are applied to its
            state.

    Raises:
        ConfigError: an argument is invalid.
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
            result = await raising_journal_errors(lambda: subgraph._execute_inside(inner, child))  # noqa: SLF001
        if result.status == "paused":
            pause(result.pause)
        return leave(state, result.state)

    run_graph.subgraph = subgraph  # type: ignore[attr-defined]  # read by validate and to_mermaid
    return run_graph


def _items_for(
    items: Iterable[T] | Callable[[S], Iterable[T] | AsyncIterable[T]],
) -> Callable[[S], Iterable[T] | AsyncIterable[T]]:
    if isinstance(items, Iterable):
        if isinstance(items, Iterator):
            allowed = "a collection such as a list, or a function of the state, because the node may run again"
            raise ConfigError.refusing("items", items, allowed)
        return lambda _: items
    check_callable("items", items)
    return items
