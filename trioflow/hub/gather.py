"""Sends one request to several agents concurrently."""

from collections.abc import Iterable
from typing import Any

import trio

from trioflow._runtime.errors import ErrorCollector
from trioflow.config.checks import check_in_trio, check_instance, check_seconds, check_text
from trioflow.errors import ConfigError, HubError
from trioflow.hub.hub import Hub
from trioflow.hub.message import Message
from trioflow.outcomes import ParallelResult, TaskError

__all__ = ("gather_requests",)

AT_ONCE = 50
"""Requests started between checkpoints."""


@trio.lowlevel.enable_ki_protection
async def gather_requests(
    hub: Hub,
    sender: str,
    recipients: Iterable[str],
    data: Any = None,
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - as that of `Hub.request`
) -> ParallelResult[str, Message]:
    """Request an answer from all `recipients` concurrently, and return answers and errors in their order.

    An agent that fails, does not answer in time or does not exist does not affect the others: its `HubError` is in
    `errors` of the result, and is not raised.

    Args:
        hub: the hub of the agents.
        sender: the sender's name.
        recipients: the agents' names; one that is named twice gets two requests.
        data: the payload.
        timeout: seconds to wait for each answer; None is the hub's.

    Raises:
        ConfigError: an argument is invalid.
        HubClosedError: the hub's block has been left.

    Cancellation: passes through; unanswered requests are withdrawn.
    """
    check_in_trio()
    await trio.lowlevel.checkpoint()
    check_instance("hub", hub, Hub)
    check_seconds("timeout", timeout)
    check_text("sender", sender)
    names = _names(recipients)
    hub._check_open()  # noqa: SLF001 - as the methods of the hub do
    ends: list[Message | HubError | None] = [None] * len(names)
    errors = ErrorCollector()

    async def ask(index: int) -> None:
        try:
            ends[index] = await hub.request(sender, names[index], data, timeout=timeout)
        except HubError as error:
            ends[index] = error

    with errors.collecting(unwrap=True):
        async with trio.open_nursery() as nursery:
            for index, name in enumerate(names):
                nursery.start_soon(ask, index, name=f"trioflow request to {name}")
                if not (index + 1) % AT_ONCE:
                    await trio.lowlevel.checkpoint()
    errors.raise_worst()
    answered = [(index, end) for index, end in enumerate(ends) if isinstance(end, Message)]
    failed = [(index, end) for index, end in enumerate(ends) if isinstance(end, HubError)]
    # The traceback of an error refers to a frame of `ask`, which refers to the list.
    ends.clear()
    return ParallelResult(
        results=[answer for _, answer in answered],
        indices=[index for index, _ in answered],
        errors=[TaskError(index, names[index], error, 1) for index, error in failed],
        unfinished=[],
        total=len(names),
    )


def _names(recipients: object) -> list[str]:
    if isinstance(recipients, str) or not isinstance(recipients, Iterable):
        raise ConfigError.refusing("recipients", recipients, "names of agents")
    return list(recipients)
