import asyncio
from typing import TypedDict

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph import END, START, StateGraph
from langgraph.types import Command, interrupt


class Review(TypedDict):
    text: str
    rounds: int


async def revise(state):
    return {"text": state["text"].replace("  ", " "), "rounds": state["rounds"] + 1}


async def approve(state):
    answer = interrupt({"publish?": state["text"]})
    return {"text": f"{state['text']} ({answer})"}


builder = StateGraph(Review)
builder.add_node("revise", revise)
builder.add_node("approve", approve)
builder.add_edge(START, "revise")
builder.add_conditional_edges(
    "revise", lambda state: "revise" if "  " in state["text"] else "approve"
)
builder.add_edge("approve", END)
graph = builder.compile(checkpointer=InMemorySaver())


async def main():
    config = {"configurable": {"thread_id": "review-7"}, "recursion_limit": 20}
    paused = await graph.ainvoke({"text": "a    b", "rounds": 0}, config)
    print("asks:", paused["__interrupt__"][0].value)
    result = await graph.ainvoke(Command(resume="approved by Ada"), config)
    print("result:", result["text"], "after", result["rounds"], "rounds")


asyncio.run(main())
