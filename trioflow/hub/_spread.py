"""Delivery to many agents without blocking the event loop: in batches, and to the last one once started."""

from time import thread_time

import trio
from msgspec.structs import replace

from trioflow.hub._agent import Agent
from trioflow.hub._state import HubState
from trioflow.hub.message import Message, new_id

AT_ONCE = 0.004
"""Seconds of processor time between checkpoints; handling the messages takes as long again."""

SPAWNED_AT_ONCE = 80
"""Tasks started between checkpoints; the first turn of a new task takes five times as long as later ones."""


async def spread(state: HubState, first: Message, agents: list[Agent]) -> int:
    """Deliver to all of `agents` that have room, except the sender; return the number delivered.

    Other tasks run in between, and agents that leave meanwhile are skipped.

    Cancellation: shielded.
    """
    delivered = 0
    rest, most = thread_time() + AT_ONCE, state.spawned + SPAWNED_AT_ONCE
    for number, agent in enumerate(agents):
        # Reading the clock costs a twentieth of a message.
        if not number & 15 and (thread_time() > rest or state.spawned > most):
            await trio.lowlevel.cancel_shielded_checkpoint()
            rest, most = thread_time() + AT_ONCE, state.spawned + SPAWNED_AT_ONCE
        if agent.name == first.sender or not agent.accepting:
            continue
        # Takes a quarter of the time of creating a new message.
        message = replace(first, id=new_id(), recipient=agent.name, headers=first.headers.copy())
        if agent.offer(message):
            delivered += 1
        else:
            agent.refuse(message)
    return delivered
