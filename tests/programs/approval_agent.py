"""An agent that asks before it spends: one process drafts and stops at the question, another one has the answer.

::

    python approval_agent.py sqlite:///runs.db ask order-7 "three chairs" 450
    python approval_agent.py sqlite:///runs.db answer order-7 yes
"""

import json
import sys
from typing import Literal

import msgspec
import trio

from trioflow import CheckpointConfig, GraphConfig, GraphResult, StateGraph, pause

NEEDS_APPROVAL = 100.0


class Order(msgspec.Struct, frozen=True):
    """What the agent knows of one order."""

    wish: str
    limit: float
    price: float | None = None
    verdict: Literal["yes", "no"] | None = None
    log: tuple[str, ...] = ()

    def noting(self, what: str, **changes) -> "Order":
        return msgspec.structs.replace(self, log=(*self.log, what), **changes)


def make_agent(store: str) -> StateGraph[Order]:
    kept = CheckpointConfig(store=store, preserve=True)
    agent = StateGraph(GraphConfig(name="orders", checkpoint=kept, observer="noop"), state_type=Order)

    @agent.node
    async def quote(order: Order) -> Order:
        return order.noting("quoted", price=float(len(order.wish) * 10))

    @agent.node
    async def approval(order: Order) -> Order:
        if order.verdict is None:
            pause({"question": f"buy {order.wish} for {order.price:.2f}?"})
        return order.noting(f"told {order.verdict}")

    @agent.node
    async def buy(order: Order) -> Order:
        return order.noting("bought")

    @agent.node
    async def drop(order: Order) -> Order:
        return order.noting("dropped")

    agent.set_entry_point("quote")
    agent.add_edge("quote", "drop", when=lambda order: order.price > order.limit, name="too dear")
    agent.add_edge("quote", "approval", when=lambda order: order.price > NEEDS_APPROVAL, name="to be asked")
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
    return await make_agent(store).resume(run_id, update=lambda order: msgspec.structs.replace(order, verdict=told))


def main(store: str, command: str, *arguments: str) -> None:
    result = trio.run({"ask": ask, "answer": answer}[command], store, *arguments)
    shown = {"status": result.status, "pause": result.pause, "log": result.state.log, "exit": result.exit_point}
    print(json.dumps(shown))


if __name__ == "__main__":
    main(*sys.argv[1:])
