"""What type checkers infer of chains, routes and graphs; run like any test."""

import dataclasses
from typing import assert_type

import msgspec

from trioflow import (
    ChainConfig,
    ChainResult,
    ConditionalConfig,
    GraphConfig,
    GraphResult,
    GraphRun,
    GraphStep,
    NoopObserver,
    ParallelResult,
    Routes,
    State,
    StateGraph,
    all_of,
    chain_node,
    conditional_node,
    graph_node,
    key_equals,
    not_,
    parallel_node,
    process_chain,
    process_conditional,
)


class Review(msgspec.Struct, frozen=True):
    words: int = 0


@dataclasses.dataclass
class Sheet:
    lines: int = 0


async def measure(text: str, total: int) -> int:
    return total + len(text)


async def read(review: Review) -> Review:
    return Review(review.words + 1)


def enough(review: Review) -> bool:
    return review.words > 0


async def test_a_chain_knows_its_state() -> None:
    result = await process_chain(["a", "bb"], 0, measure, config=ChainConfig(observer="noop"))
    assert_type(result, ChainResult[int])
    assert_type(result.final, int)


async def test_routing_gives_back_the_kind_of_state() -> None:
    routes = Routes({"read": read})
    assert_type(routes, Routes[Review])
    config = ConditionalConfig(observer="noop")
    assert_type(await process_conditional(Review(), lambda _: "read", routes, config=config), Review)


async def test_a_graph_knows_its_state() -> None:
    assert_type(StateGraph(GraphConfig(name="loose")), StateGraph[State])
    graph = StateGraph(GraphConfig(name="typed", observer="noop"), state_type=Review)
    assert_type(graph, StateGraph[Review])
    graph.add_node("read", read)

    @graph.node
    async def decide(review: Review) -> Review:
        return review

    @graph.node("publish it")
    async def publish(review: Review) -> Review:
        return review

    assert_type(await decide(Review()), Review)
    assert_type(await publish(Review()), Review)
    graph.add_edge("read", "decide", when=all_of(enough, not_(key_equals("words", 7))))
    graph.add_edge("decide", "publish it", lambda review: review.words > 0)
    graph.set_entry_point("read")
    graph.set_exit_point("publish it")
    assert_type(await graph.execute(Review()), GraphResult[Review])
    async with graph.open_run(Review()) as steps:
        assert_type(steps, GraphRun[Review])
        async for step in steps:
            assert_type(step, GraphStep[Review])
            assert_type(step.state, Review)
    assert_type(steps.result().state, Review)


async def test_nodes_of_patterns_fit_the_graph() -> None:
    async def count(text: str) -> int:
        return len(text)

    def take(review: Review, result: ParallelResult[str, int]) -> Review:
        return Review(review.words + sum(result.results))

    async def add(text: str, review: Review) -> Review:
        return Review(review.words + len(text))

    inner = StateGraph(GraphConfig(name="inner", observer="noop"), Sheet)
    graph = StateGraph(GraphConfig(name="outer", observer="noop"), Review, observer=NoopObserver())
    graph.add_node("fan", parallel_node(count, items=["a"], aggregate=take))
    graph.add_node("each", chain_node(add, items=lambda review: ["x"] * review.words))
    graph.add_node("choose", conditional_node(lambda _: "read", Routes({"read": read})))
    graph.add_node(
        "inner",
        graph_node(inner, lambda review: Sheet(review.words), lambda review, sheet: Review(sheet.lines)),
    )
