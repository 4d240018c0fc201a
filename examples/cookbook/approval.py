"""An agent that asks before it spends: one process drafts and stops at the question, another has the answer."""

import subprocess
import sys
from tempfile import TemporaryDirectory
from typing import Any, Literal

import msgspec
import trio
from msgspec.structs import replace

from trioflow import CheckpointConfig, GraphConfig, GraphResult, StateGraph, pause


class Order(msgspec.Struct, frozen=True):
    """What the agent knows of one order."""

    wish: str
    limit: float
    price: float = 0.0
    verdict: Literal["yes", "no"] | None = None
    log: tuple[str, ...] = ()


def noting(order: Order, what: str, **changes: Any) -> Order:
    return replace(order, log=(*order.log, what), **changes)


def make_agent(store: str) -> StateGraph[Order]:
    kept = CheckpointConfig(store=store, preserve=True)
    agent = StateGraph(GraphConfig(name="orders", checkpoint=kept, observer="noop"), state_type=Order)

    @agent.node
    async def quote(order: Order) -> Order:
        return noting(order, "quoted", price=float(len(order.wish) * 10))

    @agent.node
    async def approval(order: Order) -> Order:
        if order.verdict is None:
            pause({"question": f"buy {order.wish} for {order.price:.2f}?"})
        return noting(order, f"told {order.verdict}")

    @agent.node
    async def buy(order: Order) -> Order:
        return noting(order, "bought")

    @agent.node
    async def drop(order: Order) -> Order:
        return noting(order, "dropped")

    agent.set_entry_point("quote")
    agent.add_edge("quote", "drop", when=lambda order: order.price > order.limit, name="too dear")
    agent.add_edge("quote", "approval", when=lambda order: order.price > 100, name="to be asked")
    agent.add_edge("quote", "buy")
    agent.add_edge("approval", "buy", when=lambda order: order.verdict == "yes")
    agent.add_edge("approval", "drop")
    agent.set_exit_point("buy")
    agent.set_exit_point("drop")
    return agent


async def ask(store: str, run_id: str, wish: str, limit: str) -> GraphResult[Order]:
    return await make_agent(store).execute(Order(wish, float(limit)), run_id=run_id)


async def answer(store: str, run_id: str, verdict: str) -> GraphResult[Order]:
    told = msgspec.convert(verdict, Literal["yes", "no"])
    return await make_agent(store).resume(run_id, update=lambda order: replace(order, verdict=told))


if __name__ == "__main__":
    if sys.argv[1:]:
        command: Any = {"ask": ask, "answer": answer}[sys.argv[1]]
        result: GraphResult[Order] = trio.run(command, *sys.argv[2:])
        print(result.status, *result.state.log, result.pause or f"the end: {result.exit_point}", sep=", ")
    else:
        with TemporaryDirectory() as folder:
            runs = f"sqlite:///{folder}/runs.db"
            for words in (["ask", runs, "order-7", "three oak chairs", "450"], ["answer", runs, "order-7", "yes"]):
                subprocess.run([sys.executable, __file__, *words], check=True)  # noqa: S603 - itself
