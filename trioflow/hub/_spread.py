"""What goes to many, without holding up the others: some at a time, and on to the last once it has begun."""

from time import thread_time

import trio
from msgspec.structs import replace

from trioflow.hub._agent import Agent
from trioflow.hub._state import HubState
from trioflow.hub.message import Message, new_id

AT_ONCE = 0.004
"""Seconds of processor time that it may take before others run; handling the messages takes as long again."""

SPAWNED_AT_ONCE = 80
"""Tasks that it may start before others run; the first turn of a new task takes five times that of an old one."""


async def spread(state: HubState, first: Message, agents: list[Agent]) -> int:
    """Deliver to all of `agents` but the sender that have room; return how many they were.

    Others run in between, and agents that go then are passed by.

    Cancellation: not noticed.
    """
    delivered = 0
    rest, most = thread_time() + AT_ONCE, state.spawned + SPAWNED_AT_ONCE
    for number, agent in enumerate(agents):
        # To ask the time costs a twentieth of a message.
        if not number & 15 and (thread_time() > rest or state.spawned > most):
            await trio.lowlevel.cancel_shielded_checkpoint()
            rest, most = thread_time() + AT_ONCE, state.spawned + SPAWNED_AT_ONCE
        if agent.name == first.sender or not agent.accepting:
            continue
        # A quarter of the time that making it anew takes.
        message = replace(first, id=new_id(), recipient=agent.name, headers=first.headers.copy())
        if agent.offer(message):
            delivered += 1
        else:
            agent.refuse(message)
    return delivered
