"""A team of agents on one budget: each has a share of its own, and together they stay within the whole.

Run it: `pip install httpx2 starlette "hypercorn[trio]"`, `python examples/cookbook/team_budget.py`
"""

from collections.abc import Awaitable, Callable

import httpx2
import msgspec
import trio
from servers import Models, open_server

from trioflow import Budget, Hub, HubConfig, Message, gather_requests, open_hub, with_budget

THOUGHT = {"tokens": 30.0, "calls": 1.0}  # what a call is thought to cost


class Said(msgspec.Struct, frozen=True):
    """What a model said, and what it charged."""

    text: str
    tokens: float


Ask = Callable[[str], Awaitable[Said]]


def hire(hub: Hub, name: str, ask: Ask, share: Budget) -> None:
    """Add an agent that answers questions, each by one call out of its share."""
    paid = with_budget(ask, share, estimate=THOUGHT, actual=lambda said: {"tokens": said.tokens})

    async def handle(message: Message) -> str:
        return (await paid(f"{name}, {message.data}")).text

    hub.register(name, handle, max_handlers=1)


async def work(ask: Ask, whole: Budget, shares: dict[str, Budget], questions: list[str]) -> list[str]:
    """Let a lead ask everybody each question, and return what the team said."""
    lines = []
    async with open_hub(HubConfig(observer="noop")) as hub:
        for name, share in shares.items():
            hire(hub, name, ask, share)
        for question in questions:
            answers = await gather_requests(hub, "lead", list(shares), question)
            lines.append(" | ".join(reply.data for reply in answers.results))
            lines += [f"  {failed.item} passes: {failed.error.__cause__}" for failed in answers.errors]
            if whole.remaining["tokens"] < THOUGHT["tokens"]:
                lines.append("the team has spent its tokens")
                break
    return lines


async def main() -> None:
    whole = Budget({"tokens": 170, "calls": 20})
    shares = {
        "scout": Budget({"tokens": 100, "calls": 2}, parent=whole),
        "critic": Budget({"tokens": 100}, parent=whole),
        "writer": Budget({"tokens": 60}, parent=whole),
    }
    async with open_server(Models().app) as url, httpx2.AsyncClient(base_url=url, trust_env=False) as client:

        async def ask(text: str) -> Said:
            body = {"model": "small", "messages": [{"role": "user", "content": text}]}
            answer = (await client.post("/v1/chat/completions", json=body)).raise_for_status().json()
            return Said(answer["choices"][0]["message"]["content"], answer["usage"]["total_tokens"])

        print(*await work(ask, whole, shares, ["what is new?", "is it so?", "say it", "shorter"]), sep="\n")
    for name, budget in {"team": whole, **shares}.items():
        print(f"{name}: {budget!r}")


if __name__ == "__main__":
    trio.run(main)
