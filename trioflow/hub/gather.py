"""Ask several agents the same, at the same time."""

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
"""Requests that are begun without letting others run."""


@trio.lowlevel.enable_ki_protection
async def gather_requests(
    hub: Hub,
    sender: str,
    recipients: Iterable[str],
    data: Any = None,
    *,
    timeout: float | None = None,  # noqa: ASYNC109 - as that of `Hub.request`
) -> ParallelResult[str, Message]:
    """Ask all of `recipients` at once, and return their answers in this order, with the failures beside them.

    An agent that fails, does not answer in time or is not there costs nobody else: the result has its `HubError`
    in `errors`, and raises nothing.

    Args:
        hub: what they are on.
        sender: who asks.
        recipients: who is asked; one that is named twice is asked twice.
        data: what they are asked.
        timeout: seconds for each answer; None is the hub's.

    Raises:
        ConfigError: an argument cannot work.
        HubClosedError: the block of the hub has been left.

    Cancellation: passes through; what was not answered is withdrawn.
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
    # The traceback of an error leads to a frame of `ask`, which holds the list.
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
